"""One chunk of anybody's chat.completion stream, read with a look at every type: no value is used
for what it is not.

Known shapes beside OpenAI's: content in parts (Mistral, with thinking among them); thinking as
`reasoning_content`, `reasoning`, `thinking` or `reasoning_details` (DeepSeek, vLLM, Ollama,
OpenRouter); usage in the choice (Moonshot); `message` where `delta` belongs; one call as an object
where a list belongs, and the older `function_call`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from abruzzi.types import Usage

_TEXT = ("text", "content", "thinking", "summary", "reasoning_text", "reasoning")
_THINKING = ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks")
_FINISH = {"function_call": "tool_calls", "max_tokens": "length", "end_turn": "stop", "tool_use": "tool_calls"}
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a tool call. index, id: None where the server gives none that can be used.

    whole: the arguments came as an object, so that `arguments` is all of them."""

    index: int | None
    id: str | None
    name: str
    arguments: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event adds. error: what the server says went wrong; finish: in OpenAI's words where
    they are known.

    is_message: the piece stood in `message`, so it may repeat all that came before."""

    error: str | None = None
    reasoning: str = ""
    content: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish: str | None = None
    usage: Usage | None = None
    is_message: bool = False


def read_chunk(given: Mapping[str, Any]) -> Chunk:
    """Never raises: what has a type that means nothing is left out."""
    choice = _first_choice(given.get("choices"))
    error = _error(given, choice)
    if error is not None:
        return Chunk(error=error)
    delta, is_message = _object(choice.get("delta")), False
    if not delta and isinstance(choice.get("message"), Mapping):
        delta, is_message = choice["message"], True
    thought = next((text for key in _THINKING if (text := text_of(delta.get(key)))), "")
    parts_thought, content = _content(delta.get("content"))
    groq = _object(given.get("x_groq"))
    usage = next((u for u in (given.get("usage"), choice.get("usage"), groq.get("usage")) if _object(u)), None)
    finish = choice.get("finish_reason")
    finish = finish.lower() if isinstance(finish, str) and finish else None
    return Chunk(
        reasoning=thought or parts_thought,
        content=content or text_of(delta.get("refusal")),
        calls=tuple(_calls(delta)),
        finish=None if finish is None else _FINISH.get(finish, finish),
        usage=None if usage is None else read_usage(usage),
        is_message=is_message,
    )


def text_of(value: Any, depth: int = 0) -> str:
    """Text in whatever wrapping: text, a number, an object with a text in it, a list of these."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or depth > 4:
        return ""
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, list):
        return "".join(text_of(item, depth + 1) for item in value)
    if isinstance(value, Mapping):
        return next((text for key in _TEXT if (text := text_of(value.get(key), depth + 1))), "")
    return ""


def read_usage(given: Mapping[str, Any]) -> Usage:
    """Token counts; what is no count is 0. Cached tokens also by DeepSeek's and Moonshot's
    names."""
    prompt = _object(given.get("prompt_tokens_details"))
    completion = _object(given.get("completion_tokens_details"))
    cached = (prompt.get("cached_tokens"), given.get("cached_tokens"), given.get("prompt_cache_hit_tokens"))
    return Usage(
        prompt_tokens=_count(given.get("prompt_tokens")),
        cached_tokens=next((n for value in cached if (n := _count(value))), 0),
        completion_tokens=_count(given.get("completion_tokens")),
        reasoning_tokens=_count(completion.get("reasoning_tokens")),
    )


def complaint_in(given: Any) -> str | None:
    """What an answer says went wrong, in any server's spelling; None where it says nothing of the
    kind."""
    if not isinstance(given, Mapping):
        return None
    error = given.get("error")
    if isinstance(error, Mapping) and error:
        return text_of(error.get("message")) or text_of(error.get("detail")) or _dumped(error)
    if error:
        return text_of(error) or _dumped(error)
    if given.get("object") == "error" or given.get("type") == "error":
        return text_of(given.get("message")) or _dumped(given)
    if "choices" not in given and (said := given.get("detail")):
        return text_of(said) or _dumped(said)
    return None


def _error(given: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:
    said = complaint_in(given) or complaint_in({"error": choice.get("error"), "choices": None})
    if said is None and choice.get("finish_reason") == "error":
        return "the generation failed (finish_reason error)"
    return said


def _first_choice(given: Any) -> Mapping[str, Any]:
    """The choice of index 0: one is asked for, and others are somebody else's."""
    for choice in given if isinstance(given, list) else [given]:
        if isinstance(choice, Mapping) and choice.get("index") in (None, 0, "0"):
            return choice
    return _NOTHING


def _content(value: Any) -> tuple[str, str]:
    """(thought, text) of a delta's content."""
    parts = [value] if isinstance(value, Mapping) else value
    if not isinstance(parts, list):
        return "", text_of(value)
    thought = content = ""
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind.startswith(("thinking", "reasoning")):
            thought += text_of(part)
        else:
            content += text_of(part)
    return thought, content


def _calls(delta: Mapping[str, Any]) -> Iterator[CallPiece]:
    given = delta.get("tool_calls")
    pieces = given if isinstance(given, list) else [given]
    if isinstance(delta.get("function_call"), Mapping):
        pieces = [*pieces, {"function": delta["function_call"]}]
    for piece in pieces:
        if not isinstance(piece, Mapping):
            continue
        function = piece.get("function")
        if not isinstance(function, Mapping):
            function = piece
        name, arguments = function.get("name"), function.get("arguments")
        call_id = piece.get("id")
        if isinstance(call_id, int) and not isinstance(call_id, bool):
            call_id = str(call_id)
        read = CallPiece(
            index=_index(piece.get("index")),
            id=call_id if isinstance(call_id, str) and call_id else None,
            name=name if isinstance(name, str) else "",
            arguments=arguments if isinstance(arguments, str) else "" if arguments is None else _dumped(arguments),
            whole=isinstance(arguments, (Mapping, list)),
        )
        if read.id or read.name or read.arguments:
            yield read


def _index(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _count(value: Any) -> int:
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1 << 63:
        return 0
    return int(value)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else _NOTHING


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
