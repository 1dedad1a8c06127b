"""LLM: prefix reuse, budgets, stops, limits. Random weights: what the model says is noise, how it is cut is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import abruzzi
from abruzzi.engine.llm import BLOCK_TOKENS, LLM
from abruzzi.kernels import isa, ops, selftest, supported_isas
from abruzzi.types import ContentDelta, Message, MessageEnd, ReasoningDelta
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "m")


@pytest.fixture
def llm(folder: Path) -> LLM:
    return abruzzi.load(str(folder))


def end_of(events) -> MessageEnd:
    last = list(events)[-1]
    assert isinstance(last, MessageEnd)
    return last


def test_a_prompt_that_continues_the_last_one_reuses_the_cache_and_changes_nothing(llm: LLM, folder: Path) -> None:
    prompt = llm.tokenizer.encode("the quick brown fox jumps over the lazy dog")
    first = llm.generate(prompt, max_tokens=12, temperature=1, seed=3)
    assert first.usage.cached_tokens == 0
    longer = [*prompt, *first.ids[:5], *llm.tokenizer.encode(" and then")]
    warm = llm.generate(longer, max_tokens=8, temperature=1, seed=4)
    assert warm.usage.cached_tokens >= len(prompt) + 5 - BLOCK_TOKENS
    cold = LLM.load(folder).generate(longer, max_tokens=8, temperature=1, seed=4)
    assert warm.ids == cold.ids and warm.logprobs == pytest.approx(cold.logprobs, abs=1e-4)
    other = llm.generate([5, *longer], max_tokens=2)
    assert other.usage.cached_tokens == 0


def test_same_seed_same_tokens(llm: LLM) -> None:
    prompt = llm.tokenizer.encode("seven wizards")
    runs = [llm.generate(prompt, max_tokens=20, temperature=1.5, seed=s).ids for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_stop_strings_and_ids_end_a_generation(llm: LLM) -> None:
    prompt = llm.tokenizer.encode("five dozen")
    free = llm.generate(prompt, max_tokens=40, temperature=1, seed=9)
    text = llm.tokenizer.decode(free.ids)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    cut = llm.generate(prompt, max_tokens=40, temperature=1, seed=9, stop=(stop,))
    assert cut.finish_reason == "stop" and free.ids[: len(cut.ids)] == cut.ids
    assert stop in llm.tokenizer.decode(cut.ids) and stop not in llm.tokenizer.decode(cut.ids[:-1])
    by_id = llm.generate(prompt, max_tokens=40, temperature=1, seed=9, stop_token_ids=(free.ids[7],))
    assert by_id.ids == free.ids[: free.ids.index(free.ids[7]) + 1]


def think_forever(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model opens a thought and then says 'x' for ever."""
    opening = [llm.tokenizer.control["<think>"]]
    word = llm.tokenizer.encode("x")[0]

    def say(logits, params, seed, position):
        return (opening.pop() if opening else word), -1.0

    monkeypatch.setattr("abruzzi.engine.llm.sample", say)


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_thinking_budget_closes_the_thought_and_leaves_an_answer(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    think_forever(llm, monkeypatch)
    end = end_of(llm.chat([{"role": "user", "content": "Hi"}], thinking_budget=budget, max_tokens=40))
    assert end.usage.reasoning_tokens == budget
    assert end.message.reasoning_content == ("x" * budget or None)
    assert end.message.content == "x" * (40 - budget - 2)
    ids, sampled = end.message.ids, end.message.sampled
    assert ids is not None and sampled is not None
    assert [i for i, s in zip(ids, sampled) if not s] == [llm.tokenizer.control["</think>"]]


def test_max_tokens_alone_still_leaves_room_for_an_answer(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    think_forever(llm, monkeypatch)
    end = end_of(llm.chat([{"role": "user", "content": "Hi"}], max_tokens=40))
    assert end.finish_reason == "length" and len(end.message.content or "") >= 8


def test_no_think_closes_the_thought_before_it_begins(llm: LLM) -> None:
    end = end_of(llm.chat([{"role": "user", "content": "Hi"}], thinking=False, max_tokens=5, seed=1))
    opened, closed = llm.tokenizer.control["<think>"], llm.tokenizer.control["</think>"]
    assert end.message.ids is not None and end.message.ids[:2] == (opened, closed)
    assert end.message.sampled is not None and end.message.sampled[:2] == (False, False)


def test_the_next_turn_continues_from_the_same_ids(llm: LLM) -> None:
    history = [Message("user", "Mia has 12 marbles")]
    end = end_of(llm.chat(history, max_tokens=10, temperature=1, seed=2))
    if end.message.tool_calls:
        pytest.fail("random weights called a tool; choose another seed")
    history += [end.message, Message("user", "and now?")]
    again = end_of(llm.chat(history, max_tokens=3, seed=2))
    spent = end.usage.prompt_tokens + end.usage.completion_tokens
    assert again.usage.cached_tokens > spent - 1 - BLOCK_TOKENS  # the last sampled token was never run


def test_deltas_put_together_are_the_message_and_stream_false_gives_the_end_only(llm: LLM) -> None:
    ask = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 30, "temperature": 1, "seed": 11}
    events = list(llm.chat(**ask))
    end = events[-1]
    assert isinstance(end, MessageEnd)
    said = "".join(e.text for e in events if isinstance(e, ContentDelta))
    thought = "".join(e.text for e in events if isinstance(e, ReasoningDelta))
    assert said == end.message.content and thought == (end.message.reasoning_content or "")
    (only,) = llm.chat(**ask, stream=False)
    assert isinstance(only, MessageEnd) and only.message == end.message


def test_stop_strings_in_chat_are_not_shown(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    word = iter(llm.tokenizer.encode("one two STOP three"))
    monkeypatch.setattr("abruzzi.engine.llm.sample", lambda *_: (next(word), -1.0))
    events = list(llm.chat([{"role": "user", "content": "Hi"}], stop=("STOP",), max_tokens=40))
    assert "".join(e.text for e in events if isinstance(e, ContentDelta)) == "one two "
    end = events[-1]
    assert isinstance(end, MessageEnd)
    assert end.message.content == "one two " and end.finish_reason == "stop"


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="prompt has 300 tokens but the context holds 256"):
        llm.generate([5] * 300)
    with pytest.raises(ValueError, match="context holds 256"):
        list(llm.chat([{"role": "user", "content": "word " * 400}]))
    monkeypatch.setattr("abruzzi.engine.llm.sample", lambda *_: (5, -1.0))
    full = llm.generate([5] * 250, max_tokens=100)
    assert full.finish_reason == "length" and len(full.ids) == 6


@pytest.mark.parametrize(
    ("options", "says"),
    [({"temprature": 1}, "temprature"), ({"temperature": -1}, "temperature=-1"), ({"max_tokens": 0}, "max_tokens=0")],
)
def test_wrong_options_are_named(llm: LLM, options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        llm.generate([5], **options)


def test_top_logprobs_are_told_for_every_token(llm: LLM) -> None:
    prompt = llm.tokenizer.encode("the lazy dog")
    greedy = llm.generate(prompt, max_tokens=4, temperature=0, top_logprobs=5)
    assert greedy.top_logprobs is not None and [len(t) for t in greedy.top_logprobs] == [5] * 4
    assert tuple(t[0] for t in greedy.top_logprobs) == tuple(zip(greedy.ids, greedy.logprobs))
    plain = llm.generate(prompt, max_tokens=4, temperature=0)
    assert plain.top_logprobs is None and plain.logprobs == greedy.logprobs
    with pytest.raises(ValueError, match="top_logprobs=-1"):
        llm.generate(prompt, top_logprobs=-1)


def test_a_kernel_that_fails_its_self_test_is_named_and_nothing_is_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ops.linear
    monkeypatch.setattr(ops, "linear", lambda x, w, isa=None: right(x, w, isa) + np.float32(len(x) == 5))
    selftest.check.cache_clear()
    with pytest.raises(selftest.BrokenKernelError, match=r"kernel linear \(float32\) gives wrong numbers with"):
        LLM.load(folder)
    monkeypatch.setattr(ops, "linear", lambda x, w, isa=None: np.nan_to_num(right(x, w, isa)))
    with pytest.raises(selftest.BrokenKernelError, match="kernel linear"):
        LLM.load(folder)
    monkeypatch.undo()
    assert LLM.load(folder).generate([5], max_tokens=1)


@pytest.mark.parametrize(
    "kernel", ["linear", "linear_int8", "gate_up", "rmsnorm", "silu_mul", "rope", "mla_absorbed", "mla_naive"]
)
def test_the_self_test_knows_every_kernel(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(ops, kernel)
    monkeypatch.setattr(ops, kernel, lambda *given, **options: right(*given, **options) * np.float32(1.001))
    with pytest.raises(selftest.BrokenKernelError, match=f"kernel {kernel}"):
        selftest.check.__wrapped__(isa())


@pytest.mark.parametrize("name", supported_isas())
def test_the_self_test_passes_on_every_instruction_set(name: str) -> None:
    selftest.check.__wrapped__(name)


def test_a_tokenizer_of_another_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "tokenizer.json").write_text(tiny.vocabulary(310).to_json())
    with pytest.raises(ValueError, match=r"310 ids but the model 300.*another checkpoint"):
        LLM.load(broken)


def test_logits_are_teacher_forced(llm: LLM) -> None:
    ids = llm.tokenizer.encode("the lazy dog")
    logits = llm.logits(ids)
    assert logits.shape == (len(ids), llm.config.vocab_size) and logits.dtype == "float32"
    step = llm.generate(ids, max_tokens=1, temperature=0)
    assert step.ids[0] == logits[-1].argmax()
