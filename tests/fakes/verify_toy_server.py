"""The toy model behind HTTP, as an OpenAI-compatible server should be, with faults to plant.

`Endpoint(faults=...)` runs on loopback in threads; one answer is generated at a time (one slot),
and a client that leaves frees it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import select
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fakes.verify_toy_model import Answer, Refused, ToyModel, instance, token_id, tokenize

CONTEXT = 3000
STORY_SECONDS = 4.0


def _number(low: float, high: float) -> Any:
    return lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high


def _integer(low: int, high: int = 10**9) -> Any:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high


def _is(kind: type) -> Any:
    return lambda v: isinstance(v, kind)


def _texts(v: Any) -> bool:
    return isinstance(v, str) or (isinstance(v, list) and all(isinstance(s, str) for s in v))


def _one_of(*values: str) -> Any:
    return lambda v: isinstance(v, dict) or v in values


FIELDS = {
    "model": _is(str), "messages": lambda v: isinstance(v, list) and bool(v), "temperature": _number(0, 2),
    "top_p": _number(0, 1), "max_tokens": _integer(1), "max_completion_tokens": _integer(1), "n": _integer(1, 8),
    "seed": _integer(-(2**63)), "stop": _texts, "stream": _is(bool), "stream_options": _is(dict), "tools": _is(list),
    "tool_choice": _one_of("auto", "none", "required"), "response_format": _is(dict), "logprobs": _is(bool),
    "top_logprobs": _integer(0, 20), "return_token_ids": _is(bool),
}  # fmt: skip


class Endpoint:
    """A running server. url: where; faults: see ToyModel and the uses of `broken` here."""

    def __init__(self, *faults: str) -> None:
        self.model = ToyModel(set(faults))
        self.slot = threading.Semaphore(1)
        self.busy = 0
        self.dead = False
        self.poisoned = 0  # requests under way that spoil the others
        self.blocked = 0.0  # until when, monotonic seconds
        self.prompts: list[list[str]] = []
        self.asked: list[dict[str, Any]] = []
        endpoint = self

        class Handler(_Handler):
            server_of = endpoint

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that leave are no news
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def broken(self, fault: str) -> bool:
        return self.model.broken(fault)

    # What is refused

    def check(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise Refused("the body must be a JSON object")
        for name, value in body.items():
            if name not in FIELDS:
                if self.broken("unknown_ignored"):
                    continue
                raise Refused(f"unknown field {name!r}")
            if not FIELDS[name](value) and not self._lenient(name, value):
                raise Refused(f"{name} has the value {value!r}")
        if "messages" not in body:
            raise Refused("messages is missing")
        if body.get("model") != "toy" and not self.broken("any_model"):
            raise Refused(f"model {body.get('model')!r} does not exist", 404)
        for message in body["messages"]:
            self._check_message(message)
        self._check_tools(body)
        self._check_format(body.get("response_format"))
        prompt = self.model.render(body["messages"], body.get("tools"))
        if len(prompt) > CONTEXT:
            if self.broken("dies_of_context") and body.get("stream"):
                self.dead = True
            if not self.broken("context_cut"):
                said = f"This model's maximum context length is {CONTEXT} tokens, but the prompt has {len(prompt)}"
                raise Refused("that is too much" if self.broken("overflow_unclear") else said)

    def _lenient(self, name: str, value: Any) -> bool:
        if self.broken("types_accepted") and (name, value) == ("temperature", "hot"):
            return True
        return self.broken("range_accepted") and (name, value) in (("temperature", 100), ("top_p", 1.5))

    def _check_message(self, message: Any) -> None:
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant", "tool"):
            raise Refused(f"message {message!r} has no known role")
        if not isinstance(message.get("content"), (str, type(None))):
            raise Refused("content must be text")
        if self.broken("bookkeeping_refused") and "thinking_blocks" in message:
            raise Refused("unknown field 'thinking_blocks'")
        if self.broken("foreign_ids_refused"):
            for call in message.get("tool_calls") or []:
                if not call["id"].startswith("call_"):
                    raise Refused(f"tool call id {call['id']!r} is not ours")
        if self.broken("null_content_crashes") and message["role"] == "assistant" and message.get("content") is None:
            raise RuntimeError("content is None")

    def _check_tools(self, body: dict[str, Any]) -> None:
        for tool in body.get("tools") or []:
            instance(tool["function"]["parameters"])
        choice = body.get("tool_choice")
        if isinstance(choice, dict) and not self.broken("named_unchecked"):
            names = [t["function"]["name"] for t in body.get("tools") or []]
            if choice["function"]["name"] not in names:
                raise Refused("tool_choice names a tool that is not declared")

    def _check_format(self, given: Any) -> None:
        if given is None:
            return
        if given.get("type") not in ("text", "json_object", "json_schema"):
            raise Refused(f"response_format {given!r} is unknown")
        if given["type"] == "json_schema":
            schema = given["json_schema"]["schema"]
            if self.broken("large_schema_crashes") and len(json.dumps(schema)) > 5000:
                raise RuntimeError("too large")
            try:
                instance(schema)
            except Refused as error:
                if self.broken("bad_schema_crashes"):
                    raise RuntimeError("bad schema") from error
                raise

    # What is said

    def cached(self, prompt: list[str]) -> int:
        """Tokens of the longest common beginning with an earlier prompt, in blocks of 16."""
        most = 0
        for earlier in self.prompts:
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(earlier, prompt))
            most = max(most, sum(1 for _ in same))
        if self.broken("prefix_lost") and prompt not in self.prompts:
            most = 0
        self.prompts = [*self.prompts[-3:], prompt]
        return most // 16 * 16

    def usage(self, prompt: list[str], answers: list[Answer]) -> dict[str, Any]:
        p = len(prompt) + self.broken("prompt_count_off")
        c = sum(len(a.tokens) for a in answers) + self.broken("completion_count_off")
        thinking = sum(a.thinking_tokens for a in answers)
        return {
            "prompt_tokens": p,
            "completion_tokens": c,
            "total_tokens": p + c + self.broken("total_off"),
            "prompt_tokens_details": {"cached_tokens": self.cached(prompt)},
            "completion_tokens_details": {"reasoning_tokens": thinking + 99 * self.broken("reasoning_count_off")},
        }

    def logprobs(self, body: dict[str, Any], answer: Answer) -> dict[str, Any]:
        entries = []
        closes = self.broken("closes_thoughts")
        for place, (text, _) in enumerate(answer.tokens):
            if closes and (place == answer.thinking_tokens or (place == 2 and self.broken("closes_twice"))):
                entries.append(self.logprob(body, "</think>", forced=True))
            if text:
                entries.append(self.logprob(body, text, forced=self.broken("text_is_forced") and place == 3))
        return {"content": entries}

    def logprob(self, body: dict[str, Any], text: str, forced: bool = False) -> dict[str, Any]:
        tops = [math.log(0.6), math.log(0.25), *(math.log(0.1 / 2**i) for i in range(18))]
        if self.broken("probabilities_exceed_one"):
            tops[1] = math.log(0.55)
        if self.broken("tops_unsorted"):
            tops[1], tops[2] = tops[2], tops[1]
        chosen = tops[1] if self.broken("chosen_logprob_off") else tops[0]
        said = text.upper() if self.broken("logprobs_of_other_tokens") else text
        top = [{"token": said + "'" * i, "logprob": v, "bytes": []} for i, v in enumerate(tops)]
        if forced:
            chosen = -1.5 if self.broken("forced_logprob_off") else -9.0
            top = top[1:] if not self.broken("forced_contradicts_top") else top
        top = top[: body.get("top_logprobs", 0)]
        return {"token": said, "logprob": chosen, "bytes": list(said.encode()), "top_logprobs": top}

    def sampled(self, entries: list[dict[str, Any]]) -> list[bool]:
        """Beside the ids, as this project's own server tells it."""
        return [self.broken("forced_called_sampled") or e["logprob"] != -9.0 for e in entries]

    def message(self, answer: Answer) -> dict[str, Any]:
        thought = answer.text("thinking")
        message: dict[str, Any] = {"role": "assistant", "content": answer.text("content") or None}
        if thought:
            message["reasoning_content"] = thought
            message["reasoning"] = thought + ("!" if self.broken("fields_differ") else "")
        if answer.names:
            message["tool_calls"] = [self.call(answer, i, answer.text(i)) for i in range(len(answer.names))]
            for call in message["tool_calls"] if self.broken("arguments_are_objects") else []:
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        return message

    def call(self, answer: Answer, i: int, arguments: str) -> dict[str, Any]:
        kind = None if self.broken("calls_have_no_type") else "function"
        return {"id": answer.ids[i], "type": kind, "function": {"name": answer.names[i], "arguments": arguments}}


class _Handler(BaseHTTPRequestHandler):
    server_of: Endpoint
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        s = self.server_of
        time.sleep(max(0.0, s.blocked - time.monotonic()))
        if self.path == "/v1/models":
            name = "other" if s.broken("model_not_listed") else "toy"
            known = {} if s.broken("context_unknown") else {"max_model_len": CONTEXT}
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "test"}]
            # The context stays known to the check that overfills it.
            self._json(200, {"object": "list", "data": [{**models[0], **known}]})
        else:
            self._error(404, f"no {self.path} here")

    def do_POST(self) -> None:
        s = self.server_of
        text = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            if s.dead:
                raise RuntimeError("dead")
            if len(text) > 1_000_000 and s.broken("large_body_blocks"):
                s.blocked = time.monotonic() + 1.3
            body = self._parse(text)
            if self.path == "/v1/messages/count_tokens":
                tools = [
                    t for t in body.get("tools", []) if not t.get("defer_loading") or s.broken("deferred_is_loaded")
                ]
                said = " ".join([*(m["content"] for m in body["messages"]), *(t["description"] for t in tools)])
                self._json(200, {"input_tokens": len(tokenize(said))})
            elif self.path == "/v1/chat/completions":
                self._chat(body)
            elif self.path == "/tokenize":
                self._tokenize(body)
            elif self.path == "/v1/completions":
                prompt, sampled = tokenize(body["prompt"]), Answer(tokens=[(" it", 5)])
                self._json(200, {"choices": [{"text": " it"}], "usage": s.usage(prompt, [sampled])})
            else:
                self._error(404, f"no {self.path} here")
        except Refused as refused:
            self._error(refused.status, str(refused))
        except RuntimeError as error:
            self._error(500, f"internal error: {error}")

    def _parse(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            if self.server_of.broken("malformed_crashes"):
                raise RuntimeError("json") from error
            raise Refused("the body is no JSON") from error

    def _tokenize(self, body: dict[str, Any]) -> None:
        s = self.server_of
        if s.broken("tokenize_text_only") and "messages" in body:
            raise Refused("unknown field 'messages'")
        tokens = s.model.render(body["messages"], None) if "messages" in body else tokenize(body["prompt"])
        if s.broken("tokenize_drops_one"):
            tokens = tokens[1:]
        self._json(200, {"tokens": [token_id(t) for t in tokens], "count": len(tokens)})

    def _chat(self, body: Any) -> None:
        s = self.server_of
        s.check(body)
        if s.broken("neighbour_poisoned"):
            if body.get("temperature") == 1e-46:
                s.poisoned += 1
                time.sleep(0.2)
                s.poisoned -= 1
            elif s.poisoned:
                raise RuntimeError("the batch failed")
        s.asked.append(body)
        for name in (
            "seed",
            "n",
            "logprobs",
            "top_logprobs",
            "response_format",
            "tools",
            "stop",
            "return_token_ids",
            "stream_options",
        ):
            if name in body and s.broken(f"refuses_{name}"):
                raise Refused(f"{name} is not supported")
        s.busy += 1
        try:
            n = 1 if s.broken("n_ignored") else body.get("n", 1)
            prompt = s.model.render(body["messages"], body.get("tools"))
            answers = [s.model.answer(body, i, s.busy > 1) for i in range(n)]
            if "very long story" in str(body["messages"]):
                with s.slot:
                    if body.get("stream"):
                        self._stream_head()
                        self._send_chunks(self._chunks(body, prompt, answers), 4)
                    self._take_long()
                self.close_connection = True
                return
            elif s.broken("batch_varies"):
                time.sleep(0.02)
            with s.slot:
                pass
            if body.get("stream") is True:
                self._stream(body, prompt, answers)
            else:
                self._whole(body, prompt, answers)
        finally:
            s.busy -= 1

    def _take_long(self) -> None:
        """Generate for a while, until the client leaves (if that is noticed)."""
        until = time.monotonic() + STORY_SECONDS
        while time.monotonic() < until:
            readable, _, _ = select.select([self.connection], [], [], 0.02)
            if readable and not self.server_of.broken("generates_for_nobody"):
                return
            if readable:
                time.sleep(0.02)

    def _whole(self, body: dict[str, Any], prompt: list[str], answers: list[Answer]) -> None:
        s = self.server_of
        choices = []
        for i, answer in enumerate(answers):
            choice: dict[str, Any] = {"index": i, "message": s.message(answer), "finish_reason": answer.finish}
            if body.get("logprobs") and not s.broken("logprobs_ignored"):
                choice["logprobs"] = s.logprobs(body, answer)
            if body.get("return_token_ids"):
                choice["token_ids"] = [t for _, t in answer.tokens]
            if body.get("return_token_ids") and "logprobs" in choice and s.broken("tells_sampled"):
                choice["sampled"] = s.sampled(choice["logprobs"]["content"])
            choices.append(choice)
        said: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "text_completion" if s.broken("wrong_object") else "chat.completion",
            "created": 1,
            "model": "toy",
            "choices": choices,
            "usage": s.usage(prompt, answers),
        }
        if body.get("return_token_ids"):
            said["prompt_token_ids"] = [token_id(t) for t in prompt]
        self._json(200, said)

    def _stream_head(self) -> None:
        self.send_response(200)
        kind = "application/json" if self.server_of.broken("stream_type") else "text/event-stream"
        self.send_header("content-type", kind)
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def _send_chunks(self, chunks: Iterator[dict[str, Any]], count: int) -> None:
        for chunk in itertools.islice(chunks, count):
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def _stream(self, body: dict[str, Any], prompt: list[str], answers: list[Answer]) -> None:
        s = self.server_of
        self._stream_head()
        include = (body.get("stream_options") or {}).get("include_usage")
        lines = [": ping", ""]
        if s.broken("odd_line"):
            lines.append("oops")
        for chunk in self._chunks(body, prompt, answers):
            lines += [f"data: {json.dumps(chunk, ensure_ascii=False)}", ""]
        if include:
            last = self._chunk([]) | {"usage": s.usage(prompt, answers)}
            lines += [f"data: {json.dumps(last)}", ""] * (2 if s.broken("usage_twice") else 1)
        lines += [] if s.broken("no_done") else ["data: [DONE]", ""]
        with contextlib.suppress(OSError):
            self.wfile.write(("\n".join(lines) + "\n").encode())

    def _chunks(self, body: dict[str, Any], prompt: list[str], answers: list[Answer]) -> Iterator[dict[str, Any]]:
        s = self.server_of
        for i, answer in enumerate(answers):
            first = self._chunk([self._piece(i, {"role": "assistant", "content": ""})])
            if body.get("return_token_ids"):
                first["prompt_token_ids"] = [token_id(t) for t in prompt]
                first["choices"][0]["token_ids"] = [t for _, t in answer.tokens]
            if body.get("logprobs") and not s.broken("logprobs_ignored"):
                first["choices"][0]["logprobs"] = given = s.logprobs(body, answer)
                if body.get("return_token_ids") and s.broken("tells_sampled"):
                    first["choices"][0]["sampled"] = s.sampled(given["content"])
            yield first
            deltas = self._deltas(answer)
            if s.broken("stream_loses_end") and answer.text("content") == "hello":
                deltas = deltas[:-1]
            if s.broken("thinking_last"):
                deltas.sort(key=lambda d: "reasoning_content" in d)
            if s.broken("one_piece") and not answer.names:
                deltas = [{"content": answer.text("content"), "reasoning_content": answer.text("thinking")}]
            end = self._chunk([self._piece(i, {}, answer.finish)])
            late = deltas[-1:] if s.broken("text_after_end") else []
            for delta in deltas[: len(deltas) - len(late)]:
                if s.broken("role_in_every_chunk"):
                    delta = {"role": "assistant", **delta}
                yield self._chunk([self._piece(i, delta)])
            yield end
            for delta in late:
                yield self._chunk([self._piece(i, delta)])

    def _deltas(self, answer: Answer) -> list[dict[str, Any]]:
        s = self.server_of
        deltas: list[dict[str, Any]] = []
        opened: set[int] = set()
        for channel, text in answer.pieces:
            if channel == "thinking":
                deltas.append({"reasoning_content": text, "reasoning": text})
            elif channel == "content":
                deltas.append({"content": text})
            elif isinstance(channel, int):
                if s.broken("stream_loses_second_call") and channel == 1:
                    continue
                if channel not in opened:
                    opened.add(channel)
                    call = s.call(answer, channel, "")
                    if s.broken("name_comes_last"):
                        call["function"]["name"] = ""
                    deltas.append({"tool_calls": [{"index": channel, **call}]})
                deltas.append({"tool_calls": [{"index": channel, "function": {"arguments": text}}]})
        if s.broken("name_comes_last"):
            deltas += [{"tool_calls": [{"index": i, "function": {"name": answer.names[i]}}]} for i in sorted(opened)]
        return deltas

    def _piece(self, i: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": i, "delta": delta, "finish_reason": finish}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "toy"}
        if self.server_of.broken("chunk_ids_differ"):
            chunk["id"] = f"chatcmpl-{time.monotonic_ns()}"
        return {**chunk, "choices": choices}

    def _error(self, status: int, message: str) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        self._json(status, {"detail": message} if self.server_of.broken("errors_without_object") else {"error": error})

    def _json(self, status: int, body: Any) -> None:
        data = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data)
