"""API errors: status, message, field and code, and their JSON in each dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abruzzi.types import ContextFull, brief

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

    param: the field at fault. code: a name for programs. retry_after: seconds. extra_headers: of
    the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after
        self._extra_headers = dict(extra_headers or {})

    def headers(self) -> dict[str, str]:
        """Headers that belong to this error."""
        headers = dict(self._extra_headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


class ContextExceeded(ApiError):
    """A prompt that leaves no room to answer, in the words by which clients know it.

    pi, LiteLLM, LangChain and others compact a conversation when they read OpenAI's or Anthropic's
    sentence about it, and know no other. prompt_tokens, max_context: in tokens. at_least:
    prompt_tokens is a lower bound, by length, of a prompt that was not encoded."""

    def __init__(self, prompt_tokens: int, max_context: int, param: str = "messages", at_least: bool = False) -> None:
        super().__init__(
            400,
            f"This model's maximum context length is {max_context} tokens, but the prompt has {prompt_tokens} "
            f"(context_length_exceeded){' or more, by its length' if at_least else ''}, and at least one must be left "
            "to answer; hint: shorten the conversation",
            param,
            "context_length_exceeded",
        )
        self.prompt_tokens, self.max_context = prompt_tokens, max_context

    @property
    def anthropic_message(self) -> str:
        """The same in Anthropic's words."""
        return f"prompt is too long: {self.prompt_tokens} tokens > {self.max_context} maximum"


def not_submitted(error: ValueError) -> ApiError:
    """What the engine refused to run: a 400, in the known words where the prompt is too long."""
    if isinstance(error, ContextFull) and error.prompt_tokens is not None and error.max_context is not None:
        return ContextExceeded(error.prompt_tokens, error.max_context)
    return ApiError(400, str(error))


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
    message = error.anthropic_message if isinstance(error, ContextExceeded) else error.message
    detail = {"type": kind, "message": message, "param": error.param, "code": error.code}
    return {"type": "error", "error": detail, "request_id": None}


def error_body(path: str, error: ApiError) -> dict[str, Any]:
    """The body in the dialect that is spoken at `path`."""
    return anthropic_error(error) if "/messages" in path else openai_error(error)
