"""All settings, read from the environment; every setting has a default."""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from curation.access_settings import AccessSettings
from curation.credentials import check_length, read_or_create_secret, with_password
from curation.errors import Refused
from curation.image_limits import MEGAPIXEL, ImageLimits
from curation.storage_settings import EMBEDDED, StorageSettings

PREFIX = "LAYERLOOP_"
NOT_SETTINGS = ("LAYERLOOP_TEST_", "LAYERLOOP_TRACEBACK")
"""Variables with the prefix that are not settings: for tests, and to print tracebacks."""


class Settings(AccessSettings, StorageSettings):
    """The settings of one installation; moving to several machines changes only these."""

    model_config = SettingsConfigDict(env_prefix="LAYERLOOP_", frozen=True)

    home: Path = Field(
        Path(".home"), description="folder of everything embedded: database, objects, runs, logs"
    )
    database: str = Field(EMBEDDED, description="postgresql://... or 'embedded'")
    database_password: SecretStr | None = Field(
        None, description="password of the database, in plain text; used if its URL has none"
    )
    queue: str = Field(
        EMBEDDED, description="amqp://..., redis://... or 'embedded' (PGMQ in the database)"
    )
    queue_password: SecretStr | None = Field(
        None, description="password of the queue's server, in plain text; used if its URL has none"
    )
    labeling: str = Field(
        "pages", description="where people review: 'pages', or also label-studio+http://host:port"
    )
    labeling_token: SecretStr | None = Field(
        None, description="token for Label Studio: a legacy or a personal access token"
    )
    labeling_project_size: int = Field(
        10_000,
        ge=1,
        description="candidates in one Label Studio project; large rounds have several",
    )
    generator: str = Field(
        "training.generate:load_generator", description="dotted name of an OpenGenerator"
    )
    trainer: str = Field("training.train:train", description="dotted name of a Trainer")
    evaluator: str = Field(
        "training.evaluation.full:evaluate_fully", description="dotted name of an Evaluator"
    )
    comparer: str = Field(
        "training.matting.comparison:compare_with_matting",
        description="dotted name of a MattingComparer",
    )
    estimator: str = Field(
        "training.memory_estimate:estimate", description="dotted name of a MemoryEstimator"
    )
    captioner: str = Field(
        "training.captioning:load_captioner", description="dotted name of an OpenCaptioner"
    )
    text_reader: str = Field(
        "training.prompt_coverage:measure_coverage", description="dotted name of a ReadTexts"
    )
    llm: str = Field(
        "training.text_generation:load_language_model",
        description="dotted name of an OpenTextGenerator",
    )
    llm_key: SecretStr | None = Field(
        None, description="API key of a language model server (prompts generate --address)"
    )
    importer: str = Field(
        "training.interop.import_checkpoint:import_checkpoint",
        description="dotted name of a CheckpointImporter",
    )
    lora_loader: str = Field(
        "training.pipelines.loras:add_loras", description="dotted name of an AddLoras"
    )
    exporter: str = Field(
        "training.interop.export_checkpoint:export_checkpoint",
        description="dotted name of a CheckpointExporter",
    )
    embedder: str = Field(
        "curation.screening.embedding:open_embedder", description="dotted name of an OpenEmbedder"
    )
    embedder_model: str | None = Field(
        None, description="weights of the embedder: a CLIP or DINO by hub name or folder"
    )
    aesthetic: Path | None = Field(
        None, description="LAION's linear aesthetic predictor for that CLIP, as safetensors"
    )
    content_certificate: Path | None = Field(
        None, description="certificate chain (PEM) for Content Credentials of generated images"
    )
    content_key: Path | None = Field(
        None, description="private key (PEM) of that certificate; it is read, and never logged"
    )
    front_end: str = Field(
        "annotator_ui.app:mount",
        description="dotted name of the function that mounts the front end on the API",
    )
    host: str = Field("127.0.0.1", description="address that the API listens on")
    port: int = Field(8765, ge=0, le=65_535, description="port of the API; 0 takes a free port")
    trusted_proxies: str = Field(
        "",
        description=(
            "addresses or networks, comma separated, of proxies whose X-Forwarded-For is trusted"
        ),
    )
    secret: SecretStr | None = Field(
        None,
        description=(
            "secret that signs sessions and URLs, the same for all processes; when not set it is "
            "generated and kept in the home, or in the database of a server"
        ),
    )
    lease_seconds: int = Field(
        60, ge=1, description="seconds after which a worker's claims expire without a heartbeat"
    )
    train_processes: int = Field(
        0, ge=0, description="training processes on this machine; 0 takes the preset's number"
    )
    train_machines: int = Field(
        1, ge=1, description="machines that train one run together; equal on all of them"
    )
    train_endpoint: str | None = Field(
        None, description="host:port of the first training machine, where the others meet it"
    )
    train_join_seconds: int = Field(
        600, ge=1, description="seconds that training machines wait for each other"
    )
    run_states_kept: int = Field(
        2, ge=1, description="saved states of a training stage kept in the object store"
    )
    run_states_every_images: int = Field(
        0, ge=0, description="also keep one saved state per so many images; 0 keeps no more"
    )
    review_lease_seconds: int = Field(
        300, ge=1, description="seconds after which a reviewer's claims expire"
    )
    image_megapixels: float = Field(
        40,
        gt=0,
        le=268,
        description="largest image that is read, in megapixels; sets a decoder's memory limit",
    )
    image_aspect: float = Field(
        16, ge=1, description="largest aspect ratio of an imported image, longer to shorter side"
    )
    image_megabytes: int = Field(
        64, ge=1, le=1024, description="largest image file that is read, in MiB"
    )
    metrics_token: SecretStr | None = Field(
        None,
        min_length=16,
        description=(
            "token that /metrics requires; without one the API has no metrics, and a worker "
            "only on loopback"
        ),
    )
    metrics_host: str = Field(
        "127.0.0.1", description="address that a worker's metrics port listens on"
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="port of a worker's metrics and health; none when not set",
    )
    traces_url: str | None = Field(
        None,
        description="URL of an OpenTelemetry collector (OTLP over HTTP) that gets traces, "
        "such as http://collector:4318",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="format of the logs of API and workers: 'text' lines or 'json'"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged: debug, info, warning or error"
    )

    @model_validator(mode="before")
    @classmethod
    def _add_passwords(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Add the passwords that are settings of their own to the URLs, encoded as URLs need."""
        added = {}
        for name in ("database", "queue"):
            address, password = values.get(name), values.get(f"{name}_password")
            if isinstance(address, str) and password:
                clear = password.get_secret_value() if isinstance(password, SecretStr) else password
                added[name] = with_password(address, str(clear))
        return values | added

    @field_validator(
        "database",
        "queue",
        "storage",
        "storage_endpoint",
        "public_url",
        "traces_url",
        "oidc_issuer",
    )
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        """Accept 'embedded', or a URL with a scheme and, if it has a port, a valid port."""
        if value is None or value == EMBEDDED:
            return value
        split = urlsplit(value)
        if not split.scheme or "://" not in value:
            raise ValueError("it is not a URL")
        split.port  # noqa: B018 - raises ValueError for an invalid port
        return value

    @field_validator("database")
    @classmethod
    def _check_database(cls, value: str) -> str:
        if value != EMBEDDED and not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("it is not the postgresql:// URL of a PostgreSQL database")
        return value

    def exists(self) -> bool:
        """Return whether the installation exists: a started embedded database, or a server's."""
        return not self.embedded or (self.home / "postgres").is_dir()

    @property
    def embedded(self) -> bool:
        """Whether the embedded database server is used, which Layerloop starts and stops."""
        return self.database == EMBEDDED

    @property
    def image_limits(self) -> ImageLimits:
        """The limits on one image that a user imports."""
        return ImageLimits(
            self.image_megabytes << 20,
            round(self.image_megapixels * MEGAPIXEL),
            aspect=self.image_aspect,
        )

    @property
    def public_address(self) -> str:
        """The URL of the API for browsers, without a slash at the end."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def public_origin(self) -> str:
        """The origin (scheme, host and port) of the pages, as browsers send it."""
        split = urlsplit(self.public_address.lower())
        return f"{split.scheme}://{split.netloc}"

    @property
    def public_https(self) -> bool:
        """Whether browsers reach the API by https; the scheme of a request depends on proxies."""
        return self.public_address.lower().startswith("https:")

    @property
    def labeling_url(self) -> str | None:
        """The URL of Label Studio; None if people review only in the built-in front end."""
        return None if self.labeling == "pages" else self.labeling.partition("+")[2].rstrip("/")

    def path(self, name: str) -> Path:
        """Return a folder of the home as an absolute path, and create it if it is missing.

        Args:
            name: The folder's name below the home.

        Raises:
            Refused: The folder cannot be created.
        """
        try:
            home = self.home.resolve()
            if not home.is_dir():
                home.parent.mkdir(parents=True, exist_ok=True)
                home.mkdir(mode=0o700, exist_ok=True)  # its content is private to the owner
            folder = home / name
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
            reason = getattr(error, "strerror", None) or str(error)
            raise Refused(
                f"the home {self.home} cannot be used: {reason}",
                "name a folder that you own with --home or LAYERLOOP_HOME",
            ) from error
        return folder

    def environment(self) -> dict[str, str]:
        """Return this process's environment with these settings, for the processes it starts."""
        given = {
            f"LAYERLOOP_{name.upper()}": json.dumps(value)
            if isinstance(value, dict)
            else str(value)
            for name, value in self.model_dump(exclude_none=True).items()
        }
        # model_dump() masks secrets, so they are added in plain text.
        given |= {f"LAYERLOOP_{name.upper()}": value for name, value in self._secrets().items()}
        return dict(os.environ) | given | {"LAYERLOOP_HOME": str(self.home.resolve())}

    def secret_values(self) -> list[str]:
        """Return every secret of the settings and the store's key, to mask them in logs."""
        addresses = (self.database, self.queue, self.storage_endpoint or "")
        passwords = [urlsplit(address).password for address in addresses if "://" in address]
        words = [*passwords, os.environ.get("AWS_SECRET_ACCESS_KEY")]
        return [*self._secrets().values(), *(unquote(word) for word in words if word)]

    def _secrets(self) -> dict[str, str]:
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value.get_secret_value()
            for name, value in values.items()
            if isinstance(value, SecretStr)
        }

    @staticmethod
    def quiet_third_party() -> None:
        """Configure third-party libraries by environment; call it before torch is loaded."""
        # By default waiting threads of libgomp spin for milliseconds, which reduces the training
        # rate to a tenth where cores are shared (training/LOG.md).
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        # transformers logs at every start that torchvision is missing, which nothing here uses.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    def signing_secret(self) -> str:
        """Return the secret of the settings, or a generated secret that is kept in the home.

        Raises:
            LayerloopError: The secret is too short, or its file is readable for other users.
        """
        if self.secret is not None:
            return check_length(self.secret.get_secret_value(), "LAYERLOOP_SECRET")
        return read_or_create_secret(self.path(".") / "secret")


def read_settings(**given: object) -> Settings:
    """Read the settings from the environment.

    Args:
        **given: Values that replace those of the environment, by the field's name.

    Raises:
        Refused: A value is invalid; the error names the setting.
    """
    try:
        return Settings(**given)  # type: ignore[arg-type]  # each is checked by pydantic
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        field = Settings.model_fields.get(name)
        # Show the invalid value, but neither a secret nor the password in a URL.
        secret = field is not None and "SecretStr" in str(field.annotation)
        shown = "" if secret else f" ({re.sub(r'//[^@/]*@', '//...@', repr(first['input']))})"
        reason = first["msg"].removeprefix("Value error, ")
        raise Refused(
            f"{PREFIX}{name.upper()}{shown} cannot be used: {reason}",
            f"expected: {field.description}"
            if field
            else "docs/reference/settings.md lists the settings",
        ) from error


def traceback_enabled() -> bool:
    """Return whether LAYERLOOP_TRACEBACK sends tracebacks to stderr instead of to a file."""
    return bool(os.environ.get("LAYERLOOP_TRACEBACK"))


def unknown_settings() -> list[tuple[str, str | None]]:
    """Return environment variables with the prefix that are not settings, with the nearest name."""
    known = [name.upper() for name in Settings.model_fields]
    found = []
    for name in sorted(os.environ):
        upper = name.upper()
        rest = upper.removeprefix(PREFIX)
        if upper.startswith(PREFIX) and rest not in known and not upper.startswith(NOT_SETTINGS):
            nearest = difflib.get_close_matches(rest, known, n=1, cutoff=0.6)
            found.append((name, f"{PREFIX}{nearest[0]}" if nearest else None))
    return found
