"""The grammar of an assistant's turn, think* (text | call+), as a mask over the next token.

Boundaries are control-token ids and never text, so nothing in a thought can be taken for a call or
for the answer. A call's name is one of those offered and its arguments fit their schema; an answer
may have to be JSON. Which ids bound what, the chat format says (Tokenizer.marker_ids).

Before its tokens run out the turn is closed by its *shortest completion*: the fewest tokens after
which it is whole. One sampled token can make that completion longer (a "{" whose object has
required keys): its *growth*. The completion is forced once no more tokens are left than it has,
plus the growth of one.

An example: `add` may be called, with integers a and b, both required; 60 tokens are left; markers
in capitals. "shortest" counts the tokens of the shortest completion.

    left  state      shortest  may come next               comes
    60    TEXT       -         anything: text is free      SECTION_OPEN
    59    SECTION    32        CALL_OPEN, nothing else     CALL_OPEN
    58    HEADER     31        ways into "functions.add:0" its 14 tokens
    44    HEADER     17        CALL_ARGUMENTS, as no       CALL_ARGUMENTS
                               other label begins so
    43    ARGUMENTS  16        "{"                         {"a": 123
    34    ARGUMENTS  10        a digit, ",", white space   3, and 3 again: a small model in a loop
    25    ARGUMENTS  10        ",": forced from here on    ,"b":0} CALL_CLOSE SECTION_CLOSE end_of_turn

At 25 the ten tokens and the growth, 15, are all that is left. (The growth of this schema is 16 and
that of one character 6, but a completion may claim a quarter of the limit early at most:
`reserve`.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from abruzzi.engine.budget import ANSWER_SHARE
from abruzzi.engine.grammar.json_text import JsonGrammar, JsonText, Vocabulary
from abruzzi.engine.grammar.judge import Judge
from abruzzi.tokenizer import ChatParser
from abruzzi.tokenizer.formats.parser import State

# Growth of the shortest completion by one token, where no schema says more: three bytes that a
# character still lacks, or the escape \uXXXX.
_CHARACTER_GROWTH = 6
# To find the shortest completion is dear, so it is not measured at every token. Between two
# measurements it is taken to grow by at most this many tokens for each one that comes.
_USUAL_GROWTH = 4


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """A tool that may be called. arguments: the grammar of their JSON."""

    name: str
    arguments: JsonGrammar


class TurnTokens:
    """The control tokens of a turn, and what they leave of the vocabulary. One for each
    vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.format = vocabulary, vocabulary.tok.format
        markers = vocabulary.tok.marker_ids
        self.end = markers.end_of_turn
        self.section, self.end_section = markers.section_open, markers.section_close
        self.call, self.arguments, self.end_call = markers.call_open, markers.call_arguments, markers.call_close
        self.think, self.end_think = markers.think_open, markers.think_close
        self.thought = vocabulary.learned.copy()  # [V]: a thought that only its end can leave
        if self.end_think is not None:
            self.thought[self.end_think] = True
        self.no_call = np.ones(vocabulary.size, bool)  # [V]: all but what begins a call or a section of calls
        self.no_call[list(markers.call_begins)] = False
        self._labels: dict[str, int] = {}

    def label_length(self, name: str) -> int:
        """Tokens of a call's label, about the most it can have (an index of four digits)."""
        if name not in self._labels:
            self._labels[name] = len(self.vocabulary.spell(self.format.label(name, 1000).encode()))
        return self._labels[name]


class TurnGrammar:
    """What one turn may be. Immutable; `begin` makes the constraint of one sequence.

    calls: what may be called, nothing = no calls. must_call: no text, at least one call. max_calls:
    None = any number. answer: what the text must be, None = any text. first_index: of the next call
    in the conversation. may_think: whether a thought may be opened. reserve: the share of the limit
    that a completion may claim for growth. dropped: what of the schemas is not enforced, as
    "tool:/json/pointer", the answer's without a name. judge: of the finished turn."""

    def __init__(
        self,
        tokens: TurnTokens,
        calls: Sequence[CallGrammar] = (),
        answer: JsonGrammar | None = None,
        must_call: bool = False,
        max_calls: int | None = None,
        first_index: int = 0,
        may_think: bool = True,
        reserve: float = ANSWER_SHARE,
        dropped: Sequence[str] = (),
        judge: Judge | None = None,
    ) -> None:
        assert calls or not must_call, "a turn that must call needs something to call"
        self.tokens, self.calls, self.answer = tokens, tuple(calls), answer
        self.must_call, self.max_calls, self.first_index = must_call, max_calls, first_index
        self.may_think, self.reserve = may_think, reserve
        self.dropped, self.judge = tuple(dropped), judge
        shortest = (tokens.label_length(c.name) + len(c.arguments.least_ids) + 2 for c in calls)
        self.largest_call = max(shortest, default=0)  # tokens of the longest of the shortest calls

    @property
    def free(self) -> bool:
        """Whether text may be anything, or nothing."""
        return self.answer is None and not self.must_call

    def begin(self, ids: Iterable[int], limit: int, stops: Iterable[int] = ()) -> TurnConstraint:
        """The constraint of a sequence whose turn begins with these ids and goes on for at most
        `limit` tokens.

        stops: ids at which the client stops; inside calls and JSON they may not come. Raises
        ValueError for a beginning that the grammar does not allow."""
        turn = TurnConstraint(self, limit, stops)
        if not turn.advance_all(ids):
            raise ValueError("the turn begins with what does not fit the form that was asked for")
        return turn

    def labels(self, calls_made: int) -> dict[bytes, CallGrammar]:
        """Labels (UTF-8) that the next call may have, behind `calls_made` others in this turn."""
        label, index = self.tokens.format.label, self.first_index + calls_made
        return {label(c.name, index).encode(): c for c in self.calls}

    def shortest_call(self, rest_of_label: bytes, call: CallGrammar) -> list[int]:
        """Ids that complete a call: the rest of its label, the shortest arguments, its end."""
        label = self.tokens.vocabulary.spell(rest_of_label)
        return [*label, self.tokens.arguments, *call.arguments.least_ids, self.tokens.end_call]


class TurnConstraint:
    """A Constraint of the engine: one sequence's place in its grammar.

    failed: why the turn could not go on under its grammar, if so; it then ends."""

    def __init__(self, grammar: TurnGrammar, limit: int, stops: Iterable[int] = ()) -> None:
        self.failed: str | None = None
        self._grammar, self._ids, self._vocabulary = grammar, grammar.tokens, grammar.tokens.vocabulary
        self._parser = ChatParser(self._vocabulary.tok)
        self._stops = [i for i in stops if i < self._vocabulary.size and self._vocabulary.learned[i]]
        self._limit = self._left = limit
        self._calls_made = 0
        self._labels = grammar.labels(0)  # of the next call
        self._label = b""  # as far as it is written
        self._json: JsonText | None = None  # arguments or the answer, while they are written
        self._measure_at = limit  # with so many tokens left the shortest completion is measured again
        self._completion: deque[int] = deque()  # what is left of the forced one

    # the Constraint protocol

    def allowed(self) -> int | np.ndarray | None:
        """The mask of the next token: see Constraint."""
        if not self._completion and self.failed is None:
            self._complete_in_time()
        if self._completion:
            return self._completion[0]
        if self.failed is None:
            allowed = self._allowed()
            if allowed is None or isinstance(allowed, int):
                return allowed
            ids = np.flatnonzero(allowed)
            if len(ids) > 1:
                return allowed
            if len(ids) == 1:
                return int(ids[0])
            self.failed = (self._json.error if self._json else None) or "nothing may follow"
        return self._ids.end

    def accept(self, token_id: int) -> None:
        """Advance by the sampled token. One that `allowed` did not allow is a mistake of the
        caller."""
        self._left -= 1
        if self._completion:
            assert token_id == self._completion[0], f"token {token_id} came where {self._completion[0]} was forced"
            self._completion.popleft()
        if self.failed is None:
            assert self.advance(token_id), f"token {token_id} came where the grammar does not allow it"

    def advance(self, token_id: int) -> bool:
        """Advance by one token; False when the grammar does not allow it here."""
        before = self._parser.state
        self._parser.feed(token_id)
        after = self._parser.state
        text = token_id < self._vocabulary.size and bool(self._vocabulary.learned[token_id])
        if before is State.HEADER and text:
            self._label += self._vocabulary.tok.token_bytes(token_id)
            return any(label.startswith(self._label) for label in self._labels)
        if before is State.HEADER:
            call = self._labels.get(self._label)
            if call is None or after is not State.ARGUMENTS:
                return False
            self._write(call.arguments)
            return True
        if before is State.ARGUMENTS:
            assert self._json is not None
            if text:
                return self._json.accept(token_id)
            whole, self._json = self._json.complete(), None
            self._calls_made += 1
            self._labels = self._grammar.labels(self._calls_made)
            return whole and token_id == self._ids.end_call
        if after is State.HEADER:
            self._label, self._measure_at = b"", self._left
            return bool(self._grammar.calls)
        if before is State.TEXT and after is State.TEXT and text and self._grammar.answer is not None:
            if self._json is None:
                self._write(self._grammar.answer)
            assert self._json is not None
            return self._json.accept(token_id)
        return True

    def advance_all(self, ids: Iterable[int]) -> bool:
        """advance, for many. Where think markers are text, a thought at the beginning is no
        answer."""
        if not self._vocabulary.tok.marker_ids.spells_thinking:
            return all([self.advance(token_id) for token_id in ids])
        self._parser.feed_all(ids)
        return self._grammar.free or not self._parser.message().content

    def _write(self, grammar: JsonGrammar) -> None:
        """Begin a JSON text."""
        self._json, self._measure_at = grammar.begin(), self._left

    # the mask of the next token

    def _allowed(self) -> np.ndarray | int | None:
        """The mask by the parser's state; None = anything, an id = only that."""
        state = self._parser.state
        grammar, ids = self._grammar, self._ids
        if state is State.THINK:
            return self._free() if grammar.free else ids.thought
        if state is State.SECTION:
            if not self._calls_made:
                return ids.call
            return self._only(ids.end_section, ids.call if self._may_call() else None)
        if state is State.HEADER:
            return self._header()
        if state is State.ARGUMENTS:
            return self._json_mask(ids.end_call)
        if state is State.TEXT and not self._calls_made:
            if self._json is not None:
                return self._json_mask(ids.end)
            return self._free() if grammar.free else self._beginning()
        return ids.end

    def _free(self) -> np.ndarray | None:
        """Free text; a call only while it can still be completed."""
        if self._may_call():
            return None
        return self._ids.no_call

    def _beginning(self) -> np.ndarray:
        """The first token of a turn that is not free: of a thought, of calls, of the answer."""
        grammar, ids = self._grammar, self._ids
        allowed = np.zeros(self._vocabulary.size, bool)
        if grammar.answer is not None and not grammar.must_call:
            allowed |= grammar.answer.start
        if self._may_call():
            allowed[ids.section] = True
        if grammar.may_think and ids.think is not None:
            allowed[ids.think] = True
        return allowed

    def _header(self) -> np.ndarray:
        """Tokens that go on with a label; the arguments behind a whole one."""
        allowed = np.zeros(self._vocabulary.size, bool)
        for label in self._labels:
            if label == self._label:
                allowed[self._ids.arguments] = True
            elif label.startswith(self._label):
                rest = label[len(self._label) :]
                known = (self._vocabulary.id_of.get(rest[:n]) for n in range(1, len(rest) + 1))
                allowed[[i for i in known if i is not None]] = True
        return self._without_stops(allowed)

    def _json_mask(self, end: int) -> np.ndarray:
        """Tokens that go on with the JSON text; `end` where it may end."""
        assert self._json is not None
        allowed = self._json.mask()
        allowed[end] = self._json.complete()
        return self._without_stops(allowed)

    def _without_stops(self, allowed: np.ndarray) -> np.ndarray:
        """Without the client's stops, which would cut a structure, unless nothing else may come."""
        if self._stops:
            rest = allowed.copy()
            rest[self._stops] = False
            if rest.any():
                return rest
        return allowed

    def _only(self, *ids: int | None) -> np.ndarray:
        allowed = np.zeros(self._vocabulary.size, bool)
        allowed[[i for i in ids if i is not None]] = True
        return allowed

    def _may_call(self) -> bool:
        """Whether one more call may begin, and be completed with the tokens that are left."""
        grammar = self._grammar
        if not grammar.calls or (grammar.max_calls is not None and self._calls_made >= grammar.max_calls):
            return False
        return self._left > grammar.largest_call + 4 or (grammar.must_call and not self._calls_made)

    # the shortest completion

    def _complete_in_time(self) -> None:
        """Force the shortest completion when the tokens left are just its length and one token's
        growth."""
        if self._left > self._measure_at:
            return
        completions = self._completions()
        if not completions:  # text is free, or none was found: measured less and less often
            self._measure_at = self._left - (self._left // 8 if self._json is not None else 0)
            return
        shortest = min(completions, key=len)
        reserve = min(self._growth(completions) + _CHARACTER_GROWTH, int(self._limit * self._grammar.reserve))
        slack = self._left - len(shortest) - reserve
        if slack <= 0:
            self._completion.extend(shortest)
        else:
            self._measure_at = self._left - max(1, slack // (1 + _USUAL_GROWTH))

    def _growth(self, completions: list[list[int]]) -> int:
        """By how many tokens the next token can lengthen the shortest completion."""
        if self._json is not None:
            return self._json.grammar.max_growth
        return max(map(len, completions)) - min(map(len, completions)) + 1

    def _completions(self) -> list[list[int]]:
        """The shortest completion of each course the turn can still take (one a tool). Empty where
        text is free."""
        state, ids = self._parser.state, self._ids
        tail = [ids.end_section, ids.end]
        if state is State.ARGUMENTS or (state is State.TEXT and self._json is not None):
            assert self._json is not None
            rest = self._json.ending_ids()
            if rest is None:
                return []
            return [[*rest, ids.end_call, *tail] if state is State.ARGUMENTS else [*rest, ids.end]]
        if state is State.HEADER:
            written = len(self._label)
            fitting = {label: call for label, call in self._labels.items() if label.startswith(self._label)}
            return [[*self._grammar.shortest_call(label[written:], call), *tail] for label, call in fitting.items()]
        if state is State.SECTION and self._calls_made:
            return [tail]
        if state is State.TEXT and self._calls_made:
            return [[ids.end]]
        if self._grammar.free and state is not State.SECTION:
            return []
        calls = [[ids.call, *self._grammar.shortest_call(label, call), *tail] for label, call in self._labels.items()]
        if state is State.SECTION:
            return calls
        if state is State.DONE:
            return []
        before = [ids.end_think] if state is State.THINK and ids.end_think is not None else []
        if self._grammar.answer is not None and not self._grammar.must_call:
            return [[*before, *self._grammar.answer.least_ids, ids.end]]
        return [[*before, ids.section, *call] for call in calls]
