"""Libraries that the base install leaves out: whoever misses one is told which extra brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crossrank.errors import MissingLibraryError

__all__ = ["needs"]


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around imports: one that fails says what to install.

    Args:
        extra: of CrossRank, which has the library.
        what: needs it; the message begins with it.

    Raises:
        MissingLibraryError: a library is not installed, or cannot be imported.
    """
    try:
        yield
    except MissingLibraryError:
        raise  # as a block within this one said it
    except ImportError as error:
        library = error.name or "a library"
        if library.partition(".")[0] == "crossrank":
            raise
        absent = isinstance(error, ModuleNotFoundError)
        problem = "is not installed" if absent else f"cannot be imported ({error})"
        message = f"{what} needs {library}, which {problem}: pip install 'crossrank[{extra}]'"
        raise MissingLibraryError(message, name=error.name) from error
