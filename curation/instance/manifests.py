"""Manifests to run an instance on more machines: Kubernetes with KEDA, and SkyPilot."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import jinja2

from curation.errors import Refused
from curation.settings import Settings
from curation.storage_settings import EMBEDDED

METRICS_PORT = 9100

SECRETS = (
    "LAYERLOOP_DATABASE_PASSWORD",
    "LAYERLOOP_QUEUE_PASSWORD",
    "LAYERLOOP_METRICS_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
)
"""Variables with secrets: manifests contain their names, never their values."""

# Waiting and running work: without the latter an autoscaler would stop busy workers. Each count
# uses partial indexes, and stops at a number that exceeds the work of the largest fleet.
GPU_QUERY = (
    "select (select count(*) from (select 1 from candidates c join rounds r on r.id = c.round_id "
    "where r.state = 'open' and c.state in ('requested', 'generating') limit 20000) as waiting) "
    "+ 64 * (select count(*) from training_runs where state in ('requested', 'running')) "
    "+ 64 * (select count(*) from caption_runs where state in ('requested', 'running'))"
)
CPU_QUERY = (
    "select count(*) from (select 1 from candidates c join rounds r on r.id = c.round_id "
    "where r.state = 'open' and c.state = 'generated' limit 100000) as waiting"
)

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IMAGES = re.compile(r"[a-z0-9][a-z0-9._:/-]*[/-]")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_ACCELERATORS = re.compile(r"[A-Za-z0-9-]+:[0-9]+")


def render_kubernetes(
    settings: Settings,
    *,
    namespace: str,
    images: str,
    tag: str,
    admin: str,
    max_gpu_workers: int,
    max_cpu_workers: int,
) -> str:
    """Return the manifests for Kubernetes as YAML.

    Args:
        settings: The settings of an instance on servers.
        namespace: The namespace.
        images: Prefix of the images' names, such as "registry.example.org/layerloop-".
        tag: Tag of the images.
        admin: Name of the first administrator.
        max_gpu_workers: Largest number of gpu workers.
        max_cpu_workers: Largest number of cpu workers.

    Raises:
        Refused: The instance is not on servers, or a name is invalid.
    """
    _check({namespace: _NAME, admin: _NAME, images: _IMAGES, tag: _TAG})
    workers = [
        {"queue": "cpu", "gpu": False, "fewest": 1, "most": max_cpu_workers, "each": 500,
         "query": CPU_QUERY},
        {"queue": "gpu", "gpu": True, "fewest": 0, "most": max_gpu_workers, "each": 64,
         "query": GPU_QUERY},
    ]  # fmt: skip
    return _render(
        "kubernetes.yaml",
        namespace=namespace,
        images=images,
        tag=tag,
        admin=admin,
        workers=workers,
        database=_database(settings),
        environment=server_environment(settings),
        secrets=SECRETS,
    )


def render_skypilot(
    settings: Settings, *, images: str, tag: str, accelerators: str, spot: bool, machines: int = 1
) -> str:
    """Return the task of a gpu worker, or of a training on several machines, for SkyPilot as YAML.

    Args:
        settings: The settings of an instance on servers.
        images: Prefix of the images' names.
        tag: Tag of the images.
        accelerators: Kind and number of accelerators, such as "L4:1".
        spot: Whether to use spot machines.
        machines: Number of machines that train one run together.

    Raises:
        Refused: The instance is not on servers, or a name is invalid.
    """
    _check({images: _IMAGES, tag: _TAG, accelerators: _ACCELERATORS})
    return _render(
        "skypilot.yaml",
        images=images,
        tag=tag,
        accelerators=accelerators,
        spot=spot,
        nodes=machines,
        environment=server_environment(settings),
        secrets=SECRETS,
    )


def server_environment(settings: Settings) -> dict[str, str]:
    """Return the variables of an instance on servers, without any secret.

    Raises:
        Refused: A part of the instance is embedded.
    """
    embedded = [name for name in ("database", "storage") if getattr(settings, name) == EMBEDDED]
    if embedded or settings.storage.startswith("file:"):
        raise Refused(
            f"other machines cannot reach the {' and '.join(embedded) or 'storage'} of this home",
            "move the instance to servers first: layerloop instance move",
        )
    values = {
        "LAYERLOOP_DATABASE": _without_password(settings.database),
        "LAYERLOOP_STORAGE": settings.storage,
        "LAYERLOOP_STORAGE_ENDPOINT": settings.storage_endpoint or "",
        "LAYERLOOP_QUEUE": _without_password(settings.queue),
        "LAYERLOOP_PUBLIC_URL": settings.public_address,
        "LAYERLOOP_LABELING": settings.labeling,
        "LAYERLOOP_LOG_FORMAT": "json",
        "LAYERLOOP_METRICS_HOST": "0.0.0.0",  # noqa: S104  # inside of a container
        "LAYERLOOP_METRICS_PORT": str(METRICS_PORT),
    }
    return {name: value for name, value in values.items() if value}


def _database(settings: Settings) -> dict[str, Any]:
    split = urlsplit(settings.database)
    return {
        "host": split.hostname or "",
        "port": split.port or 5432,
        "user": unquote(split.username or ""),
        "name": unquote(split.path.lstrip("/")),
        "sslmode": parse_qs(split.query).get("sslmode", ["prefer"])[0],
    }


def _without_password(address: str) -> str:
    if "://" not in address:
        return address
    split = urlsplit(address)
    user, at, host = split.netloc.rpartition("@")
    return urlunsplit(split._replace(netloc=f"{user.partition(':')[0]}{at}{host}"))


def _check(given: dict[str, re.Pattern[str]]) -> None:
    for value, pattern in given.items():
        if not pattern.fullmatch(value):
            raise Refused(
                f"{value!r} cannot be used in a manifest", f"it must match {pattern.pattern}"
            )


def _render(name: str, **values: object) -> str:
    template = (resources.files("curation.instance") / "templates" / name).read_text("utf-8")
    # YAML, not HTML: values are checked names, or JSON strings.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
    )
    environment.filters["tojson"] = _as_json
    return environment.from_string(template).render(**values) + "\n"


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
