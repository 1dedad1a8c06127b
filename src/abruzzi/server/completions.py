"""POST /v1/completions: bare prompts (text or token ids) continued, no chat format."""

from __future__ import annotations

import codecs
import time
from dataclasses import dataclass
from typing import Any

from abruzzi.engine.sequence import Token
from abruzzi.server.chat_completions import fingerprint, timings_of
from abruzzi.server.errors import ApiError, openai_error, unsupported
from abruzzi.server.fields import Fields, required, wrong
from abruzzi.server.generation import Batch, End, Generation
from abruzzi.server.request import MAX_N, model_name, sampling, stop_strings
from abruzzi.server.service import Service
from abruzzi.server.sse import event
from abruzzi.tokenizer import Tokenizer
from abruzzi.types import ContentDelta, SamplingParams

MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16  # OpenAI's


@dataclass(frozen=True, slots=True)
class Completion:
    """What is wanted. prompts: ids; echo: the text of the prompt in front of the answer."""

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


def read_completion(service: Service, given: object) -> Completion:
    """Raises ApiError that names what is wrong."""
    from abruzzi.server.chat_fields import include_usage

    body = Fields(given)
    model = service.require_model(model_name(body))
    prompts = _prompts(service, body)
    stream = body.boolean("stream") or False
    max_tokens = body.integer("max_tokens", 1)
    logprobs = body.integer("logprobs", 0, 5)
    echo = body.boolean("echo") or False
    if echo and logprobs is not None:
        raise unsupported("echo", True, "log-probabilities of the prompt are not given; leave logprobs out")
    n = body.integer("n", 1, MAX_N) or 1
    body.only("best_of", n, hint="choose among n yourself")
    body.only("suffix", "", hint="this model does not fill gaps")
    for name in ("frequency_penalty", "presence_penalty"):
        body.only(name, 0, 0.0, hint="this server does not have it")
    body.only("logit_bias", {}, hint="this server does not have it")
    body.label("user", str)
    wanted = Completion(
        model=model,
        prompts=prompts,
        params=sampling(
            body,
            max_tokens or DEFAULT_MAX_TOKENS,
            stop_strings(body, "stop"),
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
    body.end()
    return wanted


def _prompts(service: Service, body: Fields) -> tuple[tuple[int, ...], ...]:
    """prompt: a text, a list of texts, ids, or a list of lists of ids."""
    given = body.any("prompt")
    if given is None:
        raise required("prompt")
    several = isinstance(given, list) and (not given or isinstance(given[0], (str, list)))
    listed = given if several else [given]
    if not listed or len(listed) > MAX_PROMPTS:
        raise wrong("prompt", f"1 to {MAX_PROMPTS} prompts", given)
    return tuple(_prompt_ids(service, p) for p in listed)


def _prompt_ids(service: Service, prompt: object) -> tuple[int, ...]:
    if not isinstance(prompt, str):
        ids = Fields({"prompt": prompt}).token_ids("prompt", service.tok.vocab_size)
        assert ids is not None
        return ids
    try:
        return tuple(service.tok.encode(prompt))
    except ValueError as error:
        raise ApiError(400, str(error), "prompt", "invalid_value") from None


class CompletionEncoder:
    """One text completion; its choices are numbered prompt by prompt."""

    def __init__(self, tok: Tokenizer, generation: Generation, wanted: Completion) -> None:
        self._tok, self._generation, self._wanted = tok, generation, wanted
        self._created = int(time.time())
        self._ends: dict[int, End] = {}
        self._spellings: dict[int, _Spelling] = {}

    def start(self) -> bytes:
        if not self._wanted.echo:
            return b""
        return b"".join(self._chunk(at, self._echo(at), ()) for at in range(len(self._generation.choices)))

    def batch(self, at: int, batch: Batch) -> bytes:
        text = "".join(e.text for e in batch.events if isinstance(e, ContentDelta))
        beside = self._wanted.logprobs or self._wanted.token_ids
        return self._chunk(at, text, batch.tokens) if text or (beside and batch.tokens) else b""

    def end(self, at: int, end: End) -> bytes:
        self._ends[at] = end
        return self._chunk(at, "", (), _reason(end))

    def close(self) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self._wanted.include_usage:
            return done
        return event({**self._frame(), "choices": [], "usage": self._usage(self._ends)}) + done

    def error(self, error: ApiError) -> bytes:
        return event(openai_error(error)) + b"data: [DONE]\n\n"

    def body(self, ends: list[End]) -> dict[str, Any]:
        choices = []
        for at, end in enumerate(ends):
            text = self._echo(at) + (end.message.content or "")
            choices.append({"index": at, "text": text, **self._beside(at, end.tokens), "finish_reason": _reason(end)})
        usage = self._usage(dict(enumerate(ends)))
        return {**self._frame(), "choices": choices, "usage": usage, "timings": timings_of(ends)}

    def _echo(self, at: int) -> str:
        return self._tok.decode(self._generation.choices[at].job.prompt) if self._wanted.echo else ""

    def _beside(self, at: int, tokens: tuple[Token, ...]) -> dict[str, Any]:
        out: dict[str, Any] = {"logprobs": None}
        if self._wanted.logprobs:
            if at not in self._spellings:
                self._spellings[at] = _Spelling(self._tok, len(self._echo(at)))
            top = [{piece(self._tok, i): p for i, p in (*reversed(t.top), (t.id, t.logprob))} for t in tokens]
            out["logprobs"] = {
                "tokens": [piece(self._tok, t.id) for t in tokens],
                "token_logprobs": [t.logprob for t in tokens],
                "top_logprobs": top if self._wanted.params.top_logprobs else None,
                "text_offset": [self._spellings[at].offset(t.id) for t in tokens],
            }
        if self._wanted.token_ids:
            out["token_ids"] = [t.id for t in tokens]
            out["prompt_token_ids"] = list(self._generation.choices[at].job.prompt)
        return out

    def _chunk(self, at: int, text: str, tokens: tuple[Token, ...], finish: str | None = None) -> bytes:
        choice = {"index": at, "text": text, **self._beside(at, tokens), "finish_reason": finish}
        usage = {"usage": None} if self._wanted.include_usage else {}
        return event({**self._frame(), "choices": [choice], **usage})

    def _usage(self, ends: dict[int, End]) -> dict[str, Any]:
        firsts = [e.usage for at, e in ends.items() if at % self._wanted.n == 0]
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
            "model": self._wanted.model,
            "system_fingerprint": self._wanted.fingerprint,
        }


class _Spelling:
    """Where each token begins in the text of its choice, in characters. start: of the text that was echoed."""

    def __init__(self, tok: Tokenizer, start: int) -> None:
        self._tok, self._length = tok, start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def offset(self, token_id: int) -> int:
        start = self._length
        if token_id not in self._tok.end_ids:
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
