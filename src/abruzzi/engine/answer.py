"""One way from tokens to an answer: ids in, events out, for `LLM.chat` and for the server's
choices.

No thread, no socket, no clock. An Answer follows one turn of the assistant: it says what the engine
is to run (`submission`: ids, parameters, constraint), reads each token that comes (`feed`), and
says when the turn is over (`ended`). A turn that the model ends inside its thought is resumed: the
thought is closed in its place and the answer follows, from ids whose latents are in the cache.

Example, for "What is 17 * 23?" and no tools (one feed a token, here by pieces):

    answer = Answer(tok, Asked(prompt, (), SamplingParams(stop=("Q:",)), limit=100, thinking_budget=75))
    feed(open thought), feed("17*20+51")    -> [], [ReasoningDelta("17*20+51")]
    feed(end of turn, "stop")               -> [], answer.ended is a Resume: submit its ids; a close is forced
    feed(close), feed("391"), feed("Q")     -> [], [ContentDelta("391")], []      "Q" may begin the stop string
    feed(end of turn, "stop")               -> [ContentDelta("Q")], answer.ended == Ended("stop")
    answer.message()                        -> content "391Q", ids and flags; the closing id has sampled=False
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from abruzzi.engine.budget import ThinkingBudget, ThoughtEnd
from abruzzi.engine.constraint import Both, Constraint
from abruzzi.engine.plain_text import PlainText
from abruzzi.engine.sequence import Token
from abruzzi.engine.stop_strings import StopStrings
from abruzzi.tokenizer import ChatParser, Tokenizer
from abruzzi.types import (
    ContentDelta,
    FinishReason,
    Message,
    MessageEnd,
    ParserEvent,
    ReasoningDelta,
    SamplingParams,
    Usage,
)

if TYPE_CHECKING:
    from abruzzi.engine.grammar.turn import TurnConstraint, TurnGrammar


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer is made to. prompt: all ids; header: those at its end that belong to the
    assistant's turn.

    limit: tokens that may be generated. thinking_budget: of them, how many may be thought; None =
    any number. no_call: control ids that may not come; one that does ends the turn in front of it
    (`call_openers`). grammar: what the turn may be, None = anything. chat=False: all ids are plain
    text."""

    prompt: tuple[int, ...]
    header: tuple[int, ...]
    params: SamplingParams
    limit: int
    thinking_budget: int | None = None
    no_call: frozenset[int] = frozenset()
    grammar: TurnGrammar | None = None
    chat: bool = True


@dataclass(frozen=True, slots=True)
class Submission:
    """What the engine is to run: `LLM.submit(ids, params, constraint)`."""

    ids: tuple[int, ...]
    params: SamplingParams
    constraint: Constraint | None


@dataclass(frozen=True, slots=True)
class Resume(Submission):
    """The thought ended the turn: drop the sequence that ran and go on with this one."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The turn is over. stop: the stop string that ended it."""

    reason: FinishReason
    stop: str | None = None


class Answer:
    """One turn of the assistant, token by token.

    tokens: those that belong to the turn. thought_end: how its thought ended. Raises ValueError for
    a header that the grammar does not allow."""

    def __init__(self, tok: Tokenizer, asked: Asked) -> None:
        self.asked = asked
        self.tokens: list[Token] = []
        self.ended: Ended | Resume | None = None
        self._tok = tok
        self._parser = parser_after(tok, asked.header) if asked.chat else PlainText(tok)
        self._stops = StopStrings(asked.params.stop)
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._thought = self._parser.in_thinking  # whether there ever was one
        self._thought_end: ThoughtEnd = None
        self._thought_length: int | None = None  # of the header's and the turn's ids, once it has ended
        self._budget: ThinkingBudget | None = None
        self._turn: TurnConstraint | None = None
        self.submission = Submission(asked.prompt, self._params(), self._constraint())

    # tokens in

    def feed(self, token: Token, finish: FinishReason | None = None) -> list[ParserEvent]:
        """The events that a token completes. finish: why the engine ended the sequence with it, if
        it did.

        Afterwards `ended` says whether more is to come; a token that ended the turn in the wrong
        place is dropped."""
        assert not isinstance(self.ended, Ended), "a token came behind the end of the turn"
        self.ended = None
        no_call = token.id in self.asked.no_call
        if (no_call or finish == "stop") and self._ends_inside_thought(token) and self._resume():
            return []
        if no_call:
            return self.finish("stop")
        self.tokens.append(token)
        events = self._events(token)
        if self._stops.found is not None:
            self.ended = Ended("stop", self._stops.found)
        elif finish is not None:
            events += self.finish(finish)
        return events

    def finish(self, reason: FinishReason) -> list[ParserEvent]:
        """End the turn where it is: what was held back."""
        if self._parser.in_thinking:
            self._thought_end = "cut"
        events = self._shown(self._parser.finish())
        rest = self._stops.flush()
        if rest:
            self._content.append(rest)
            events.append(ContentDelta(rest))
        self.ended = Ended(reason)
        return events

    def answer_now(self) -> bool:
        """Close the running thought. False when there is none, or it cannot be closed. From any
        thread."""
        return self._budget is not None and self._budget.answer_now()

    # the answer out

    @property
    def thought_end(self) -> ThoughtEnd:
        """How the thought ended; None while it goes on, and when there was none."""
        return self._thought_end if self._thought else None

    def require_whole(self) -> None:
        """Raises ValueError for a turn that its grammar could not complete."""
        if self._turn is not None and self._turn.failed is not None:
            why = self._turn.failed
            raise ValueError(f"the schema is too complex for what was being written: {why}; hint: simplify it")

    @property
    def to_judge(self) -> bool:
        """Whether the finished turn is held against a schema that was to be enforced
        (`require_kept`)."""
        grammar, ended = self.asked.grammar, self.ended
        judged = grammar is not None and grammar.judge is not None and not grammar.judge.idle
        return judged and isinstance(ended, Ended) and ended.reason == "stop" and ended.stop is None

    def require_kept(self) -> None:
        """Raises SchemaMissed for a finished turn that does not satisfy its schemas: the last line
        of defence. Some milliseconds; more for large ones."""
        grammar = self.asked.grammar
        if self.to_judge and grammar is not None and grammar.judge is not None:
            grammar.judge.require_kept(self._parser.message())  # with what the prompt began

    def message(self) -> Message:
        """The turn so far, with its ids. Calls have no id yet."""
        parsed = self._parser.message()
        ids, sampled = self._ids()
        return replace(
            parsed,
            content="".join(self._content),
            reasoning_content="".join(self._reasoning) or None,
            ids=ids,
            sampled=sampled,
        )

    def thought_ids(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """The ids of the thought, its end included, and their flags. Before it has ended: all so
        far."""
        ids, sampled = self._ids()
        length = self._thought_length
        if length is None:
            length = len(ids) if self._parser.in_thinking else len(self.asked.header)
        return ids[:length], sampled[:length]

    def message_end(
        self, cached_tokens: int, started: float, first: float | None, now: float, error: str | None = None
    ) -> MessageEnd:
        """The last event of a turn that has ended.

        cached_tokens: of the prompt, as the first sequence found it. started, first, now: seconds
        of one clock: when it was submitted, when the first token came (None = never), when it
        ended. error: why the generation failed."""
        assert isinstance(self.ended, Ended), "the turn goes on"
        message, reason = self.message(), self.ended.reason
        if reason == "stop" and message.tool_calls:
            reason = "tool_calls"
        prompt, count = len(self.asked.prompt), len(self.tokens)
        ttft = first - started if first is not None else None
        return MessageEnd(
            message,
            reason,
            Usage(prompt, cached_tokens, count, self._parser.reasoning_tokens),
            prefill_tok_s=(prompt - cached_tokens) / ttft if ttft else None,
            decode_tok_s=(count - 1) / (now - first) if first is not None and now > first and count > 1 else None,
            ttft_s=ttft,
            logprobs=tuple(t.logprob for t in self.tokens),
            error=error,
        )

    def _ids(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        header = self.asked.header
        ids = (*header, *(t.id for t in self.tokens))
        return ids, (*(False for _ in header), *(t.sampled for t in self.tokens))

    # from tokens to events

    def _events(self, token: Token) -> list[ParserEvent]:
        before = self._parser.in_thinking
        events = self._shown(self._parser.feed(token.id))
        if self._parser.in_thinking:
            self._thought = True
        elif before:
            forced = not token.sampled and self._budget is not None
            self._thought_end = self._budget.closes_as if forced and self._budget is not None else "model"
            if self._thought_length is None:
                cut_off = token.id in self._tok.control_ids and token.id != self._tok.marker_ids.think_close
                self._thought_length = len(self.asked.header) + len(self.tokens) - cut_off
        return events

    def _shown(self, events: Iterable[ParserEvent]) -> list[ParserEvent]:
        """Without stop strings, nor any text behind one."""
        shown: list[ParserEvent] = []
        for event in events:
            if isinstance(event, ReasoningDelta):
                self._reasoning.append(event.text)
                shown.append(event)
                continue
            text = self._stops.feed(event.text) if isinstance(event, ContentDelta) else self._stops.flush()
            if text:
                self._content.append(text)
                shown.append(ContentDelta(text))
            if not isinstance(event, ContentDelta):
                shown.append(event)
        return shown

    # a turn that the model ended inside its thought

    def _ends_inside_thought(self, token: Token) -> bool:
        asked_for = token.id in self.asked.params.stop_token_ids
        return self._parser.in_thinking and not asked_for and self._thought_end != "end_of_turn"

    def _resume(self) -> bool:
        """Close the thought where the model ended the turn, and let it answer from the same ids.
        False when it cannot be closed or no answer fits behind its end."""
        if self.asked.limit - len(self.tokens) < 2 or self._budget is None:
            return False
        self._thought_end = "end_of_turn"
        constraint = self._constraint(resumed=True)
        ids = (*self.asked.prompt, *(t.id for t in self.tokens))
        self.submission = self.ended = Resume(ids, self._params(), constraint)
        return True

    def _params(self) -> SamplingParams:
        """For the sequence that runs from here on."""
        ends = (*self.asked.params.stop_token_ids, *self.asked.no_call)
        return replace(self.asked.params, max_tokens=self.asked.limit - len(self.tokens), stop_token_ids=ends)

    def _constraint(self, resumed: bool = False) -> Constraint | None:
        """What holds from here on: the budget of the thought, then the grammar of the turn.
        resumed: the thought is closed first of all."""
        asked, begun = self.asked, (*self.asked.header, *(t.id for t in self.tokens))
        close = None if asked.thinking_budget is None else self._tok.marker_ids.think_close
        if close is not None and asked.thinking_budget is not None:
            budget, closes_as = (0, "end_of_turn") if resumed else (asked.thinking_budget, "budget")
            self._budget = ThinkingBudget(parser_after(self._tok, begun), close, budget, closes_as)
        if asked.grammar is None:
            return self._budget
        left = asked.limit - len(self.tokens)
        self._turn = asked.grammar.begin(begun, left, asked.params.stop_token_ids)
        return self._turn if self._budget is None else Both(self._budget, self._turn)


def parser_after(tok: Tokenizer, header: Iterable[int]) -> ChatParser:
    """A parser that stands behind these ids of the assistant's turn."""
    parser = ChatParser(tok)
    parser.feed_all(header)
    return parser


def call_openers(tok: Tokenizer) -> frozenset[int]:
    """Control ids with which a call can begin: what may not come where no tools are offered."""
    return tok.marker_ids.call_begins
