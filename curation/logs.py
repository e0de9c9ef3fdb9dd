"""Structured logs: readable lines or JSON, with dates in UTC and the ids of the work in progress.

Modules log through the standard library; structlog formats all records, those of Celery, uvicorn
and SQLAlchemy too. Ids of a block of work are bound by `log_context`, those of one record are given
as `extra`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from curation.text import escape_control_characters

MAX_FIELD_CHARACTERS = 8_000
"""Longest text of one field, so that a huge error cannot fill a disk."""

MASK = "***"
MIN_HIDDEN_CHARACTERS = 8

# A password in an address, and the value of a parameter that grants access.
_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_PARAMETER = re.compile(
    r"(?i)\b((?:[\w-]*(?:token|secret|password|signature|credential)|sign)\s*[=:]\s*)"
    r"(?!\*\*\*)[^\s&\"',;)]+"
)

_FIRST_FIELDS = ("timestamp", "level", "logger", "event")


def configure_logging(
    log_format: str,
    level: str,
    *,
    secrets: Collection[str] = (),
    fields: Mapping[str, Any] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Format all records of this process, and write them to one stream.

    Args:
        log_format: "text" for readable lines, "json" for one JSON object a line.
        level: Lowest level that is written: debug, info, warning or error.
        secrets: Texts that are replaced by `***` wherever they occur.
        fields: Fields of every record, such as the worker's id.
        stream: The stream; stderr when None.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_formatter(log_format, secrets, fields or {}))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Below warnings these describe their own machinery at every message and request.
    for name in ("amqp", "botocore", "boto3", "celery", "kombu", "urllib3", "httpx", "PIL"):
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(True)


@contextmanager
def logging_to(
    stream: TextIO, logger: str, log_format: str, level: str, secrets: Collection[str] = ()
) -> Iterator[None]:
    """Also write the records of one logger to a stream while the block runs.

    Args:
        stream: The stream.
        logger: Name of the logger.
        log_format: "text" or "json".
        level: Lowest level that is written.
        secrets: Texts that are replaced by `***`.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(log_format, secrets, {}))
    handler.setLevel(level.upper())
    named = logging.getLogger(logger)
    before = named.level
    named.addHandler(handler)
    named.setLevel(min(handler.level, before or handler.level))
    try:
        yield
    finally:
        named.removeHandler(handler)
        named.setLevel(before)


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Add fields to every record of this thread or request while the block runs."""
    with structlog.contextvars.bound_contextvars(**fields):
        yield


def _formatter(
    log_format: str, secrets: Collection[str], fields: Mapping[str, Any]
) -> structlog.stdlib.ProcessorFormatter:
    hidden = _worth_hiding(secrets)

    def add_fields(_: WrappedLogger, __: str, record: EventDict) -> EventDict:
        return {**fields, **record}

    def protect(_: WrappedLogger, __: str, record: EventDict) -> EventDict:
        own = ("timestamp", "level", "logger")
        return {
            name: value if name in own else _without_secrets(value, hidden)
            for name, value in record.items()
        }

    return structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            add_fields,
            protect,
            # Escaped to ASCII, JSON cannot hold a control character or a change of direction.
            structlog.processors.JSONRenderer(default=str) if log_format == "json" else _as_line,
        ]
    )


def mask_secrets(text: str, secrets: Collection[str]) -> str:
    """Return a text without secrets, passwords in URLs and values of secret parameters."""
    return str(_without_secrets(text, _worth_hiding(secrets)))


def _worth_hiding(secrets: Collection[str]) -> list[str]:
    # Shorter ones would also hide ordinary words; the password of an address is always hidden.
    long = (secret for secret in secrets if len(secret) >= MIN_HIDDEN_CHARACTERS)
    return sorted(long, key=len, reverse=True)


def _without_secrets(value: Any, hidden: Collection[str]) -> Any:
    if not isinstance(value, str):
        return value
    for secret in hidden:
        value = value.replace(secret, MASK)
    value = _PASSWORD.sub(rf"\1{MASK}@", value[:MAX_FIELD_CHARACTERS])
    return _PARAMETER.sub(rf"\1{MASK}", value)


def _as_line(_: WrappedLogger, __: str, record: EventDict) -> str:
    """Return a record as text; continuation lines are indented and cannot imitate a record."""
    exception = record.pop("exception", None)
    head = f"{record['timestamp']} {record['level'].upper()} {record['logger']}: {record['event']}"
    rest = [f"{name}={value}" for name, value in record.items() if name not in _FIRST_FIELDS]
    text = " ".join([head, *rest])
    if exception:
        text = f"{text}\n{exception}"
    return escape_control_characters(text).replace("\n", "\n    ")
