"""What a server's answers say."""

from __future__ import annotations

import email.utils
import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np

from crossrank.client.retries import Failure
from crossrank.errors import DeadlineError, InputError, OverloadedError, ServiceError, UnavailableError
from crossrank.explain import ExplainedSentence, Explanation
from crossrank.ranking import Scored

__all__ = ["Answers"]

_logger = logging.getLogger(__name__)

_MIN_ANSWER, _ANSWER_SHARE = 1 << 20, 32
"""An answer may have this many bytes, and this many more for each byte of the request."""


class Answers:
    """Reads the answers of one server.

    Args:
        server: its address, for messages.
        model_is_named: requests name a model, so 404 may mean that the server has no such model.
    """

    def __init__(self, server: str, *, model_is_named: bool) -> None:
        self._server = server
        self._model_is_named = model_is_named
        self._warned: set[str] = set()

    def max_bytes(self, response: httpx.Response) -> int:
        """The largest body that an answer may have, in bytes.

        Raises:
            Failure: it is compressed, although the request asked for no compression.
        """
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise Failure(ServiceError(f"{self._server} gave an answer in the encoding {encoding[:40]!r}"))
        return _MIN_ANSWER + _ANSWER_SHARE * int(response.request.headers.get("content-length", 0))

    def too_large(self, limit: int) -> Failure:
        return Failure(
            ServiceError(f"{self._server} gave an answer of more than {limit} bytes; is it CrossRank?")
        )

    def read(self, response: httpx.Response, content: bytes | bytearray) -> dict[str, Any] | None:
        """The body of a response, or None if the server has no such model.

        Raises:
            Failure: the response is an error.
        """
        status, body = response.status_code, _body(content)
        if status == 200:
            return body
        if status == 404 and self._model_is_named and "error" in body:
            return None
        message = _message(body) or f"{self._server} answered {status} {response.reason_phrase}".strip()
        after = _retry_after(response.headers.get("retry-after"))
        later = 1.0 if after is None else after
        if status == 429:
            raise Failure(OverloadedError(message, later), retryable=True, retry_after=after)
        if status in (502, 503):  # 502: a proxy whose server is restarting
            raise Failure(UnavailableError(message, later), retryable=True, retry_after=after)
        if status in (408, 504):
            raise Failure(DeadlineError(message))
        if status in (400, 413, 422):
            raise Failure(InputError(message))
        if response.is_redirect:
            message = f"{self._server} points to {response.headers.get('location')}; use that address"
        raise Failure(ServiceError(message))

    def scored(self, body: dict[str, Any], count: int) -> Scored:
        """The scores of an answer.

        Raises:
            ServiceError: it has none, or another number of them.
            NonFiniteLogitError: a logit is NaN or infinite.
        """
        try:
            data = sorted(body["data"], key=lambda each: int(each["index"]))
            logits = np.array([float(each["score"]) for each in data], np.float32)
            document_cut, query_cut = (
                [bool(each.get(name)) for each in data] for name in ("truncated", "query_truncated")
            )
            windows = [_window(each.get("window")) for each in data]
            models = [str(each.get("model") or "") for each in data]
        except (LookupError, TypeError, ValueError, AttributeError):
            data = None
        if data is None or [each["index"] for each in data] != list(range(count)):
            raise ServiceError(f"{self._server} gave an answer without {count} scores; is it CrossRank?")
        self._warn(body)
        of_two: dict[str, Any] = {}
        if any(models):
            decides = str(body.get("model"))
            others = [name for name in models if name not in ("", decides)]
            of_two["models"] = (decides, *others[:1])
            of_two["model_of"] = [int(name != decides) for name in models]
        return Scored(logits, document_cut, query_cut, windows=windows, **of_two)

    def explained(self, body: dict[str, Any], query: str, text: str) -> Explanation:
        """The explanation of an answer.

        Raises:
            ServiceError: it has none.
        """
        try:
            # The server explained the text that was sent, in which each lone surrogate became one character.
            sentences = tuple(
                ExplainedSentence(**each | {"text": text[each["start"] : each["end"]]})
                for each in body["sentences"]
            )
            names = ("score", "logit", "truncated", "read", "sentences_left_out", "query_truncated")
            window = _window(body.get("window"))
            found = Explanation(
                query, text, sentences=sentences, window=window, **{name: body[name] for name in names}
            )
        except (LookupError, TypeError, ValueError):
            raise ServiceError(
                f"{self._server} gave an answer without an explanation; is it CrossRank?"
            ) from None
        self._warn(body)
        return found

    def _warn(self, body: Mapping[str, Any]) -> None:
        """Log what the server warns of, each warning once."""
        meta = body.get("meta")
        warnings = meta.get("warnings") if isinstance(meta, dict) else None
        for warning in map(str, warnings if isinstance(warnings, list) else ()):
            if warning not in self._warned:
                self._warned.add(warning)
                _logger.warning("%s: %s", self._server, warning)

    def names(self, body: dict[str, Any]) -> list[str]:
        """The names of the served models.

        Raises:
            ServiceError: the answer has none.
        """
        try:
            return [str(model["id"]) for model in body["data"]]
        except (LookupError, TypeError):
            raise ServiceError(f"{self._server} gave an answer without models; is it CrossRank?") from None


def _window(found: Any) -> tuple[int, int] | None:
    if found is None:
        return None
    start, end = found
    return int(start), int(end)


def _body(content: bytes | bytearray) -> dict[str, Any]:
    """The JSON object of an answer; an empty one if it holds none."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _message(body: Mapping[str, Any]) -> str:
    """The message of an error, or ""."""
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""


def _retry_after(header: str | None) -> float | None:
    """The seconds of a Retry-After header, which holds a number or a date; None if it holds neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
