"""The error body that vLLM and infinity have from OpenAI; also that of paths without a dialect."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from crossrank.server.http.faults import FAULTS, Fault

__all__ = ["OpenAIError", "openai_error"]


class ErrorDetail(BaseModel):
    """What went wrong, in words and in numbers."""

    message: str = Field(description="what is wrong, and where")
    type: str | None = Field(None, description="OpenAI's name for such errors")
    param: str | None = Field(None, description="always null")
    code: int = Field(description="the HTTP status")


class OpenAIError(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "missing field `documents`",
                        "type": "BadRequestError",
                        "param": None,
                        "code": 400,
                    }
                }
            ]
        }
    )

    error: ErrorDetail = Field(description="what went wrong")


def openai_error(fault: Fault, status: int) -> dict[str, object]:
    """The body for a fault."""
    kind = FAULTS[fault.kind].openai
    return {"error": {"message": str(fault), "type": kind, "param": None, "code": status}}
