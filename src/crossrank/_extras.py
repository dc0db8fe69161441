"""Say which extra to install if a library is missing that the base install leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crossrank.errors import MissingLibraryError

__all__ = ["needs"]


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Turn a failed import within the block into an error that says what to install.

    Args:
        extra: CrossRank's extra that brings the library.
        what: what needs the library; the message begins with it.

    Raises:
        MissingLibraryError: a library is not installed, or cannot be imported.
    """
    try:
        yield
    except MissingLibraryError:
        raise  # a block within this one has reported it
    except ImportError as error:
        library = error.name or "a library"
        if library.partition(".")[0] == "crossrank":
            raise
        absent = isinstance(error, ModuleNotFoundError)
        problem = "is not installed" if absent else f"cannot be imported ({error})"
        message = f"{what} needs {library}, which {problem}: pip install 'crossrank[{extra}]'"
        raise MissingLibraryError(message, name=error.name) from error
