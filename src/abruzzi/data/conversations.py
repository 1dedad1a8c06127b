"""A person's own conversations: JSON lines in OpenAI's shape -> ids and what is trained, checked
line by line.

One object per line: `messages` and, where the assistant may call any, `tools`. Thinking is in
`reasoning_content` (or `reasoning`). An assistant message with `"weight": 0` is read but not
learned, as in OpenAI's fine-tuning format. Everything else that the assistant says is trained, and
nothing that others say. A file is taken whole or not at all: every line that cannot be used is
named, with what is wrong in it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from abruzzi.data.packing import Conversation
from abruzzi.tokenizer import Tokenizer, render
from abruzzi.tokenizer.formats.spans import assistant_spans, first_user
from abruzzi.types import Message, ToolCall, brief

KEYS = ("messages", "tools")
MESSAGE_KEYS = ("role", "content", "reasoning_content", "reasoning", "tool_calls", "tool_call_id", "name", "weight")
NAMED = 8  # so many lines are named in an error


def read_conversations(file: Path, tok: Tokenizer, longest: int) -> list[Conversation]:
    """All conversations of a file, in order, rendered as `tok`'s checkpoint is asked.

    longest: tokens that a row can hold. Raises FileNotFoundError, and ValueError that names the
    lines which cannot be used (file:line, what is wrong, what was expected)."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file; hint: --data takes JSON lines, one conversation per line")
    made: list[Conversation] = []
    problems: list[str] = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            made.append(_conversation(_parsed(line), tok, longest))
        except ValueError as error:
            problems.append(f"{file}:{number}: {error}")
    if problems:
        more = f"; and {len(problems) - NAMED} more lines" if len(problems) > NAMED else ""
        raise ValueError("; ".join(problems[:NAMED]) + more)
    if not made:
        raise ValueError(f"{file} holds no conversation; expected one JSON object per line, with 'messages'")
    return made


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        given = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8; hint: save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}); hint: one whole object per line, no line breaks inside it") from error
    if not isinstance(given, dict):
        raise ValueError(f'{brief(given)} is no object; hint: {{"messages": [{{"role": "user", "content": "..."}}]}}')
    _only(given, KEYS, "the line")
    if "messages" not in given:
        raise ValueError(f"no 'messages'; it has {', '.join(map(repr, given)) or 'nothing'}; hint: OpenAI's shape")
    return given


def _conversation(given: Mapping[str, Any], tok: Tokenizer, longest: int) -> Conversation:
    raw, tools = given["messages"], given.get("tools") or []
    if not isinstance(raw, list) or not raw:
        raise ValueError(f"'messages' is {brief(raw)}; expected a list of messages")
    messages = [_message(m, index) for index, m in enumerate(raw)]
    if messages[-1].role != "assistant":
        raise ValueError(
            f"it ends with a {messages[-1].role} message; expected the assistant's, which is what is learned"
        )
    rendered = render(tok, messages, tools, add_generation_prompt=False)
    _check_calls(messages, {t["function"]["name"] for t in tools})
    weights = [m.get("weight", 1) for m in raw if m["role"] == "assistant"]
    _leave_out(rendered.sampled, weights, assistant_spans(tok, rendered.ids))
    if len(rendered.ids) > longest:
        raise ValueError(
            f"{len(rendered.ids)} tokens, a row holds {longest}; hint: shorten it, or --set row_length=..."
        )
    if not any(rendered.sampled):
        raise ValueError("nothing in it is trained; hint: an assistant message without weight 0")
    first = first_user(tok, rendered.ids) or 0
    context = [at > first and not was for at, was in enumerate(rendered.sampled)]
    return Conversation(rendered.ids, rendered.sampled, context)


def _message(given: Any, index: int) -> Message:
    try:
        if not isinstance(given, dict):
            raise ValueError(f"{brief(given)} is no object")
        _only(given, MESSAGE_KEYS, "it")
        message = Message.from_openai(given)
        if message.role == "assistant" and given.get("weight", 1) not in (0, 1):
            raise ValueError(f"weight is {given['weight']!r}; expected 0 or 1")
        if message.role != "assistant" and "weight" in given:
            raise ValueError(f"a {message.role} message has a weight; only the assistant's are learned")
        if message.role == "assistant" and not (message.content or message.tool_calls or message.reasoning_content):
            raise ValueError("the assistant says nothing: no content, no thinking, no tool_calls")
        if message.role != "assistant" and message.content is None:
            raise ValueError(f"a {message.role} message without content")
        for call in message.tool_calls:
            _check_arguments(call.name, call.arguments)
        return message
    except ValueError as error:
        raise ValueError(f"message {index + 1}: {error}") from error


def _check_arguments(name: str, arguments: str) -> None:
    try:
        parsed = json.loads(arguments)
    except ValueError as error:
        raise ValueError(f"call of {name!r}: arguments {brief(arguments)} are not JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"call of {name!r}: arguments {brief(arguments)} are no JSON object")


def _check_calls(messages: Sequence[Message], declared: set[str]) -> None:
    """Every call names a declared tool and has its result before the next turn; `render` has
    matched results."""
    waiting: list[ToolCall] = []
    for index, message in enumerate(messages, 1):
        if message.role == "tool":
            wanted = message.tool_call_id
            answered = next(c for c in waiting if not wanted or c.id == wanted)
            waiting = [c for c in waiting if c is not answered]
            continue
        if waiting:
            name = waiting[0].name
            raise ValueError(f"message {index}: {name!r} was called before and has no result; hint: a tool message")
        for call in message.tool_calls:
            if call.name not in declared:
                known = f"it has {', '.join(sorted(declared))}" if declared else "the line has none"
                raise ValueError(f"message {index}: calls {call.name!r}, which is not in 'tools' ({known})")
        waiting = list(message.tool_calls)


def _leave_out(sampled: list[bool], weights: Sequence[int], spans: Iterator[tuple[int, int]]) -> None:
    for weight, (start, end) in zip(weights, spans, strict=True):
        if not weight:
            sampled[start:end] = [False] * (end - start)


def _only(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Refuse what would be ignored; empty extras, as APIs return them ("refusal": null), are
    nothing."""
    for key in given:
        if key not in known and given[key] not in (None, [], {}, ""):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"leave it out; known are {', '.join(known)}"
            raise ValueError(f"{what} has {key!r}, which has no meaning here; hint: {hint}")
