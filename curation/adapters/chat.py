"""Client of language model servers that speak the OpenAI chat completions protocol."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from typing import Any

import httpx

from curation.errors import Refused, Unreachable

MAX_TRIES = 5
MAX_BACKOFF_SECONDS = 120.0
"""Longest wait between two tries, in seconds."""

TIMEOUT = httpx.Timeout(600, connect=10)
"""Generation may take minutes on a slow machine, but connecting does not."""

RETRY_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Status codes after which the request is repeated."""


class ChatCompletionsClient:
    """A TextGenerator at a URL such as http://127.0.0.1:8000/v1.

    Args:
        address: URL of the API.
        model: Name of the model, as the server knows it.
        key: API key, which is sent only to this URL.
        sleep: Function that waits for a number of seconds.
    """

    def __init__(
        self,
        address: str,
        model: str,
        key: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Store the settings; nothing is sent yet. Raises Refused for an invalid URL."""
        if not address.startswith(("http://", "https://")):
            raise Refused(
                f"{address!r} is not the URL of a server", "use a URL like http://127.0.0.1:8000/v1"
            )
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._address = address.rstrip("/") + "/chat/completions"
        self._model = model
        self._pause = sleep
        self.source = model

    def generate(self, prompt: str, max_tokens: int, seed: int) -> str:
        """Generate an answer; a busy server is tried again.

        The time between tries is the server's Retry-After, or 1, 2, 4 ... seconds.

        Args:
            prompt: The user's message.
            max_tokens: Largest number of tokens in the answer.
            seed: Seed of the sampling, which servers may ignore.

        Returns:
            The answer; empty if the model declines.

        Raises:
            Unreachable: The server did not answer in MAX_TRIES attempts.
            Refused: The server does not accept the request.
        """
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "seed": seed,
            "temperature": 1.0,
        }
        problem = ""
        for attempt in range(MAX_TRIES):
            # Send the request; a lost connection counts as a try.
            try:
                response = httpx.post(
                    self._address, json=body, headers=self._headers, timeout=TIMEOUT
                )
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                wait = None
            else:
                if response.status_code not in RETRY_STATUSES:
                    text = self._read(response)
                    if text is not None:
                        return text
                problem = _error_message(response)
                wait = _retry_after(response)
            # Back off before the next try.
            if attempt + 1 < MAX_TRIES:
                self._pause(min(MAX_BACKOFF_SECONDS, 2.0**attempt if wait is None else wait))
        hint = "repeat the command later; it continues where it stopped"
        raise Unreachable(f"{self._address} did not answer in {MAX_TRIES} tries: {problem}", hint)

    def _read(self, response: httpx.Response) -> str | None:
        """Return the generated text; None if the response is not a chat completion."""
        if response.status_code in {401, 403}:
            raise Refused(f"{self._address} refused the key", "set the key in LAYERLOOP_LLM_KEY")
        if response.is_client_error or response.is_redirect:
            raise Refused(
                f"{self._address} refused: {_error_message(response)}",
                "check the URL and the model's name",
            )
        try:
            message: Any = response.json()["choices"][0]["message"]
            content = message["content"]
        except (ValueError, LookupError, TypeError):
            return None
        return content if isinstance(content, str) else ""


def _error_message(response: httpx.Response) -> str:
    """Return the server's status and error message, shortened."""
    try:
        error = response.json()["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError):
        message = f"not a chat completion: {response.text.strip()[:100]!r}"
    return f"{response.status_code}, {' '.join(str(message).split())[:200]}"


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds to wait, from a number or a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
