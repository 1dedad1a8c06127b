"""A toy model with all the behaviour that `abruzzi verify` looks at, and faults that can be planted
in it.

It thinks one sentence, then calls tools whose name is spoken of, or answers from a short list, or
gives the smallest instance of a schema. Tokens are pieces of up to four characters. No weights, no
randomness beyond `random.Random(seed)`.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Any

PIECE = re.compile(r"\s?\w{1,4}|\s?[^\w\s]|\s")
NUMBERS = ", ".join(
    f"{tens}{ones}" for tens in ("", "twenty ", "thirty ", "forty ") for ones in ("one", "two", "three", "four", "nine")
)
THOUGHT = "The user wants something simple. "


class Refused(Exception):
    """What the toy does not take: HTTP status and message."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Answer:
    """One choice. pieces: (channel, text) as they are told; channel is "thinking", "content" or a
    call's number. tokens: (text, id) of everything sampled, the end of the turn included."""

    pieces: list[tuple[str | int, str]] = field(default_factory=list)
    tokens: list[tuple[str, int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    finish: str = "stop"

    def text(self, channel: str | int) -> str:
        return "".join(t for c, t in self.pieces if c == channel)

    @property
    def thinking_tokens(self) -> int:
        return sum(c == "thinking" for c, _ in self.pieces)


def tokenize(text: str) -> list[str]:
    return PIECE.findall(text)


def token_id(token: str) -> int:
    return zlib.crc32(token.encode()) % 150_000


class ToyModel:
    """faults: names of what is broken; each is looked up at the one place that it breaks."""

    def __init__(self, faults: set[str]) -> None:
        self.faults = faults
        self.count = itertools.count()

    def broken(self, fault: str) -> bool:
        return fault in self.faults

    def render(self, messages: list[dict[str, Any]], tools: Any) -> list[str]:
        """The prompt's tokens: thinking, calls and results included."""
        tokens = tokenize(json.dumps(tools)) if tools else []
        for index, message in enumerate(messages):
            tokens.append(f"<|{message['role']}|>")
            thought = message.get("reasoning_content")
            if thought is None and not self.broken("alias_ignored"):
                thought = message.get("reasoning")
            last = index == max(i for i, m in enumerate(messages) if m["role"] in ("assistant", "user"))
            kept = not self.broken("history_loses_thinking") and (last or not self.broken("only_last_thought_kept"))
            if thought and kept:
                tokens += ["<think>", *tokenize(thought), "</think>"]
            for call in message.get("tool_calls") or []:
                tokens += tokenize(call["function"]["name"] + call["function"]["arguments"])
            if message["role"] != "tool" or not self.broken("tool_result_dropped"):
                tokens += tokenize(message.get("content") or "")
            tokens.append("<|end|>")
        return [*tokens, "<|assistant|>"]

    def answer(self, body: dict[str, Any], choice: int, busy: bool) -> Answer:
        """What the model says to a valid request."""
        prompt = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
        seed = body.get("seed")
        rng = random.Random(secrets.randbits(32) if seed is None or self.broken("seed_ignored") else seed + choice)
        warm = body.get("temperature", 1) != 0 and not self.broken("temperature_ignored")
        answer = Answer()
        planned: list[tuple[str | int, str]] = [("thinking", t) for t in tokenize(self._thought(prompt))]
        calls = self._calls(body, prompt)
        if calls:
            for number, (name, arguments) in enumerate(calls):
                answer.names.append(name)
                answer.ids.append(self._call_id(name, number))
                planned += [(number, t) for t in tokenize(arguments)]
            answer.finish = "tool_calls"
            if self.broken("calls_end_in_stop") and body.get("tool_choice") == "required":
                answer.finish = "stop"
        else:
            text = self._content(body, prompt, rng if warm else None, busy)
            channel = "thinking" if self.broken("answer_in_thinking") and "hello" in prompt else "content"
            planned += [(channel, t) for t in tokenize(text)]
        self._limit(answer, planned, body)
        return answer

    def _limit(self, answer: Answer, planned: list[tuple[str | int, str]], body: dict[str, Any]) -> None:
        """Sample until the end, a stop string or max_tokens."""
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 100_000
        limit += self.broken("one_token_more")
        stops = body.get("stop") or []
        stops = [] if self.broken("stop_ignored") else [stops] if isinstance(stops, str) else stops
        content = ""
        for channel, text in planned:
            if len(answer.tokens) == limit:
                break
            answer.tokens.append((text, token_id(text)))
            answer.pieces.append((channel, text))
            content += text if channel == "content" else ""
            found = next((s for s in stops if s in content), None)
            if found:
                self._end_at(answer, content, found)
                return
        if len(answer.tokens) == limit:
            answer.finish = "stop" if self.broken("cut_says_stop") else "length"
        else:
            answer.tokens.append(("", 0))
            if self.broken("end_says_length") and content == "hello":
                answer.finish = "length"

    def _end_at(self, answer: Answer, content: str, stop: str) -> None:
        keep = content if self.broken("stop_leaks") else content.split(stop)[0]
        said = [p for p in answer.pieces if p[0] != "content"]
        answer.pieces = said + [("content", t) for t in tokenize(keep)]
        answer.finish = "length" if self.broken("stop_says_length") else "stop"

    def _thought(self, prompt: str) -> str:
        leak = self.broken("think_tag_leaks") and "hello" in prompt
        return "" if self.broken("does_not_think") else THOUGHT + ("</think>" if leak else "")

    def _call_id(self, name: str, number: int) -> str:
        if self.broken("ids_are_names"):
            return f"functions.{name}:{number}"
        if self.broken("ids_count"):
            return f"call_{next(self.count)}"
        return "call_abcdefgh12345678abcdefgh" if self.broken("ids_repeat") else "call_" + secrets.token_hex(16)

    def _calls(self, body: dict[str, Any], prompt: str) -> list[tuple[str, str]]:
        tools, choice = body.get("tools") or [], body.get("tool_choice", "auto")
        if not tools or (choice == "none" and not self.broken("none_calls")):
            return []
        if body["messages"][-1]["role"] == "tool":
            return []
        named = choice["function"]["name"] if isinstance(choice, dict) else None
        if named and not self.broken("named_ignored"):
            wanted = [t for t in tools if t["function"]["name"] == named]
        else:
            wanted = [
                t for t in tools if set(t["function"]["name"].split("_")) & set(re.findall(r"\w+", prompt.lower()))
            ]
            if self.broken("never_calls") and choice == "auto":
                wanted = []
            if not wanted and (choice == "required" or named) and not self.broken("required_ignored"):
                wanted = tools[:1]
        if not wanted:
            return []
        twice = "Oslo and in Rome" in prompt
        return [self._call(t, choice) for t in (wanted[:1] * 2 if twice else wanted[:1])]

    def _call(self, tool: dict[str, Any], choice: Any) -> tuple[str, str]:
        arguments = instance(tool["function"]["parameters"])
        if arguments and (self.broken("forced_call_misses_argument") and choice == "required"):
            arguments.popitem()
        if self.broken("auto_call_adds_argument") and choice == "auto":
            arguments["surprise"] = 1
        if self.broken("arguments_not_json") and choice == "auto":
            return tool["function"]["name"], json.dumps(arguments)[:-1]
        return tool["function"]["name"], json.dumps(arguments, ensure_ascii=False)

    def _content(self, body: dict[str, Any], prompt: str, rng: random.Random | None, busy: bool) -> str:
        kind = (body.get("response_format") or {}).get("type", "text")
        if kind == "json_object":
            text = '{"name": "Ada", "age": 36}'
            return f"```json\n{text}\n```" if self.broken("json_object_fenced") else text
        if kind == "json_schema":
            return json.dumps(self._by_schema(body, prompt), ensure_ascii=False)
        if "numbers from one to fifty" in prompt:
            varies = self.broken("greedy_varies") or (busy and self.broken("batch_varies"))
            return f"{next(self.count)}, {NUMBERS}" if varies else NUMBERS
        if "random string" in prompt:
            return "".join((rng or random.Random(0)).choices("abcdefghijklmnop0123456789", k=20))
        if "very long story" in prompt:
            return "The sea. " * 700
        if "single word" in prompt:
            return "hello" + ("<|im_end|>" if self.broken("control_token_leaks") else "")
        return "It is done as you asked."

    def _by_schema(self, body: dict[str, Any], prompt: str) -> Any:
        value = instance(body["response_format"]["json_schema"]["schema"])
        if self.broken("person_breaks_schema") and prompt == "Invent a person.":
            value["age"] = -1
        if self.broken("cases_break_schema") and prompt.endswith("that fits."):
            return {"surprise": [None]}
        return value


def instance(schema: Any, root: Any = None) -> Any:
    """A small instance of a schema. Raises Refused for what it cannot do."""
    root = schema if root is None else root
    if schema is True or schema == {}:
        return {}
    if not isinstance(schema, dict):
        raise Refused(f"schema {schema!r} has no instance")
    if "$ref" in schema:
        return instance(_resolve(schema["$ref"], root), root)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            # A branch without a reference first, or a linked list would have no end.
            return instance(min(schema[key], key=lambda branch: "$ref" in branch), root)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else None)
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise Refused("properties must be an object")
        return {k: instance(properties.get(k, {}), root) for k in schema.get("required", list(properties)[:0])}
    if kind == "array":
        return [instance(schema.get("items", {}), root) for _ in range(schema.get("minItems", 0))]
    if kind == "string":
        length = schema.get("minLength", 1 if "pattern" in schema else 0)
        if length > 10_000:
            raise Refused(f"minLength {length} is too long")
        return "a" * length
    if kind in ("integer", "number"):
        return max(schema.get("minimum", 0), min(0, schema.get("maximum", 0)))
    if kind not in ("boolean", "null", None):
        raise Refused(f"type {kind!r} is unknown")
    return True if kind == "boolean" else None


def _resolve(pointer: str, root: Any) -> Any:
    found = root
    for part in pointer.removeprefix("#").split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or part not in found:
            raise Refused(f"$ref {pointer!r} points nowhere")
        found = found[part]
    return found
