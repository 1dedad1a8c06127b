"""API errors: status, message, field and code, and their JSON in each dialect."""

from __future__ import annotations

from typing import Any

from abruzzi.types import brief

# OpenAI's and Anthropic's name of an error, by status.
_OPENAI = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ApiError(Exception):
    """A request that failed. message: one line for a person, with a hint where there is one.

    param: the field at fault. code: a name for programs. retry_after: seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def headers(self) -> dict[str, str]:
        """Headers that belong to this error."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def unsupported(param: str, value: object, hint: str) -> ApiError:
    """A value that this server does not implement: refused by name, never accepted and ignored."""
    return ApiError(400, f"{param}={brief(value)} is not supported; hint: {hint}", param, "unsupported_value")


def openai_error(error: ApiError) -> dict[str, Any]:
    """{"error": {...}} as OpenAI's clients read it."""
    kind = _OPENAI.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """{"type": "error", "error": {...}} as Anthropic's clients read it, plus param and code."""
    kind = _ANTHROPIC.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    detail = {"type": kind, "message": error.message, "param": error.param, "code": error.code}
    return {"type": "error", "error": detail, "request_id": None}


def error_body(path: str, error: ApiError) -> dict[str, Any]:
    """The body in the dialect that is spoken at `path`."""
    return anthropic_error(error) if path.startswith("/v1/messages") else openai_error(error)
