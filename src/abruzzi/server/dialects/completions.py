"""POST /v1/completions, read and written: raw completion of text or token ids, no chat format."""

from __future__ import annotations

import codecs
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from abruzzi.engine.measure.score import score
from abruzzi.engine.sequence import Token
from abruzzi.server.dialects.common import (
    MAX_N,
    MAX_STOP_CHARS,
    MAX_STOPS,
    failure_of,
    fingerprint,
    include_usage,
    model_name,
    sampling,
    timings_of,
)
from abruzzi.server.dialects.neutral import read_neutral
from abruzzi.server.errors import ApiError, openai_error, unsupported
from abruzzi.server.fields import Fields, JsonSchema, wrong
from abruzzi.server.generation import Batch, End, Generation
from abruzzi.server.service import Service
from abruzzi.server.sse import event
from abruzzi.tokenizer import Tokenizer
from abruzzi.types import ContentDelta, SamplingParams

MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_SCORED_BYTES = 2**30  # of the logits of one prompt
Scored = list[tuple[Token, ...]] | None  # of each prompt, its tokens but the first


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion request. prompts: ids; echo: the text of the prompt in front of the answer."""

    model: str
    prompts: tuple[tuple[int, ...], ...]
    params: SamplingParams
    n: int
    echo: bool
    logprobs: bool
    token_ids: bool
    stream: bool
    include_usage: bool
    fingerprint: str


def read_completion(service: Service, body: Fields) -> Completion:
    """Raises ApiError that names what is wrong."""
    model = model_name(service, body)
    prompts = _prompts(service, body)
    stream = body.boolean("stream") or False
    max_tokens = body.integer("max_tokens", 1)
    # false is chat's way to say none
    logprobs = body.raw("logprobs", {}) if body.peek("logprobs") is False else body.integer("logprobs", 0, 5)
    logprobs = None if logprobs is False else logprobs
    echo = body.boolean("echo") or False
    if echo and logprobs is not None:
        _require_memory(service, prompts)
    n, best_of = body.integer("n", 1, MAX_N) or 1, body.integer("best_of", 1, MAX_N)
    if best_of not in (None, n):
        raise unsupported("best_of", best_of, "choose among n yourself")
    body.label("user", str)
    asked = Completion(
        model=model,
        prompts=prompts,
        params=sampling(
            body,
            max_tokens or DEFAULT_MAX_TOKENS,
            body.strings("stop", MAX_STOPS, MAX_STOP_CHARS),
            None,
            service.settings.temperature,
            top_logprobs=logprobs or 0,
        ),
        n=n,
        echo=echo,
        logprobs=logprobs is not None,
        token_ids=body.boolean("return_token_ids") or False,
        stream=stream,
        include_usage=include_usage(body, stream),
        fingerprint=fingerprint(service.settings.isa),
    )
    read_neutral(body)
    return asked


def _require_memory(service: Service, prompts: tuple[tuple[int, ...], ...]) -> None:
    """The logits of a prompt are held at once, and one token must fit behind it."""
    longest = max(map(len, prompts))
    room = min(service.llm.max_context - 1, MAX_SCORED_BYTES // (4 * service.llm.vocab_size))
    if longest > room:
        raise unsupported("echo", True, f"with logprobs a prompt may have {room} tokens, and one has {longest}")


async def score_prompts(service: Service, asked: Completion) -> Scored:
    """The prompts' own log-probabilities, where echo and logprobs ask for them. Raises ApiError."""
    if not (asked.echo and asked.logprobs):
        return None
    top = asked.params.top_logprobs
    return [await service.engine.ask(partial(score, service.llm, p, top)) for p in asked.prompts]


def _prompts(service: Service, body: Fields) -> tuple[tuple[int, ...], ...]:
    """prompt: a text, a list of texts, ids, or a list of lists of ids."""
    ids: JsonSchema = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": service.tok.vocab_size - 1},
    }
    one: list[JsonSchema] = [{"type": "string"}, {**ids, "minItems": 1}]
    several = {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": {"anyOf": one}}
    prompt = body.raw("prompt", {"anyOf": [*one, several]}, need=True)
    is_list = isinstance(prompt, list) and (not prompt or isinstance(prompt[0], (str, list)))
    prompts = prompt if is_list else [prompt]
    if not prompts or len(prompts) > MAX_PROMPTS:
        raise wrong("prompt", f"1 to {MAX_PROMPTS} prompts", prompt)
    return tuple(_prompt_ids(service, p) for p in prompts)


def _prompt_ids(service: Service, prompt: object) -> tuple[int, ...]:
    if not isinstance(prompt, str):
        return Fields({"prompt": prompt}).token_ids("prompt", service.tok.vocab_size, need=True)
    service.require_tokens(service.least_tokens(prompt))
    try:
        return tuple(service.tok.encode(prompt))
    except ValueError as error:
        raise ApiError(400, str(error), "prompt", "invalid_value") from None


class CompletionEncoder:
    """One text completion; its choices are numbered prompt by prompt."""

    def __init__(self, tok: Tokenizer, generation: Generation, asked: Completion, scored: Scored = None) -> None:
        self._tok, self._generation, self._asked, self._scored = tok, generation, asked, scored
        self._created = int(time.time())
        self._ends: dict[int, End] = {}
        self._spellings: dict[int, _Spelling] = {}

    def start(self) -> bytes:
        if not self._asked.echo:
            return b""
        return b"".join(
            self._chunk(index, self._echo(index), (), extra=self._echoed(index))
            for index in range(len(self._generation.choices))
        )

    def batch(self, index: int, batch: Batch) -> bytes:
        text = "".join(e.text for e in batch.events if isinstance(e, ContentDelta))
        extra = self._asked.logprobs or self._asked.token_ids
        return self._chunk(index, text, batch.tokens) if text or (extra and batch.tokens) else b""

    def end(self, index: int, end: End) -> bytes:
        self._ends[index] = end
        return self._chunk(index, "", (), _reason(end), failure_of(end))

    def close(self) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self._asked.include_usage:
            return done
        return event({**self._frame(), "choices": [], "usage": self._usage(self._ends)}) + done

    def error(self, error: ApiError) -> bytes:
        return event(openai_error(error)) + b"data: [DONE]\n\n"

    def body(self, ends: list[End]) -> dict[str, Any]:
        choices = []
        for index, end in enumerate(ends):
            text = self._echo(index) + (end.message.content or "")
            echoed = self._echoed(index)["logprobs"]
            extra = self._token_fields(index, end.tokens)
            if echoed is not None:
                extra["logprobs"] = {
                    name: None if echoed[name] is None else echoed[name] + more
                    for name, more in extra["logprobs"].items()
                }
            fields = {**extra, **failure_of(end), "finish_reason": _reason(end)}
            choices.append({"index": index, "text": text, **fields})
        usage = self._usage(dict(enumerate(ends)))
        return {**self._frame(), "choices": choices, "usage": usage, "timings": timings_of(ends)}

    def _echo(self, index: int) -> str:
        return self._tok.decode(self._generation.choices[index].asked.prompt) if self._asked.echo else ""

    def _token_fields(self, index: int, tokens: tuple[Token, ...]) -> dict[str, Any]:
        out: dict[str, Any] = {"logprobs": None}
        if self._asked.logprobs:
            if index not in self._spellings:
                self._spellings[index] = _Spelling(self._tok, len(self._echo(index)))
            offsets = [self._spellings[index].offset(t.id) for t in tokens]
            out["logprobs"] = self._listed([(t.id, t) for t in tokens], offsets)
        if self._asked.token_ids:
            out["token_ids"] = [t.id for t in tokens]
            out["prompt_token_ids"] = list(self._generation.choices[index].asked.prompt)
        return out

    def _echoed(self, index: int) -> dict[str, Any]:
        """The log-probabilities of the prompt; the first token has none."""
        if self._scored is None:
            return {"logprobs": None}
        prompt = self._generation.choices[index].asked.prompt
        spelling = _Spelling(self._tok, 0, all_shown=True)
        tokens = (None, *self._scored[index // self._asked.n])
        return {"logprobs": self._listed(list(zip(prompt, tokens)), [spelling.offset(i) for i in prompt])}

    def _listed(self, tokens: list[tuple[int, Token | None]], offsets: list[int]) -> dict[str, Any]:
        tops = [
            t and {piece(self._tok, i): logprob for i, logprob in (*reversed(t.top), (t.id, t.logprob))}
            for _, t in tokens
        ]
        return {
            "tokens": [piece(self._tok, token_id) for token_id, _ in tokens],
            "token_logprobs": [t and t.logprob for _, t in tokens],
            "top_logprobs": tops if self._asked.params.top_logprobs else None,
            "text_offset": offsets,
        }

    def _chunk(
        self,
        index: int,
        text: str,
        tokens: tuple[Token, ...],
        finish: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> bytes:
        fields = {**self._token_fields(index, tokens), "finish_reason": finish, **(extra or {})}
        choice = {"index": index, "text": text, **fields}
        usage = {"usage": None} if self._asked.include_usage else {}
        return event({**self._frame(), "choices": [choice], **usage})

    def _usage(self, ends: dict[int, End]) -> dict[str, Any]:
        firsts = [e.usage for index, e in ends.items() if index % self._asked.n == 0]
        prompt = sum(u.prompt_tokens for u in firsts)
        completion = sum(e.usage.completion_tokens for e in ends.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(u.cached_tokens for u in firsts)},
        }

    def _frame(self) -> dict[str, Any]:
        return {
            "id": self._generation.id,
            "object": "text_completion",
            "created": self._created,
            "model": self._asked.model,
            "system_fingerprint": self._asked.fingerprint,
        }


class _Spelling:
    """text_offset: where each token begins in its choice's text, in characters. start: the first
    one's.

    all_shown: in a prompt, ends of turns are text as well."""

    def __init__(self, tok: Tokenizer, start: int, all_shown: bool = False) -> None:
        self._tok, self._length = tok, start
        self._hidden: Collection[int] = () if all_shown else tok.end_ids
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def offset(self, token_id: int) -> int:
        start = self._length
        if token_id not in self._hidden:
            self._length += len(self._decoder.decode(self._tok.token_bytes(token_id)))
        return start


def piece(tok: Tokenizer, token_id: int) -> str:
    """A token as text; one that is no whole character as OpenAI writes it: "bytes:\\xf0\\x9f"."""
    raw = tok.token_bytes(token_id)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _reason(end: End) -> str:
    return "stop" if end.finish_reason == "tool_calls" else end.finish_reason
