"""From a request to a generation: restore the history, render, check what fits, set the budgets,
submit."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from abruzzi.engine.answer import Asked, call_openers, parser_after
from abruzzi.engine.budget import require_closable, thinking_tokens
from abruzzi.engine.sampler import seed_of
from abruzzi.server.engine_thread import Engine, EngineThread
from abruzzi.server.errors import ApiError, ContextExceeded
from abruzzi.server.generation import Choice, End, Generation
from abruzzi.server.memory.history import History, Restorer
from abruzzi.server.memory.seal import SampledTurn, Seal, content_hash, wire_id
from abruzzi.server.memory.store import ReasoningStore
from abruzzi.server.metrics import Metrics
from abruzzi.server.offload import SMALL, Offload, weight
from abruzzi.server.request import ChatRequest
from abruzzi.server.structure import DROPPED_HEADER, MAX_TOTAL_CHARS, RequestGrammars, dropped_header
from abruzzi.tokenizer import Tokenizer, generation_prefix, render
from abruzzi.tokenizer.formats.spans import assistant_prefix
from abruzzi.types import Message, SamplingParams, ToolCall

if TYPE_CHECKING:
    from abruzzi.engine.grammar.turn import TurnGrammar

REASONING_FIELDS = ("both", "reasoning_content", "reasoning")
STATES_HEADER = "X-Abruzzi-Reasoning"
LEAST_OF_MESSAGE = 3  # tokens: its header's two and its end
INDENTED = 8  # times as long as they were: JSON with spaces and lines
COUNTED_CHARS = 2_000_000  # text whose tokens are counted, though it may not fit the context


@dataclass(frozen=True, slots=True)
class Settings:
    """names: what the model is called, the first one in answers. isa: what the kernels run on, for
    /health.

    temperature: of requests that name none. reasoning_field: under which name(s) thoughts are sent.
    constrained: False leaves calls as the model writes them where a request demands no form, to
    measure how often it errs. lenient_fields: fields that no reader knows are dropped and named in
    a header. ignore_hosted_tools: so are tools that only their vendor can run."""

    names: tuple[str, ...]
    isa: str = "unknown"
    temperature: float = 1.0
    strict_reasoning: bool = False
    reasoning_field: str = "both"
    constrained: bool = True
    max_body: int = 32 * 2**20
    body_seconds: float = 30.0
    ping_seconds: float = 15.0
    lenient_fields: bool = False
    ignore_hosted_tools: bool = False
    started: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("names is empty; expected at least one name for the model")
        if self.reasoning_field not in REASONING_FIELDS:
            raise ValueError(f"reasoning_field={self.reasoning_field!r}; expected one of {', '.join(REASONING_FIELDS)}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered request. ids, and of each whether the model sampled it; header: those that begin
    the answer.

    history: None for exact prompt ids."""

    history: History | None
    ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    header: tuple[int, ...]


class Service:
    """What the dialects share. Owns no thread and no file: they are given to it."""

    def __init__(self, engine: EngineThread, store: ReasoningStore, seal: Seal, settings: Settings) -> None:
        self.engine, self.store, self.seal, self.settings = engine, store, seal, settings
        self.tok: Tokenizer = engine.llm.tokenizer
        self.metrics = Metrics()
        self.offload = Offload()
        self.grammars = RequestGrammars(self.tok, engine.llm.vocab_size, self.metrics.schemas)
        self.running: dict[str, tuple[bytes, Generation]] = {}
        model = f"{engine.llm.name} {_fingerprint(self.tok)}"
        self._restorer = Restorer(self.tok, model, store, seal, settings.strict_reasoning)

    @property
    def llm(self) -> Engine:
        return self.engine.llm

    def require_model(self, name: str | None) -> str:
        """The name to answer with. Raises ApiError 404 for a model that is not here."""
        if name is not None and name not in self.settings.names:
            raise ApiError(
                404,
                f"model {name!r:.100} is not served here; hint: this server has {', '.join(self.settings.names)}",
                "model",
                "model_not_found",
            )
        return name or self.settings.names[0]

    # prompts

    async def counted(self, scope: bytes, request: ChatRequest) -> Prompt:
        """What a request is rendered to, though it may not fit the context. Raises ApiError."""
        most = max(self.llm.max_context, COUNTED_CHARS // self.tok.longest)
        return await self.offload.run(_size(request), self._prompt, scope, request, most)

    def require_tokens(self, least: int, most: int | None = None) -> None:
        """Raises ApiError when a prompt of `least` tokens or more has too many: before it is
        encoded. most: None = as many as leave room for an answer."""
        most = self.llm.max_context - 1 if most is None else most
        if least > most:
            raise ContextExceeded(least, self.llm.max_context, at_least=True)

    def least_tokens(self, text: str) -> int:
        """A lower bound of the tokens of a text, from its length."""
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        return -(-size // self.tok.longest)

    def _prompt(self, scope: bytes, request: ChatRequest, most: int | None = None) -> Prompt:
        """The history put back and rendered, in a worker where it is large. most: tokens, as in
        `require_tokens`.

        What cannot fit is refused before it is hashed or encoded; a thought may be left out, so it
        does not count."""
        if request.prompt_ids is not None:
            exact = request.prompt_ids
            return Prompt(None, exact, (False,) * len(exact), self._assistant_header(exact))
        schemas = request.structure.schemas
        for name, value in (("tools", request.tools), ("the schemas", [s.value for s in schemas])):
            if weight(value, MAX_TOTAL_CHARS + 1) > MAX_TOTAL_CHARS:
                raise ApiError(400, f"{name} have more than {MAX_TOTAL_CHARS} characters", "tools", "invalid_value")
        self._require_fit(request.messages, most)
        history = self.history(scope, request)
        self._require_fit(history.messages, most, restored=True)
        for schema in schemas:
            _ = schema.key  # kept with it: dumped here, so that the event loop need not
        ids, sampled = self._render(request, history)
        begun = self._begun(request)
        header = generation_prefix(self.tok, self.thinks(request)) if begun is None else begun
        return Prompt(history, tuple(ids), tuple(sampled), header)

    def _require_fit(self, messages: Sequence[Message], most: int | None, restored: bool = False) -> None:
        """Of messages that may still be turns of ours, what their layout may have changed does not
        count."""
        least = 0
        for message in messages:
            least += LEAST_OF_MESSAGE
            if message.ids is None and message.content:
                ours = message.role == "assistant" and not restored
                least += self.least_tokens(message.content.strip() if ours else message.content)
            if message.ids is None:  # arguments of ours may have been indented
                share = 1 if restored else INDENTED
                least += sum(self.least_tokens(call.arguments) // share for call in message.tool_calls)
        self.require_tokens(least, most)

    def history(self, scope: bytes, request: ChatRequest) -> History:
        """The request's messages with their sampled ids put back."""
        history = self._restorer.resolve(
            scope, request.messages, request.seals, request.tools, request.preserve_thinking
        )
        history.prefill = request.prefill
        return history

    def _render(self, request: ChatRequest, history: History) -> tuple[list[int], list[bool]]:
        """Prompt ids, and of each whether the model sampled it. Raises ApiError for messages that
        make no conversation."""
        tools = list(request.tools) if request.may_call else []
        begun = self._begun(request)
        try:
            rendered = render(
                self.tok,
                history.messages,
                tools or None,
                preserve_thinking=request.preserve_thinking,
                thinking=begun is not None or self.thinks(request),
            )
        except ValueError as error:
            raise ApiError(400, str(error), "messages", "invalid_value") from None
        rendered.add(begun or (), False)
        return rendered.ids, rendered.sampled

    def _begun(self, request: ChatRequest) -> tuple[int, ...] | None:
        """The ids of a prefill, behind the assistant's header: its thought, closed, and its
        text."""
        if request.prefill is None:
            return None
        thought, text = request.prefill.reasoning_content or "", request.prefill.content or ""
        markers = self.tok.marker_ids
        closed = (*markers.open_thought, *self.tok.encode(thought), *markers.close_thought)
        return (*closed, *self.tok.encode(text))

    async def start(self, scope: bytes, request: ChatRequest, id_prefix: str, call_prefix: str = "call_") -> Generation:
        """Compile what the answer must look like and submit a request; its choices run from now on.
        Raises ApiError."""
        self.engine.require_room(request.n)
        prompt = await self.offload.run(_size(request), self._prompt, scope, request)
        self._limit(prompt.ids, request.params)  # what does not fit is not compiled either
        grammar = await self._grammar(request)
        asked = self._asked(request, prompt.ids, prompt.header, grammar)
        self.engine.require_room(request.n)  # others came while this one was read
        try:
            choices = self._choices(asked, request.n, call_prefix)
        except ApiError as error:
            if request.prefill is None or error.param != "prompt_token_ids":
                raise
            raise ApiError(400, f"the last message cannot be continued: {error}", "messages", error.code) from None
        generation = Generation(wire_id(id_prefix), choices)
        if grammar is not None and grammar.dropped:
            generation.headers[DROPPED_HEADER] = dropped_header(grammar.dropped)
        if prompt.history is not None:
            generation.headers[STATES_HEADER] = prompt.history.header()
        self._register(scope, generation, prompt.history)
        return generation

    def start_raw(self, scope: bytes, prompts: Sequence[Sequence[int]], params: SamplingParams, n: int) -> Generation:
        """Continue bare prompts (no chat): n choices of each, in the prompts' order."""
        self.engine.require_room(n * len(prompts))
        asked = [Asked(tuple(p), (), params, self._limit(p, params), chat=False) for p in prompts]
        generation = Generation(wire_id("cmpl-"), [])
        for each in asked:
            generation.choices += self._choices(each, n)
        self._register(scope, generation, None)
        return generation

    # parts

    async def _grammar(self, request: ChatRequest) -> TurnGrammar | None:
        """What the turn may be; None where it may be anything. Without tools, a call that the model
        begins all the same ends its turn (no_call), which costs nothing."""
        structure = request.structure
        if not request.tools and structure.answer is None:
            return None
        if structure.demanded is None and not self.settings.constrained:
            return None
        made = sum(len(m.tool_calls) for m in request.messages)
        return await self.grammars.of(structure, made, self.thinks(request))

    def thinks(self, request: ChatRequest) -> bool:
        """Whether the answer begins with a thought."""
        if request.prefill is not None:
            return bool(request.prefill.reasoning_content)
        return self.llm.thinking if request.thinking is None else request.thinking

    def _limit(self, prompt: Sequence[int], params: SamplingParams) -> int:
        """How many tokens may follow."""
        if not prompt:
            raise ApiError(400, "the prompt is empty; expected at least one token", "prompt", "invalid_value")
        room = self.llm.max_context - len(prompt)
        if room < 1:
            raise ContextExceeded(len(prompt), self.llm.max_context)
        return room if params.max_tokens is None else min(params.max_tokens, room)

    def _asked(
        self, request: ChatRequest, prompt: tuple[int, ...], header: tuple[int, ...], grammar: TurnGrammar | None
    ) -> Asked:
        limit, budget = self._limit(prompt, request.params), request.params.thinking_budget
        if budget is not None or request.effort is not None:
            try:
                require_closable(self.tok)
            except ValueError as error:
                raise ApiError(400, str(error), "thinking_token_budget", "unsupported_value") from None
        if request.effort is not None:
            self.metrics.efforts[request.effort] = self.metrics.efforts.get(request.effort, 0) + 1
        no_call = frozenset() if request.may_call else call_openers(self.tok)
        thought = thinking_tokens(limit, budget, request.effort)
        return Asked(prompt, header, request.params, limit, thought, no_call, grammar)

    def _assistant_header(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """What stands behind the last assistant header of exact prompt ids: an open thought, or
        nothing."""
        header = assistant_prefix(self.tok, prompt)
        parser = parser_after(self.tok, header)
        if parser.message().tool_calls or any(i in self.tok.end_ids for i in header):
            raise ApiError(
                400,
                "prompt_token_ids end inside a tool call or behind the end of the assistant's turn; "
                "hint: end them with the assistant's header, in its thought or in its text",
                "prompt_token_ids",
                "invalid_value",
            )
        return header

    def _choices(self, asked: Asked, n: int, call_prefix: str = "call_") -> list[Choice]:
        """n choices; with a seed, each draws with its own: no sample of one seed is a sample of the
        next seed."""
        seed = asked.params.seed
        seeds = [None if seed is None else seed_of(seed, k) for k in range(n)]
        each = [replace(asked, params=replace(asked.params, seed=s)) for s in seeds]
        return [Choice(self.engine, one, call_prefix) for one in each]

    def _register(self, scope: bytes, generation: Generation, history: History | None) -> None:
        self.metrics.started(len(generation.choices))
        self.running[generation.id] = (scope, generation)
        ended = [0]

        def on_end(choice: Choice, end: End) -> None:
            ended[0] += 1
            self.metrics.ended(end)
            kept = end.error is None and (history is None or history.prefill is None or end.stop is None)
            if history is not None and kept:
                self.store.put(scope, _turn(history, choice, end), [c.id for c in end.message.tool_calls])

        def on_close() -> None:
            if self.running.pop(generation.id, None) is not None:
                self.metrics.closed(len(generation.choices) - ended[0])

        def seal(choice: Choice, end: End | None) -> str:
            assert history is not None, "only a conversation has turns to seal"
            return self.seal.write(scope, _turn(history, choice, end))

        generation.on_end, generation.on_close, generation.seal = on_end, on_close, seal


def _size(request: ChatRequest) -> int:
    """About how much there is to render, as far as it decides where."""
    if request.prompt_ids is not None:
        return len(request.prompt_ids)
    texts = [t for m in request.messages[:SMALL] for t in (m.content, m.reasoning_content, *m.tool_calls) if t]
    calls = [t.arguments if isinstance(t, ToolCall) else t for t in texts]
    # A message costs more than its characters.
    return 100 * len(request.messages) + weight((calls, request.tools), SMALL + 1)


def _turn(history: History, choice: Choice, end: End | None) -> SampledTurn:
    """The turn to remember; only its thought while it goes on (end None), and when a stop string
    cut the answer: what was cut off was sampled, but never said."""
    prefill = "" if history.prefill is None else history.prefill.content or ""
    text = None if end is None else prefill + (end.message.content or "")  # clients keep both as one message
    said = content_hash(text, () if end is None else end.message.tool_calls)
    if end is None or end.stop is not None:
        return SampledTurn(history.prefix, said, *choice.thought_ids(), whole=False)
    ids = end.message.ids or ()
    return SampledTurn(history.prefix, said, ids, end.message.sampled or (True,) * len(ids))


def _fingerprint(tok: Tokenizer) -> str:
    """Which vocabulary ids belong to: its size, its control tokens, some of its words."""
    some = [tok.token_bytes(i).hex() for i in range(0, tok.vocab_size, max(1, tok.vocab_size // 64)) if _known(tok, i)]
    text = json.dumps([tok.vocab_size, sorted(tok.control.items()), some])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _known(tok: Tokenizer, token_id: int) -> bool:
    try:
        tok.token_bytes(token_id)
    except ValueError:
        return False
    return True
