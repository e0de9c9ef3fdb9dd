"""Client of language model servers that speak the OpenAI chat completions protocol."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from typing import Any

import httpx

from curation.errors import Refused, Unreachable

TRIES = 5
LONGEST_PAUSE = 120.0
TIMEOUT = httpx.Timeout(600, connect=10)
"""A small machine may write for minutes; that it is there shows at once."""

BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Answers that say: come again."""


class ChatServer:
    """A Writer at an address such as http://127.0.0.1:8000/v1; the key is sent to that address alone."""

    def __init__(
        self,
        address: str,
        model: str,
        key: str | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises Refused for an address of another kind."""
        if not address.startswith(("http://", "https://")):
            raise Refused(
                f"{address!r} is no address of a server", "it looks like http://127.0.0.1:8000/v1"
            )
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._address, self._model, self._pause = (
            address.rstrip("/") + "/chat/completions",
            model,
            pause,
        )
        self.source = model

    def write(self, question: str, tokens: int, seed: int) -> str:
        """What the model answers, "" where it declines. Servers may ignore the seed.

        A busy server is asked again, after as long as it says (Retry-After) or after 1, 2, 4 .. seconds. Raises
        Unreachable after TRIES, Refused where it will not answer.
        """
        asked = {
            "model": self._model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": tokens,
            "seed": seed,
            "temperature": 1.0,
        }
        said = ""
        for attempt in range(TRIES):
            try:
                answer = httpx.post(
                    self._address, json=asked, headers=self._headers, timeout=TIMEOUT
                )
            except httpx.TransportError as error:
                said, wait = f"{type(error).__name__}: {error}", None
            else:
                if answer.status_code not in BUSY:
                    text = self._read(answer)
                    if text is not None:
                        return text
                said, wait = _complaint(answer), _retry_after(answer)
            if attempt + 1 < TRIES:
                self._pause(min(LONGEST_PAUSE, 2.0**attempt if wait is None else wait))
        hint = "the same command goes on where it stopped, once it answers"
        raise Unreachable(f"{self._address} did not answer in {TRIES} tries: {said}", hint)

    def _read(self, answer: httpx.Response) -> str | None:
        """The text of an answer; None where it is no answer of such a server. Raises Refused."""
        if answer.status_code in {401, 403}:
            raise Refused(f"{self._address} refused the key", "give it in LAYERLOOP_WRITER_KEY")
        if answer.is_client_error or answer.is_redirect:
            raise Refused(
                f"{self._address} refused: {_complaint(answer)}",
                "are its address and the model's name right?",
            )
        try:
            message: Any = answer.json()["choices"][0]["message"]
            content = message["content"]
        except (ValueError, LookupError, TypeError):
            return None
        return content if isinstance(content, str) else ""


def _complaint(answer: httpx.Response) -> str:
    """What a server said in a few words: its own message where it has one."""
    try:
        told = answer.json()["error"]
        message = told["message"] if isinstance(told, dict) else told
    except (ValueError, LookupError, TypeError):
        message = f"no answer of such a server: {answer.text.strip()[:100]!r}"
    return f"{answer.status_code}, {' '.join(str(message).split())[:200]}"


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds to wait: a number, or a date (RFC 9110, section 10.2.3)."""
    told = answer.headers.get("Retry-After")
    if told is None:
        return None
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return None
