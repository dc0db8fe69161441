"""What an examination of a machine or of a server found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Level"]


class Level(str, Enum):
    """How bad a finding is. ERROR: reranking cannot run here, or scores or their order are wrong."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found out about this machine or about a server.

    Attributes:
        subject: what was looked at.
        level: how bad it is.
        found: what was found.
        cure: what to do about it; "": nothing.
    """

    subject: str
    level: Level
    found: str
    cure: str = ""
