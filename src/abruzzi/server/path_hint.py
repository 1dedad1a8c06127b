"""Hints for wrong paths: what a client meant whose base URL has one part too many, or too few."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Other servers' names of the same thing.
ALIASES = {
    "/api/chat": "/v1/chat/completions",  # Ollama
    "/api/generate": "/v1/completions",
    "/api/tags": "/v1/models",
    "/api/show": "/v1/models",
    "/api/version": "/version",
    "/completion": "/v1/completions",  # llama.cpp
    "/infill": "/v1/completions",
    "/props": "/v1/models",
    "/generate": "/v1/completions",  # TGI, SGLang
    "/generate_stream": "/v1/completions",
    "/v1/complete": "/v1/messages",  # Anthropic's first API
    "/chat": "/v1/chat/completions",
    "/v1/chat": "/v1/chat/completions",
    "/v1/generate": "/v1/completions",
    "/healthz": "/health",
    "/livez": "/health",
    "/readyz": "/ready",
    "/ping": "/health",
    "/docs": "/openapi.json",
}
NOT_HERE = {
    "embeddings": "this server makes no embeddings",
    "embed": "this server makes no embeddings",
    "rerank": "this server does not rank",
    "moderations": "this server does not moderate",
    "images": "this model reads and writes text only",
    "audio": "this model reads and writes text only",
    "files": "nothing is stored here",
    "assistants": "nothing is stored here; use /v1/responses",
    "threads": "nothing is stored here; use /v1/responses",
    "batches": "nothing is stored here; send the requests one by one",
    "pull": "one model is served here; GET /v1/models names it",
}


def path_hint(path: str, routes: Mapping[str, str]) -> str:
    """The path that is meant, with its method and how to get there; "" for no idea.

    routes: the server's own paths, with their methods."""
    asked = re.sub(r"/+", "/", "/" + path.strip().strip("/")).lower()
    right = _right(asked, [route for route in routes if "{" not in route])
    if right:
        return f"{routes[right]} {right}{_why(path, asked, right)}"
    word = next((word for word in reversed(asked.split("/")) if word in NOT_HERE), "")
    if word:
        return NOT_HERE[word]
    if asked in ("/v1", "/api", "/v1/v1", "/openai"):
        return "that is a base URL: POST /v1/chat/completions, /v1/responses or /v1/messages"
    return ""


def _right(asked: str, routes: list[str]) -> str:
    if asked in routes:
        return asked
    if asked in ALIASES:
        return ALIASES[asked]
    # A route's own end, whatever stands in front: /v1/v1/..., /openai/..., /api/v1/..., or nothing
    # at all.
    ends = {route.removeprefix("/v1"): route for route in routes}
    fitting = [end for end in ends if asked.endswith(end)]
    if fitting:
        return ends[max(fitting, key=len)]
    alias = next((alias for alias in ALIASES if alias.count("/") > 1 and asked.endswith(alias)), "")
    return ALIASES.get(alias, "")


def _why(path: str, asked: str, right: str) -> str:
    if asked == right:
        return " (without more slashes, in small letters)" if path.lower() != right else " (in small letters)"
    if right.startswith("/v1/messages"):
        return " (Anthropic's clients want a base URL without /v1, as they add it)"
    return " (OpenAI's clients want a base URL that ends in /v1, once)" if right.startswith("/v1/") else ""
