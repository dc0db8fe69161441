"""The error body that vLLM and infinity have from OpenAI; also that of paths without a dialect."""

from __future__ import annotations

from pydantic import BaseModel

from crossrank.server.http.faults import Fault, Kind

__all__ = ["OpenAIError", "openai_error"]

_TYPES: dict[Kind, str] = {
    "too_large": "RequestEntityTooLargeError",
    "unauthorized": "AuthenticationError",
    "forbidden": "PermissionDeniedError",
    "not_found": "NotFoundError",
    "unknown_model": "NotFoundError",
    "method": "MethodNotAllowedError",
    "slow": "RequestTimeoutError",
    "overloaded": "RateLimitError",
    "deadline": "GatewayTimeoutError",
    "engine": "ServiceUnavailableError",
    "unavailable": "ServiceUnavailableError",
    "internal": "InternalServerError",
}


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
    kind = _TYPES.get(fault.kind, "BadRequestError")
    return {"error": {"message": str(fault), "type": kind, "param": None, "code": status}}
