"""What an assistant's turn may be: think* (text | call+), decided by control-token ids and never by text.

The thought is free, so nothing in it can be taken for a call or for the answer. A call's name is one of those
offered and its arguments fit their schema; an answer may have to be JSON. When the tokens run short the turn
is completed by a short way, so that it is whole whenever it did not end by its limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from abruzzi.engine.grammar.json_text import JsonGrammar, JsonText, Vocabulary
from abruzzi.tokenizer import ChatParser
from abruzzi.tokenizer.formats.parser import State

# Between two looks at how far the end is, a text may oblige to this many tokens for each one that comes.
_GROWTH = 4
# What a single token may begin without any schema: a character of four bytes, an escape.
_SLIPS = 6


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """A tool that may be called. arguments: their JSON."""

    name: str
    arguments: JsonGrammar


class TurnTokens:
    """The control tokens of a turn, and what they leave of the vocabulary. One for each vocabulary."""

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
        """About the most tokens that the header of a call has."""
        if name not in self._labels:
            self._labels[name] = len(self.vocabulary.spell(self.format.label(name, 1000).encode()))
        return self._labels[name]


class TurnGrammar:
    """Immutable; `begin` once for each sequence.

    calls: what may be called, nothing = no calls. must_call: no text, at least one call. max_calls: None = any
    number. answer: what the text must be, None = any text. first_index: of the next call in the conversation.
    may_think: whether a thought may be opened. reserve: the share of a limit that an ending may claim early."""

    def __init__(
        self,
        tokens: TurnTokens,
        calls: Sequence[CallGrammar] = (),
        answer: JsonGrammar | None = None,
        must_call: bool = False,
        max_calls: int | None = None,
        first_index: int = 0,
        may_think: bool = True,
        reserve: float = 0.25,
    ) -> None:
        assert calls or not must_call, "a turn that must call needs something to call"
        self.tokens, self.calls, self.answer = tokens, tuple(calls), answer
        self.must_call, self.max_calls, self.first_index = must_call, max_calls, first_index
        self.may_think, self.reserve = may_think, reserve
        lengths = (tokens.label_length(c.name) + len(c.arguments.least_ids) + 2 for c in calls)
        self.largest_call = max(lengths, default=0)  # of the shortest calls, in tokens

    @property
    def free(self) -> bool:
        """Whether text may be anything, or nothing."""
        return self.answer is None and not self.must_call

    def begin(self, said: Iterable[int], limit: int, stops: Iterable[int] = ()) -> TurnConstraint:
        """For a sequence whose turn begins with these ids and goes on for at most `limit` tokens.

        stops: ids that end the sequence; inside a structure they may not come. Raises ValueError for a beginning
        that the grammar does not allow."""
        turn = TurnConstraint(self, limit, stops)
        if not turn.note_all(said):
            raise ValueError("the turn begins with what does not fit the form that was asked for")
        return turn

    def labels(self, made: int) -> dict[bytes, CallGrammar]:
        """Headers that a call may have behind `made` others in this turn."""
        label, index = self.tokens.format.label, self.first_index + made
        return {label(c.name, index).encode(): c for c in self.calls}

    def shortest_call(self, rest_of_label: bytes, call: CallGrammar) -> list[int]:
        """Ids of the rest of its header, of its arguments, and of its end."""
        label = self.tokens.vocabulary.spell(rest_of_label)
        return [*label, self.tokens.arguments, *call.arguments.least_ids, self.tokens.end_call]


class TurnConstraint:
    """A Constraint of the engine. failed: why the turn could not go on under its grammar, if so; it then ends."""

    def __init__(self, grammar: TurnGrammar, limit: int, stops: Iterable[int] = ()) -> None:
        self.failed: str | None = None
        self._grammar, self._ids, self._vocabulary = grammar, grammar.tokens, grammar.tokens.vocabulary
        self._parser = ChatParser(self._vocabulary.tok)
        self._stops = [i for i in stops if i < self._vocabulary.size and self._vocabulary.learned[i]]
        self._limit = self._left = limit
        self._made = 0  # calls
        self._labels = grammar.labels(0)  # of the next call
        self._label = b""
        self._json: JsonText | None = None  # the text that is being written
        self._look_at = limit  # with so many tokens left, the way to the end is looked up again
        self._ending: deque[int] = deque()

    # the engine's questions

    def allowed(self) -> int | np.ndarray | None:
        """What may come next: see Constraint."""
        if not self._ending and self.failed is None:
            self._end_in_time()
        if self._ending:
            return self._ending[0]
        if self.failed is None:
            allowed = self._allowed()
            if allowed is None or isinstance(allowed, int):
                return allowed
            few = np.flatnonzero(allowed)
            if len(few) > 1:
                return allowed
            if len(few) == 1:
                return int(few[0])
            self.failed = (self._json.error if self._json else None) or "nothing may follow"
        return self._ids.end

    def accept(self, token_id: int) -> None:
        """The token that came. One that `allowed` did not allow is a mistake of the caller."""
        self._left -= 1
        if self._ending:
            assert token_id == self._ending[0], f"token {token_id} came where {self._ending[0]} was forced"
            self._ending.popleft()
        if self.failed is None:
            assert self.note(token_id), f"token {token_id} came where the grammar does not allow it"

    def note(self, token_id: int) -> bool:
        """Follow the turn by one token; False when the grammar has no place for it."""
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
            self._made += 1
            self._labels = self._grammar.labels(self._made)
            return whole and token_id == self._ids.end_call
        if after is State.HEADER:
            self._label, self._look_at = b"", self._left
            return bool(self._grammar.calls)
        if before is State.TEXT and after is State.TEXT and text and self._grammar.answer is not None:
            if self._json is None:
                self._write(self._grammar.answer)
            assert self._json is not None
            return self._json.accept(token_id)
        return True

    def note_all(self, said: Iterable[int]) -> bool:
        """note, for many; a spelled thought at the beginning is no text."""
        if not self._vocabulary.tok.marker_ids.spells_thinking:
            return all([self.note(token_id) for token_id in said])
        self._parser.feed_all(said)
        return self._grammar.free or not self._parser.message().content

    def _write(self, grammar: JsonGrammar) -> None:
        """A JSON text begins."""
        self._json, self._look_at = grammar.begin(), self._left

    # what may come

    def _allowed(self) -> np.ndarray | int | None:
        """Where the turn stands decides."""
        state = self._parser.state
        grammar, ids = self._grammar, self._ids
        if state is State.THINK:
            return self._free() if grammar.free else ids.thought
        if state is State.SECTION:
            if not self._made:
                return ids.call
            return self._only(ids.end_section, ids.call if self._may_call() else None)
        if state is State.HEADER:
            return self._header()
        if state is State.ARGUMENTS:
            return self._json_mask(ids.end_call)
        if state is State.TEXT and not self._made:
            if self._json is not None:
                return self._json_mask(ids.end)
            return self._free() if grammar.free else self._beginning()
        return ids.end

    def _free(self) -> np.ndarray | None:
        """Any text; a call only when it can still be completed."""
        if self._may_call():
            return None
        return self._ids.no_call

    def _beginning(self) -> np.ndarray:
        """A thought, calls, or the first of the answer."""
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
        assert self._json is not None
        allowed = self._json.mask()
        allowed[end] = self._json.complete()
        return self._without_stops(allowed)

    def _without_stops(self, allowed: np.ndarray) -> np.ndarray:
        """Ids at which the client wants to stop would cut the structure: they wait for its end."""
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
        """Whether one more call may begin, and the tokens that are left complete it."""
        grammar = self._grammar
        if not grammar.calls or (grammar.max_calls is not None and self._made >= grammar.max_calls):
            return False
        return self._left > grammar.largest_call + 4 or (grammar.must_call and not self._made)

    # the end in time

    def _end_in_time(self) -> None:
        """Plan the ending when as many tokens are left as it takes, and what one more could oblige to."""
        if self._left > self._look_at:
            return
        ways = self._ways_to_end()
        if not ways:  # text is free, or no way was found: looked for less and less often
            self._look_at = self._left - (self._left // 8 if self._json is not None else 0)
            return
        way = min(ways, key=len)
        reserve = min(self._obligation(ways) + _SLIPS, int(self._limit * self._grammar.reserve))
        slack = self._left - len(way) - reserve
        if slack <= 0:
            self._ending.extend(way)
        else:
            self._look_at = self._left - max(1, slack // (1 + _GROWTH))

    def _obligation(self, ways: list[list[int]]) -> int:
        """How many more tokens than the shortest way the next token may oblige to."""
        if self._json is not None:
            return self._json.grammar.obligation
        return max(map(len, ways)) - min(map(len, ways)) + 1

    def _ways_to_end(self) -> list[list[int]]:
        """Short ways to complete the turn, one for each turn it may still take. Empty where text is free."""
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
        if state is State.SECTION and self._made:
            return [tail]
        if state is State.TEXT and self._made:
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
