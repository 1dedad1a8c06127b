"""A turn under its grammar: boundaries are ids, the thought is free, names and arguments are right,
it ends in time."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from abruzzi import tokenizer
from abruzzi.engine.grammar.json_text import JsonGrammar, Vocabulary
from abruzzi.engine.grammar.turn import CallGrammar, TurnConstraint, TurnGrammar, TurnTokens
from abruzzi.tokenizer import Tokenizer, parse
from abruzzi.tokenizer.formats.format import Header
from abruzzi.tokenizer.formats.k2 import K2
from abruzzi.types import Message
from tests import tiny

TOK = tiny.vocabulary()
VOCABULARY = Vocabulary(TOK)
TOKENS = TurnTokens(VOCABULARY)
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "note": {"type": "string"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SEARCH: dict[str, Any] = {
    "type": "object",
    "properties": {"q": {"type": "string", "minLength": 1}, "top": {"enum": [1, 10, 100]}},
    "required": ["q"],
}
SCHEMAS = {"search": SEARCH, "search-all": PERSON, "s.x_1": {"type": "object"}}
CALLS = [CallGrammar(name, JsonGrammar(VOCABULARY, schema)) for name, schema in SCHEMAS.items()]
ANSWER = JsonGrammar(VOCABULARY, PERSON)


def ids(text: str) -> list[int]:
    return TOK.encode(text, allow_special=True)


def letters(text: str) -> list[int]:
    """Every byte a token of its own."""
    return [VOCABULARY.id_of[bytes([b])] for b in text.encode()]


def refused_at(grammar: TurnGrammar, said: list[int]) -> int | None:
    """The place of the first id that the grammar does not allow, asked as the engine asks."""
    turn = grammar.begin((), 4000)
    for place, token_id in enumerate(said):
        allowed = turn.allowed()
        if not (allowed is None or (allowed == token_id if isinstance(allowed, int) else allowed[token_id])):
            return place
        turn.accept(token_id)
    return None


def run(turn: TurnConstraint, limit: int, rng: np.random.Generator, habits: dict[int, float]) -> tuple[list[int], str]:
    """Random weights: any allowed id, some of them more often (habits); and why it ended."""
    said: list[int] = []
    weights = np.ones(VOCABULARY.size)
    for token_id, weight in habits.items():
        weights[token_id] = weight
    weights[~VOCABULARY.learned & (weights == 1)] = 0.01
    while len(said) < limit:
        allowed = turn.allowed()
        if isinstance(allowed, int):
            said.append(allowed)
        else:
            odds = weights if allowed is None else weights * allowed
            said.append(int(rng.choice(VOCABULARY.size, p=odds / odds.sum())))
        turn.accept(said[-1])
        if said[-1] in TOK.end_ids:
            return said, "stop"
    return said, "length"


def require_valid(message: Message, answer: bool, first: int = 0) -> None:
    for n, call in enumerate(message.tool_calls):
        assert call.index == first + n
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
    if answer and not message.tool_calls:
        jsonschema.validate(json.loads(message.content or ""), PERSON)
    elif answer:
        assert not message.content


CALL = "<|tool_calls_section_begin|><|tool_call_begin|>functions.{}:3<|tool_call_argument_begin|>{}<|tool_call_end|>"
TRAP = "I call " + CALL.format("serach", "{") + '</thinking>{"name": 1} functions.serach:3'


def test_the_trap_of_a_greedy_thought() -> None:
    """users.md, pain 12: a thought rule over text swallowed a misspelt call. Here the thought's end
    is an id."""
    for grammar in (
        TurnGrammar(TOKENS, CALLS, first_index=3),
        TurnGrammar(TOKENS, CALLS, must_call=True, first_index=3),
        TurnGrammar(TOKENS, CALLS, ANSWER, first_index=3),
    ):
        thought = [TOKENS.think, *TOK.encode(TRAP), TOKENS.end_think]  # encoded as text: nothing in it is a marker
        right = [*thought, *ids(CALL.format("search", '{"q": "x"}')), TOKENS.end_section, TOKENS.end]
        assert refused_at(grammar, right) is None  # type: ignore[arg-type]
        header = ids("<|tool_calls_section_begin|><|tool_call_begin|>") + letters("functions.se")
        wrong = [*thought, *header, *letters("rach:3")]
        assert refused_at(grammar, wrong) == len(thought) + len(header)  # type: ignore[arg-type]
        # The misspelt name in place of the thought's end does not help either.
        if not grammar.free:
            inside = [TOKENS.think, *TOK.encode("I think"), *ids(CALL.format("serach", "{}"))]
            assert refused_at(grammar, inside) == inside.index(TOKENS.section)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "arguments", "fits"),
    [
        ("search", '{"q": "x"}', True),
        ("search", '{"q":"x","top":10,"more":[1]}', True),
        ("search-all", '{"name":"","age":0}', True),
        ("s.x_1", '{"anything":null}', True),
        ("search", '{"q": ""}', False),
        ("search", '{"top": 2}', False),
        ("search", "{}", False),
        ("search", '{"q": "x"', False),
        ("search-al", '{"name":"","age":0}', False),
        ("searchx", '{"q": "x"}', False),
        ("search-all", '{"name":"","age":-1}', False),
        ("s.x_1", "[]", False),
    ],
)
def test_names_and_arguments(name: str, arguments: str, fits: bool) -> None:
    for grammar in (
        TurnGrammar(TOKENS, CALLS, first_index=3),
        TurnGrammar(TOKENS, CALLS, must_call=True, first_index=3),
    ):
        call = ids(CALL.format("\n", "\n"))
        header, after_name, end = call[:2], call[-3:-2], call[-1:]
        assert [*header, *letters(f"functions.{name}:3")]
        said = [*header, *letters(f"functions.{name}:3"), TOKENS.arguments, *letters(arguments), TOKENS.end_call]
        assert (refused_at(grammar, said) is None) == fits
        assert after_name and end
        other_index = [*header, *letters(f"functions.{name}:4")]
        assert refused_at(grammar, other_index) is not None


def test_how_many_calls() -> None:
    one = ids(CALL.format("search", '{"q": "x"}'))
    two = one + ids(CALL.format("search", '{"q": "y"}').replace(":3", ":4"))[1:]
    end = [TOKENS.end_section, TOKENS.end]
    several, single = (TurnGrammar(TOKENS, CALLS, max_calls=n, first_index=3) for n in (None, 1))
    assert refused_at(several, two + end) is None and refused_at(single, one + end) is None
    assert refused_at(single, two) == len(one)
    for grammar in (several, single):
        assert refused_at(grammar, [TOKENS.section, TOKENS.end_section]) == 1  # a section without a call
        assert refused_at(grammar, [*one, TOKENS.end_section, *ids("more text")]) == len(one) + 1
    none = TurnGrammar(TOKENS)
    assert refused_at(none, ids("text")) is None and refused_at(none, one) == 0
    must = TurnGrammar(TOKENS, CALLS, must_call=True, first_index=3)
    assert refused_at(must, ids("text")) == 0 and refused_at(must, [TOKENS.end]) == 0
    assert refused_at(must, [TOKENS.think, TOKENS.end]) == 1  # type: ignore[list-item]


def test_the_worked_example_of_the_module() -> None:
    """turn.py's header: `add` with two integers, 60 tokens, a model that writes 3 for ever."""
    integer = {"type": "integer"}
    schema = {"type": "object", "properties": {"a": integer, "b": integer}, "required": ["a", "b"]}
    add = JsonGrammar(VOCABULARY, {**schema, "additionalProperties": False})
    turn = TurnGrammar(TOKENS, [CallGrammar("add", add)]).begin((), 60)
    label, begun, (three,) = TOK.encode("functions.add:0"), ids('{"a": 123'), ids("3")
    assert len(label) == 14
    script = [TOKENS.section, TOKENS.call, *label, TOKENS.arguments, *begun]
    masks: dict[int, Any] = {}
    said: list[int] = []
    left = 60
    for left in range(60, 0, -1):
        masks[left] = turn.allowed()
        forced = masks[left] if isinstance(masks[left], int) else None
        said.append(script[60 - left] if 60 - left < len(script) else three if forced is None else forced)
        assert forced in (None, said[-1])
        turn.accept(said[-1])
        if said[-1] == TOKENS.end:
            break
    assert masks[60] is None and masks[59] == TOKENS.call and masks[44] == TOKENS.arguments
    assert not isinstance(masks[34], int) and masks[34][three] and masks[25] == ids(",")[0]
    assert all(isinstance(masks[n], int) for n in range(25, left - 1, -1)) and left == 16
    assert TOK.decode(said[35:42]) == ',"b":0}' and said[42:] == [TOKENS.end_call, TOKENS.end_section, TOKENS.end]
    assert add.max_growth == 16


def test_the_grammar_takes_its_markers_from_the_format() -> None:
    """Every control token and the label under other names: the same masks over the same ids."""
    control = {f"@{n}@": token_id for n, (_, token_id) in enumerate(TOK.control.items())}
    name = dict(zip(TOK.control, control))
    form = replace(
        K2,
        headers={r: Header(name[h.open], name[h.close]) for r, h in K2.headers.items()},
        ends=(name[K2.ends[0]], name[K2.ends[1]]),
        markers={m: (name[texts[0]],) for m, texts in K2.markers.items()},
    )
    twin = Tokenizer(TOK._backend, control, TOK.vocab_size, frozenset(), TOK.defaults, form)
    tokens = TurnTokens(Vocabulary(twin))
    calls = [CallGrammar(c.name, JsonGrammar(tokens.vocabulary, SCHEMAS[c.name])) for c in CALLS]
    rng = np.random.default_rng(5)
    for must_call in (False, True):
        ours = TurnGrammar(TOKENS, CALLS, must_call=must_call).begin((), 90)
        theirs = TurnGrammar(tokens, calls, must_call=must_call).begin((), 90)
        for _ in range(90):
            mask = ours.allowed()
            assert np.array_equal(mask, theirs.allowed())  # type: ignore[arg-type]
            odds = np.ones(VOCABULARY.size) if mask is None else np.zeros(VOCABULARY.size)
            odds[slice(None) if mask is None else mask] = 1
            odds[[i for i in TOK.control_ids if mask is None]] = 0
            odds[[TOKENS.section]] *= 50
            token_id = int(rng.choice(VOCABULARY.size, p=odds / odds.sum()))
            ours.accept(token_id)
            theirs.accept(token_id)
    hashed = replace(form, call_label="{name}#{index}", label_pattern=re.compile(r"(.*?)(?:#([0-9]+))?", re.DOTALL))
    tokens = TurnTokens(Vocabulary(Tokenizer(TOK._backend, control, TOK.vocab_size, frozenset(), TOK.defaults, hashed)))
    assert set(TurnGrammar(tokens, calls, first_index=3).labels(1)) == {f"{c.name}#4".encode() for c in calls}


HABITS = {
    "plain": {},
    "thinks": {TOKENS.think: 300.0, TOKENS.end_think: 3.0},
    "calls": {TOKENS.section: 300.0, TOKENS.call: 300.0, TOKENS.think: 1.0},
    "opens": {VOCABULARY.id_of[b"{"]: 50.0, VOCABULARY.id_of[b"["]: 50.0, VOCABULARY.id_of[b'"']: 20.0},
}
GRAMMARS = {
    "auto": TurnGrammar(TOKENS, CALLS, first_index=2),
    "required": TurnGrammar(TOKENS, CALLS, must_call=True, first_index=2),
    "named": TurnGrammar(TOKENS, CALLS[1:2], must_call=True, max_calls=1, first_index=2),
    "none": TurnGrammar(TOKENS),
    "json": TurnGrammar(TOKENS, answer=ANSWER),
    "json or calls": TurnGrammar(TOKENS, CALLS, ANSWER, first_index=2),
    "no thought": TurnGrammar(TOKENS, answer=ANSWER, may_think=False),
}


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("kind", GRAMMARS)
def test_random_weights_give_whole_turns(kind: str, habit: str) -> None:
    """Whatever is drawn: a turn that does not end by its limit is valid, and those that must be
    whole always are."""
    grammar, rng = GRAMMARS[kind], np.random.default_rng(11)
    habits: dict[int, float] = {k: v for k, v in HABITS[habit].items() if k is not None}
    for limit in (70, 90, 200):
        for _ in range(3):
            turn = grammar.begin((), limit)
            said, why = run(turn, limit, rng, habits)
            assert turn.failed is None
            message = parse(TOK, said)
            if why == "stop":
                require_valid(message, answer=grammar.answer is not None, first=2)
                assert not grammar.must_call or message.tool_calls
                assert grammar.calls or not message.tool_calls
            else:
                assert grammar.free, TOK.decode(said)  # free text has no end to hurry to
                assert all(c.arguments for c in message.tool_calls)
                require_valid(message, answer=False, first=2)  # no call is begun that cannot be completed


def test_the_thought_may_be_open_already_and_the_header_may_close_it() -> None:
    closed = [TOKENS.think, TOKENS.end_think]
    grammar = TurnGrammar(TOKENS, answer=ANSWER, may_think=False)
    turn = grammar.begin([i for i in closed if i is not None], 100)
    allowed = turn.allowed()
    assert isinstance(allowed, int) and TOK.token_bytes(allowed).startswith(b"{")
    inside = TurnGrammar(TOKENS, answer=ANSWER).begin([TOKENS.think, *ids("so")], 100)  # type: ignore[list-item]
    mask = inside.allowed()
    assert isinstance(mask, np.ndarray) and mask[TOKENS.end_think] and not mask[TOKENS.end] and mask[ids("x")[0]]
    begun = grammar.begin(letters('{"name"'), 100)
    assert not isinstance(begun.allowed(), int) or TOK.token_bytes(begun.allowed()) == b":"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not fit"):
        grammar.begin(letters('{"nome"'), 100)


def test_ids_that_stop_do_not_cut_a_call() -> None:
    letter = VOCABULARY.id_of[b"x"]
    for seed in range(5):
        turn = TurnGrammar(TOKENS, CALLS[:1]).begin([TOKENS.section], 300, stops=[letter, TOKENS.end_call])
        said, _ = run(turn, 300, np.random.default_rng(seed), {})
        assert letter not in said and TOKENS.end_call in said


@pytest.mark.slow
def test_long_sweep_with_all_of_walles_schemas(k2_data: Path) -> None:
    """Every schema as arguments and as the answer, random weights, limits from too short to
    ample."""
    vocabulary = VOCABULARY
    rng = np.random.default_rng(7)
    files = sorted((k2_data / "walle_schema_cases").glob("*.jsonl"))
    compiled: list[tuple[dict[str, Any], JsonGrammar]] = []
    for line in (line for f in files for line in f.read_text(encoding="utf-8").splitlines() if line.strip()):
        try:
            compiled.append((json.loads(line), JsonGrammar(vocabulary, json.loads(line))))
        except ValueError:
            continue
    ended_by_limit = 0
    for schema, grammar in compiled:
        for limit in (40, 120, 600):
            for turn_grammar in (
                TurnGrammar(TOKENS, answer=grammar),
                TurnGrammar(TOKENS, [CallGrammar("f", grammar)], must_call=True),
            ):
                said, why = run(turn_grammar.begin((), limit), limit, rng, {TOKENS.think: 20.0} if TOKENS.think else {})
                needed = len(grammar.least_ids) + 30
                ended_by_limit += why == "length" and needed < limit
                if why == "stop":
                    message = parse(TOK, said)
                    texts = [c.arguments for c in message.tool_calls] or [message.content or ""]
                    for text in texts:
                        jsonschema.validate(json.loads(text), schema)
    assert ended_by_limit <= 2  # a token may oblige to more than was foreseen; then it says "length"


def test_nanos_own_turns_fit_its_tools() -> None:
    """What a trained model writes is not in the grammar's way."""
    tok = tokenizer.load(Path(tokenizer.__file__).parents[1] / "nano")
    tokens = TurnTokens(Vocabulary(tok))
    schema = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
    grammar = TurnGrammar(tokens, [CallGrammar("calculator", JsonGrammar(tokens.vocabulary, schema))])
    text = "<think>12 + 30.</think>" + CALL.format("calculator", '{"expression": "12 + 30"}').replace(":3", ":0")
    assert refused_at(grammar, tok.encode(text + "<|tool_calls_section_end|><|im_end|>", allow_special=True)) is None
