"""API keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from crossrank.errors import InputError
from crossrank.server.http.faults import Fault
from crossrank.server.settings import Settings

__all__ = ["Keys", "keys_of", "read_keys"]


def read_keys(path: Path) -> list[str]:
    """Keys from a file: one a line; empty lines and lines that begin with # are left out.

    Raises:
        InputError: the file cannot be read, or holds no key.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the API keys in {path} cannot be read: {error}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise InputError(f"{path} holds no API key; write one a line")
    return keys


def keys_of(settings: Settings) -> Keys:
    """Who may ask.

    Raises:
        InputError: the file of keys cannot be read, or a key is empty.
    """
    keys, admin = [key.strip() for key in settings.api_keys], settings.admin_key.strip()
    if not all(keys):
        raise InputError("an API key is empty")
    if settings.api_key_file is not None:
        keys += read_keys(settings.api_key_file)
    if not all(key.isascii() and key.isprintable() for key in (*keys, admin)):
        raise InputError("an API key has characters beyond ASCII, which a header cannot carry")
    return Keys(keys, admin)


class Keys:
    """Who may ask. Keys are compared by their hashes, each with all, in constant time.

    Args:
        keys: any of them may rank; none at all: everybody may.
        admin: may also reload models; "": nobody may.
    """

    def __init__(self, keys: Iterable[str] = (), admin: str = "") -> None:
        self._keys = [_digest(key) for key in keys]
        self._admin = [_digest(admin)] if admin else []

    def check(self, authorization: str | None) -> str:
        """Raise Fault "unauthorized" unless the header holds a key (the admin's is one too).

        Returns:
            A name of the key that tells nothing of it; "" where everybody may ask.
        """
        given = _given(authorization)
        if self._keys and not _matches(given, [*self._keys, *self._admin]):
            raise _missing(authorization, "an API key")
        return "key " + given.hex()[:16] if self._keys else ""

    def check_admin(self, authorization: str | None) -> None:
        """Raise Fault unless the header holds the admin key.

        "forbidden": there is no admin key, or the key is one that may only rank.
        """
        if not self._admin:
            raise Fault("forbidden", "this server has no admin key; start it with --admin-key to allow this")
        given = _given(authorization)
        if _matches(given, self._keys) and not _matches(given, self._admin):
            raise Fault("forbidden", "this takes the admin key")
        if not _matches(given, self._admin):
            raise _missing(authorization, "the admin key")


def _matches(given: bytes, keys: list[bytes]) -> bool:
    # Every comparison is made: the time does not tell which key it was.
    return sum(hmac.compare_digest(given, key) for key in keys) > 0


def _given(authorization: str | None) -> bytes:
    """The digest of the key in a header; b"" where there is none."""
    scheme, space, key = (authorization or "").partition(" ")
    return _digest(key.strip()) if space and scheme.lower() == "bearer" else b""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _missing(authorization: str | None, what: str) -> Fault:
    if authorization is None:
        message = f"this server takes {what}: send the header Authorization: Bearer KEY"
    else:
        message = f"the header Authorization does not hold {what} of this server"
    return Fault("unauthorized", message)
