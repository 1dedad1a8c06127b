"""Answer without an engine: ids in, events out. tests/golden/test_two_doors.py holds what both
doors make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from abruzzi.engine.answer import Answer, Asked, Ended, Resume, call_openers
from abruzzi.engine.grammar.compiled import Grammars
from abruzzi.engine.grammar.structure import Schema, Structure, Unenforceable, structure_of
from abruzzi.engine.sequence import Token
from abruzzi.tokenizer import Tokenizer, generation_prefix
from abruzzi.types import ContentDelta, ParserEvent, ReasoningDelta, SamplingParams
from tests import tiny

TOK = tiny.vocabulary()
END, CLOSE = TOK.control["<|im_end|>"], TOK.control["</think>"]
PROMPT = (5, 6, 7)


def ids(text: str) -> list[int]:
    return TOK.encode(text, allow_special=True)


def asked(limit: int = 100, budget: int | None = 75, header: tuple[int, ...] = (), **fields) -> Asked:
    params = SamplingParams(**{k: fields.pop(k) for k in ("stop", "stop_token_ids") if k in fields})
    return Asked((*PROMPT, *header), header, params, limit, budget, **fields)


def play(answer: Answer, text: str) -> list[ParserEvent]:
    """The model proposes these ids; what the constraint forces comes first, as in the engine. Stops
    where it ends."""
    proposals, events = ids(text), []
    while proposals and not isinstance(answer.ended, Ended):
        run = answer.submission
        forced = run.constraint.allowed() if run.constraint is not None else None
        token = Token(forced, -2.0, sampled=False) if isinstance(forced, int) else Token(proposals.pop(0), -1.0)
        if run.constraint is not None:
            run.constraint.accept(token.id)
        events += answer.feed(token, "stop" if token.id in (END, *run.params.stop_token_ids) else None)
    return events


def test_the_example_of_the_module() -> None:
    answer = Answer(TOK, asked(stop=("Q:",)))
    first = answer.submission
    assert first.ids == PROMPT and first.params.max_tokens == 100
    thought = ids("<think>17*20+51")
    for token_id in thought:
        assert all(isinstance(e, ReasoningDelta) for e in answer.feed(Token(token_id, -1.0)))
    assert answer.feed(Token(END, -1.0), "stop") == [] and isinstance(answer.ended, Resume)
    again = answer.submission
    assert again is answer.ended and again.ids == (*PROMPT, *thought)
    assert again.params.max_tokens == 100 - len(thought)
    assert again.constraint is not None and again.constraint.allowed() == CLOSE
    answer.feed(Token(CLOSE, -3.0, sampled=False))
    events = [e for i in ids("391Q") for e in answer.feed(Token(i, -1.0))]
    assert "".join(e.text for e in events if isinstance(e, ContentDelta)) == "391" and answer.ended is None
    assert answer.feed(Token(END, -1.0), "stop") == [ContentDelta("Q")] and answer.ended == Ended("stop")
    message = answer.message()
    assert (message.reasoning_content, message.content) == ("17*20+51", "391Q")
    assert message.ids == (*thought, CLOSE, *ids("391Q"), END) and message.sampled is not None
    assert [i for i, s in zip(message.ids, message.sampled) if not s] == [CLOSE]
    assert answer.thought_end == "end_of_turn"
    assert answer.thought_ids()[0] == (*thought, CLOSE)


def test_a_turn_that_is_over_says_what_it_took() -> None:
    answer = Answer(TOK, asked(header=generation_prefix(TOK, thinking=False)))
    play(answer, "Hello<|im_end|>")
    end = answer.message_end(cached_tokens=2, started=10.0, first=12.0, now=13.0)
    count = len(ids("Hello")) + 1
    assert end.usage.prompt_tokens == 5 and end.usage.cached_tokens == 2 and end.usage.completion_tokens == count
    assert (end.ttft_s, end.prefill_tok_s, end.decode_tok_s) == (2.0, (5 - 2) / 2.0, count - 1)
    assert end.logprobs == (-1.0,) * count and end.message.ids is not None and len(end.message.ids) == count + 2
    assert end.message.sampled == (False, False, *[True] * count)
    assert answer.thought_end is None and answer.thought_ids() == (end.message.ids[:2], (False, False))
    nothing = answer.message_end(cached_tokens=0, started=10.0, first=None, now=13.0)
    assert (nothing.ttft_s, nothing.prefill_tok_s, nothing.decode_tok_s) == (None, None, None)


def test_a_turn_that_is_cut_keeps_what_was_held_back() -> None:
    answer = Answer(TOK, asked(stop=("STOP",)))
    for token_id in ids("one ST"):
        answer.feed(Token(token_id, -1.0))
    assert answer.message().content == "one "
    assert answer.finish("abort") == [ContentDelta("ST")]
    assert answer.ended == Ended("abort") and answer.message().content == "one ST"


def test_a_stop_string_ends_the_turn_and_hides_what_follows() -> None:
    answer = Answer(TOK, asked(stop=("STOP",)))
    play(answer, "one STOP two<|im_end|>")
    assert answer.ended == Ended("stop", "STOP") and answer.message().content == "one "


def test_answer_now_closes_an_open_thought_only() -> None:
    answer = Answer(TOK, asked())
    assert not answer.answer_now()
    answer = Answer(TOK, asked())
    play(answer, "<think>Hm")
    assert answer.answer_now()
    play(answer, "yes<|im_end|>")
    assert (answer.message().reasoning_content, answer.message().content) == ("Hm", "yes")
    assert answer.thought_end == "answer_now"
    assert not Answer(TOK, asked(budget=None)).answer_now()


@pytest.mark.parametrize(("limit", "resumes"), [(4, True), (3, False)])
def test_a_thought_is_resumed_only_where_an_answer_fits_behind_its_end(limit: int, resumes: bool) -> None:
    """<think> and a thought of one token, then the end of the thought and one token of the
    answer."""
    (letter,) = ids("x")
    answer = Answer(TOK, asked(limit=limit))
    for token_id in (TOK.control["<think>"], letter):
        answer.feed(Token(token_id, -1.0))
    answer.feed(Token(END, -1.0), "stop")
    assert isinstance(answer.ended, Resume) == resumes
    assert answer.thought_end == ("end_of_turn" if resumes else "model")


def test_an_id_that_was_asked_to_stop_at_ends_the_turn_inside_its_thought_as_well() -> None:
    (letter,) = ids("x")
    answer = Answer(TOK, asked(stop_token_ids=(letter,)))
    play(answer, "<think>x")
    assert answer.ended == Ended("stop") and answer.thought_end == "cut"
    assert answer.message().reasoning_content == "x" and answer.message().ids == (TOK.control["<think>"], letter)


def test_a_call_that_is_not_offered_ends_the_turn_in_front_of_it() -> None:
    openers = call_openers(TOK)
    assert {TOK.control["<|tool_calls_section_begin|>"], TOK.control["<|tool_call_begin|>"]} <= openers
    answer = Answer(TOK, asked(no_call=openers))
    assert openers <= set(answer.submission.params.stop_token_ids)  # so that the engine stops there as well
    play(answer, "ok<|tool_call_begin|>functions.rm:0")
    assert answer.ended == Ended("stop") and answer.message().content == "ok"
    assert answer.message().ids == tuple(ids("ok"))


def test_a_call_that_is_not_offered_inside_the_thought_ends_the_thought_and_the_turn_goes_on() -> None:
    answer = Answer(TOK, asked(no_call=call_openers(TOK)))
    play(answer, "<think>Hm.")
    answer.feed(Token(TOK.control["<|tool_call_begin|>"], -1.0), "stop")
    assert isinstance(answer.ended, Resume) and answer.thought_end == "end_of_turn"
    play(answer, "</think>yes<|im_end|>")
    assert answer.ended == Ended("stop")
    assert (answer.message().reasoning_content, answer.message().content) == ("Hm.", "yes")


def test_plain_text_is_no_chat() -> None:
    answer = Answer(TOK, asked(budget=None, chat=False))
    play(answer, "<think>é<|im_end|>")
    message = answer.message()
    assert message.content == "<think>é" and message.reasoning_content is None and answer.thought_end is None


def test_compiled_schemas_are_kept_least_recently_used_first_out() -> None:
    grammars = Grammars(TOK, TOK.vocab_size, capacity=2)

    def structure(value: int) -> Structure:
        return Structure(answer=Schema({"const": value}, "answer"))

    assert not grammars.ready
    one = grammars.turn(structure(1), 0, True).answer
    grammars.turn(structure(2), 0, True)
    assert grammars.ready and grammars.turn(structure(1), 0, True).answer is one
    grammars.turn(structure(3), 0, True)
    assert [grammars.known(structure(n)) for n in (1, 2, 3)] == [1, 0, 1]
    assert grammars.turn(structure(1), 0, True).answer is one


def test_what_cannot_be_enforced_is_left_out_or_named() -> None:
    """propertyNames has no grammar: a strict tool is refused by name, any other keeps the rest of
    its schema."""
    grammars = Grammars(TOK, TOK.vocab_size)
    schema = {"type": "object", "propertyNames": {"maxLength": 3}, "required": ["abcd"]}
    tool = {"type": "function", "function": {"name": "t", "parameters": schema}}
    (call,) = grammars.turn(structure_of([tool]), 0, True).calls
    assert b"abcd" in call.arguments.least
    tool["function"]["strict"] = True
    with pytest.raises(
        Unenforceable, match=r"parameters of the tool 't' cannot be enforced: /propertyNames: "
    ) as found:
        grammars.turn(structure_of([tool]), 0, True)
    assert (found.value.field, found.value.code) == ("tools[0].function.parameters", "unsupported_schema")


def test_a_model_that_spells_its_thoughts_cannot_be_held_to_a_form() -> None:
    spelling = object.__new__(Tokenizer)
    spelling.__dict__.update(vars(TOK), marker_ids=replace(TOK.marker_ids, think_open=None, think_close=None))
    grammars = Grammars(spelling, TOK.vocab_size)
    with pytest.raises(Unenforceable, match="switch thinking off"):
        grammars.turn(structure_of([], response_schema={"type": "object"}), 0, True)
