"""Every setting, read from the environment here and nowhere else; each has an embedded default."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import secrets
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from curation.errors import LayerloopError, Refused
from curation.image_limits import MEGAPIXEL, Limits

EMBEDDED = "embedded"
PREFIX = "LAYERLOOP_"
NOT_SETTINGS = ("LAYERLOOP_TEST_", "LAYERLOOP_TRACEBACK")
"""Variables with our prefix that are no settings: those of the tests, and the one that prints tracebacks."""
LEAST_SECRET = 32
"""Characters of the secret that signs sessions and addresses."""
OTHERS = 0o077
"""The bits of a file's mode that concern everybody but its owner."""


class Settings(BaseSettings):
    """A handful of addresses; outgrowing one machine means changing these lines and nothing else."""

    model_config = SettingsConfigDict(env_prefix="LAYERLOOP_", frozen=True)

    home: Path = Field(
        Path(".home"), description="folder of everything embedded: database, objects, runs, logs"
    )
    database: str = Field(EMBEDDED, description="postgresql://... or 'embedded'")
    objects: str = Field(EMBEDDED, description="s3://bucket/prefix, file:///folder or 'embedded'")
    objects_endpoint: str | None = Field(
        None, description="address of an S3 server other than Amazon's"
    )
    queue: str = Field(
        EMBEDDED, description="amqp://..., redis://... or 'embedded' (PGMQ in the database)"
    )
    desk: str = Field(
        "pages", description="where people look: 'pages', or also label-studio+http://host:port"
    )
    desk_token: SecretStr | None = Field(
        None, description="token of that desk: a legacy or a personal access token"
    )
    desk_board_size: int = Field(
        10_000, ge=1, description="candidates in one project there; large rounds get several"
    )
    address: str | None = Field(
        None,
        description="where browsers and that desk reach the API; http://host:port when not given",
    )
    generator: str = Field(
        "training.generate:open_generator", description="dotted name of an OpenGenerator"
    )
    trainer: str = Field("training.train:train", description="dotted name of a Trainer")
    evaluator: str = Field(
        "training.evaluation.full:measure", description="dotted name of an Evaluator"
    )
    comparer: str = Field(
        "training.matting.comparison:draw_beside", description="dotted name of a MattingComparer"
    )
    estimator: str = Field(
        "training.memory_estimate:estimate", description="dotted name of a MemoryEstimator"
    )
    captioner: str = Field(
        "training.captioning:open_captioner", description="dotted name of an OpenCaptioner"
    )
    reader: str = Field(
        "training.prompt_coverage:read_texts", description="dotted name of a ReadTexts"
    )
    writer: str = Field(
        "training.text_generation:open_writer", description="dotted name of an OpenTextGenerator"
    )
    writer_key: SecretStr | None = Field(
        None, description="key for a server of language models (prompts make --address)"
    )
    importer: str = Field(
        "training.interop.import_checkpoint:take_in",
        description="dotted name of a CheckpointImporter",
    )
    styler: str = Field(
        "training.pipelines.loras:add_styles", description="dotted name of an AddLoras"
    )
    exporter: str = Field(
        "training.interop.export_checkpoint:give_out",
        description="dotted name of a CheckpointExporter",
    )
    embedder: str = Field(
        "curation.screening.embedding:open_embedder", description="dotted name of an OpenEmbedder"
    )
    embedder_model: str | None = Field(
        None, description="its weights: a CLIP or DINO by hub name or folder"
    )
    aesthetic: Path | None = Field(
        None, description="LAION's linear aesthetic head, as safetensors, for that CLIP"
    )
    pages: str = Field(
        "annotator_ui.app:mount", description="dotted name of what mounts the pages on the API"
    )
    host: str = Field(
        "127.0.0.1", description="address the API listens on; loopback unless told otherwise"
    )
    port: int = Field(8765, ge=0, le=65_535, description="port of the API; 0 takes a free one")
    trusted_proxies: str = Field(
        "",
        description="addresses or networks of proxies, comma separated, whose X-Forwarded-For is believed",
    )
    secret: SecretStr | None = Field(
        None, description="signs sessions; made and kept in the home when not given"
    )
    lease_seconds: int = Field(
        60, ge=1, description="how long a worker holds what it has claimed without a sign"
    )
    review_lease_seconds: int = Field(300, ge=1, description="how long a reviewer holds a tray")
    image_megapixels: float = Field(
        40,
        gt=0,
        le=268,
        description="largest image that is read, in millions of pixels; a decoder's memory follows",
    )
    image_aspect: float = Field(
        16, ge=1, description="longest side of an imported image, in multiples of the shorter"
    )
    image_megabytes: int = Field(
        64, ge=1, le=1024, description="largest file of an image that is read, in MiB"
    )
    session_hours: int = Field(12, ge=1, description="how long a sign-in lasts")

    @field_validator("database", "queue", "objects", "objects_endpoint", "address")
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        """Refuse what is neither 'embedded' nor an address with a scheme and, where it names a port, a possible one."""
        if value is None or value == EMBEDDED:
            return value
        split = urlsplit(value)
        if not split.scheme or "://" not in value:
            raise ValueError("it is no address")
        split.port  # noqa: B018 - raises ValueError for a port that cannot be
        return value

    @field_validator("database")
    @classmethod
    def _check_database(cls, value: str) -> str:
        if value != EMBEDDED and not value.startswith("postgres"):
            raise ValueError("it is no address of PostgreSQL")
        return value

    def exists(self) -> bool:
        """Return whether there is an instance: an embedded database that was begun, or another server's."""
        return not self.embedded or (self.home / "postgres").is_dir()

    @property
    def embedded(self) -> bool:
        """Whether the database is ours to start and stop."""
        return self.database == EMBEDDED

    @property
    def image_limits(self) -> Limits:
        """What one image of people's may ask for."""
        return Limits(
            self.image_megabytes << 20,
            round(self.image_megapixels * MEGAPIXEL),
            aspect=self.image_aspect,
        )

    @property
    def public_address(self) -> str:
        """Where browsers reach the API."""
        return (self.address or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def other_desk(self) -> str | None:
        """The address of the desk of other software, without its kind; None where people look at the pages alone."""
        return None if self.desk == "pages" else self.desk.partition("+")[2].rstrip("/")

    def path(self, name: str) -> Path:
        """A folder of the home, made if need be, as an absolute path. Raises Refused where it cannot be made."""
        try:
            home = self.home.resolve()
            if not home.is_dir():
                home.parent.mkdir(parents=True, exist_ok=True)
                home.mkdir(mode=0o700, exist_ok=True)  # what lies in it is for its owner alone
            folder = home / name
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
            reason = getattr(error, "strerror", None) or str(error)
            raise Refused(
                f"the home {self.home} cannot be used: {reason}",
                "name a folder of yours with --home or LAYERLOOP_HOME",
            ) from error
        return folder

    def environment(self) -> dict[str, str]:
        """This process's environment with these settings in it, for the processes that it starts."""
        given = {
            f"LAYERLOOP_{name.upper()}": str(value)
            for name, value in self.model_dump(exclude_none=True).items()
        }
        for name, secret in (
            ("SECRET", self.secret),
            ("WRITER_KEY", self.writer_key),
            ("DESK_TOKEN", self.desk_token),
        ):
            if secret is not None:
                given[f"LAYERLOOP_{name}"] = secret.get_secret_value()
        return dict(os.environ) | given | {"LAYERLOOP_HOME": str(self.home.resolve())}

    @staticmethod
    def calm_libraries() -> None:
        """Let waiting threads of libgomp sleep soon, and transformers be still; to be called before torch is loaded.

        By default they spin for milliseconds, and where the cores are shared the training rate then falls to a tenth
        (training/LOG.md). And transformers tells at every start that it misses torchvision, which nothing needs.
        """
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    def signing_secret(self) -> str:
        """Return the given secret, or one drawn once and kept in the home for its owner alone.

        Raises:
            LayerloopError: The secret is too short, or others may have read the file that keeps it.
        """
        if self.secret is not None:
            return _long_enough(self.secret.get_secret_value(), "LAYERLOOP_SECRET")
        file = self.path(".") / "secret"
        if not file.exists():
            handle, draft = tempfile.mkstemp(dir=file.parent)  # readable for its owner alone
            with os.fdopen(handle, "w") as out:
                out.write(secrets.token_urlsafe(32))
            # A link appears whole and only once: of two processes that draw at once, one wins and both read its secret.
            with contextlib.suppress(FileExistsError):
                file.hardlink_to(draft)
            Path(draft).unlink()
        if file.stat().st_mode & OTHERS:
            raise LayerloopError(
                f"others may have read {file}, with which sessions are signed",
                f"remove it, and everybody signs in again; or, if nobody has read it: chmod 600 {file}",
            )
        return _long_enough(file.read_text(), str(file))


def read_settings(**given: object) -> Settings:
    """Read the settings from the environment, with `given` values in place of its own. Raises Refused by name."""
    try:
        return Settings(**given)  # type: ignore[arg-type]  # each is checked by pydantic
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        field = Settings.model_fields.get(name)
        secret = field is not None and "SecretStr" in str(field.annotation)
        shown = (
            "" if secret else f" ({re.sub(r'//[^@/]*@', '//...@', repr(first['input']))})"
        )  # no password
        reason = first["msg"].removeprefix("Value error, ")
        raise Refused(
            f"{PREFIX}{name.upper()}{shown} cannot be used: {reason}",
            f"it is the {field.description}" if field else "the README lists the settings",
        ) from error


def wants_traceback() -> bool:
    """Return whether LAYERLOOP_TRACEBACK asks for tracebacks on stderr instead of in a file."""
    return bool(os.environ.get("LAYERLOOP_TRACEBACK"))


def unknown_settings() -> list[tuple[str, str | None]]:
    """Return variables of the environment that look like settings and are none, each with the nearest name."""
    known = [name.upper() for name in Settings.model_fields]
    found = []
    for name in sorted(os.environ):
        upper = name.upper()
        rest = upper.removeprefix(PREFIX)
        if upper.startswith(PREFIX) and rest not in known and not upper.startswith(NOT_SETTINGS):
            nearest = difflib.get_close_matches(rest, known, n=1, cutoff=0.6)
            found.append((name, f"{PREFIX}{nearest[0]}" if nearest else None))
    return found


def _long_enough(secret: str, name: str) -> str:
    if len(secret) < LEAST_SECRET:
        raise LayerloopError(
            f"the secret in {name} has {len(secret)} characters: whoever guesses it can sign in as anybody",
            f"give it {LEAST_SECRET} or more, as from: openssl rand -hex 32",
        )
    return secret
