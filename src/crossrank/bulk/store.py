"""Look up documents by id in a database on disk, so that a large collection needs little memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from crossrank.errors import InputError
from crossrank.text.unicode import clean

__all__ = ["DocumentStore"]


class DocumentStore:
    """The texts of a collection, in a temporary database that is deleted on ``close``.

    Args:
        documents: (place, id, text) tuples; the place (file and line) is for messages.

    Raises:
        InputError: two documents have the same id.
    """

    def __init__(self, documents: Iterable[tuple[str, str, str]]) -> None:
        # "" is SQLite's name for a private database that spills to a temporary file.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("CREATE TABLE documents (id TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID")
        self._database.execute("BEGIN")
        last = ("", "")
        try:
            for place, identity, text in documents:
                last = (place, identity)
                self._database.execute("INSERT INTO documents VALUES (?, ?)", (identity, clean(text)))
        except sqlite3.IntegrityError as error:
            self.close()
            raise InputError(f"{last[0]}: duplicate id {last[1]!r}") from error
        except BaseException:
            self.close()
            raise
        self._database.execute("COMMIT")

    def close(self) -> None:
        self._database.close()

    def texts(self, identities: Sequence[str]) -> dict[str, str]:
        """The texts by id; ids that are not in the collection are left out."""
        found: dict[str, str] = {}
        for start in range(0, len(identities), 500):  # SQLite takes 999 parameters everywhere
            part = identities[start : start + 500]
            marks = ",".join("?" * len(part))
            # Only question marks are inserted into the statement.
            query = f"SELECT id, text FROM documents WHERE id IN ({marks})"  # noqa: S608
            found |= dict(self._database.execute(query, part).fetchall())
        return found
