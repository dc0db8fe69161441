"""A progress bar on stderr, drawn only on request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(wanted: bool, description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Draw a bar while the block runs, and yield the function that advances it.

    Args:
        wanted: if False, nothing is drawn, and the function does nothing.
        description: what is being done, in a few words.
        total: bytes in all. None means unknown: the bar moves back and forth.
    """
    if not wanted:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    if total is not None:
        columns.append(DownloadColumn())
    console = Console(stderr=True)
    # In a file or a pipe a transient bar would leave empty lines.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda bytes_: progress.advance(task, bytes_)
