"""The error body that vLLM and infinity have from OpenAI; also that of paths without a dialect."""

from __future__ import annotations

from pydantic import BaseModel

from crossrank.server.http.faults import FAULTS, Fault

__all__ = ["OpenAIError", "openai_error"]


class _Detail(BaseModel):
    message: str
    type: str | None = None
    param: str | None = None
    code: int


class OpenAIError(BaseModel):
    """What went wrong."""

    error: _Detail


def openai_error(fault: Fault, status: int) -> dict[str, object]:
    """The body for a fault."""
    kind = FAULTS[fault.kind].openai
    return {"error": {"message": str(fault), "type": kind, "param": None, "code": status}}
