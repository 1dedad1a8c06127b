"""LLM: prefix reuse, budgets, stops, limits. Random weights: what the model says is noise, how it
is cut is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import abruzzi
from abruzzi import tokenizer
from abruzzi.engine.block_pool import BLOCK_TOKENS
from abruzzi.engine.llm import LLM
from abruzzi.engine.sampler import log_softmax
from abruzzi.engine.scheduler import Occupancy
from abruzzi.kernels import isa, ops, selftest, supported_isas
from abruzzi.types import ContentDelta, Message, MessageEnd, ReasoningDelta, SamplingParams
from tests import tiny

LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
SHORT_NAMES = {"propertyNames": {"maxLength": 3}}  # no grammar has it
STRICT = {"type": "function", "function": {"name": "s", "strict": True, "parameters": SHORT_NAMES}}


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


def think_forever(llm: LLM) -> None:
    """The model opens a thought and then says 'x' for ever."""
    opening = [llm.tokenizer.control["<think>"]]
    word = llm.tokenizer.encode("x")[0]

    def say(logits, params, seed, position):
        return (opening.pop() if opening else word), -1.0

    llm.sample = say


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_thinking_budget_closes_the_thought_and_leaves_an_answer(llm: LLM, budget: int) -> None:
    think_forever(llm)
    end = end_of(llm.chat([{"role": "user", "content": "Hi"}], thinking_budget=budget, max_tokens=40))
    assert end.usage.reasoning_tokens == budget
    assert end.message.reasoning_content == ("x" * budget or None)
    assert end.message.content == "x" * (40 - budget - 2)
    ids, sampled = end.message.ids, end.message.sampled
    assert ids is not None and sampled is not None
    assert [i for i, s in zip(ids, sampled) if not s] == [llm.tokenizer.control["</think>"]]


@pytest.mark.parametrize("limit", [8, 40, None])
def test_room_for_an_answer_is_left_whatever_the_limit(llm: LLM, limit: int | None) -> None:
    """A quarter of what may be generated."""
    think_forever(llm)
    end = end_of(llm.chat([{"role": "user", "content": "Hi"}], max_tokens=limit))
    count = end.usage.completion_tokens
    assert end.finish_reason == "length" and count == (limit or llm.max_context - end.usage.prompt_tokens)
    answer = count // 4
    assert end.usage.reasoning_tokens == count - answer
    assert end.message.content == "x" * (answer - 2)  # <think> and </think> are neither thought nor answer


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


def test_stop_strings_in_chat_are_not_shown(llm: LLM) -> None:
    word = iter(llm.tokenizer.encode("one two STOP three"))
    llm.sample = lambda *_: (next(word), -1.0)
    events = list(llm.chat([{"role": "user", "content": "Hi"}], stop=("STOP",), max_tokens=40))
    assert "".join(e.text for e in events if isinstance(e, ContentDelta)) == "one two "
    end = events[-1]
    assert isinstance(end, MessageEnd)
    assert end.message.content == "one two " and end.finish_reason == "stop"


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(llm: LLM) -> None:
    with pytest.raises(ValueError, match="prompt has 300 tokens but the context holds 256"):
        llm.generate([5] * 300)
    with pytest.raises(ValueError, match="context holds 256"):
        list(llm.chat([{"role": "user", "content": "word " * 400}]))
    llm.sample = lambda *_: (5, -1.0)
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
    "kernel", ["linear", "linear_int8", "gate_up", "rmsnorm", "silu_mul", "rope", "mla_absorbed", "mla_naive", "gqa"]
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


def test_tokens_of_the_prefix_cache_are_no_prefill(llm: LLM) -> None:
    """prefill_tok_s is of what was computed: the second time only what follows the last whole
    block."""
    ask = {"messages": [{"role": "user", "content": "the quick brown fox"}], "max_tokens": 2}
    for cached in (False, True):
        end = end_of(llm.chat(**ask))
        assert (end.usage.cached_tokens > 0) == cached
        assert end.prefill_tok_s is not None and end.ttft_s is not None
        computed = end.usage.prompt_tokens - end.usage.cached_tokens
        assert end.prefill_tok_s * end.ttft_s == pytest.approx(computed)


def test_cached_tokens_are_those_of_the_prompt_where_a_thought_ended_the_turn(llm: LLM) -> None:
    """The sequence that goes on finds the first one's blocks in the cache, but nobody asked for
    that prompt."""
    tok = llm.tokenizer
    said = iter(tok.encode("<think>" + "seven wizards " * 3 + "<|im_end|>yes<|im_end|>", allow_special=True))
    llm.sample = lambda *_: (next(said), -1.0)
    end = end_of(llm.chat([{"role": "user", "content": "Hi"}], max_tokens=100))
    assert end.message.content == "yes" and end.message.reasoning_content == "seven wizards " * 3
    assert end.usage.cached_tokens == 0 and end.usage.prompt_tokens + end.usage.completion_tokens > 2 * BLOCK_TOKENS


def test_every_generated_id_has_its_log_probability(llm: LLM) -> None:
    """Those of chat are those of generate; the header's ids have none."""
    ask = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 12, "seed": 4}
    for thinking in (True, False):
        end = end_of(llm.chat(**ask, thinking=thinking))
        assert end.message.ids is not None and end.message.sampled is not None
        count = len(end.logprobs)
        assert count == end.usage.completion_tokens == len(end.message.ids) - (0 if thinking else 2)
        prompt = tokenizer.render(llm.tokenizer, ask["messages"], thinking=thinking).ids
        logits = llm.logits([*prompt, *end.message.ids[-count:]])[len(prompt) - 1 : -1]
        rows = log_softmax(logits)[np.arange(count), list(end.message.ids[-count:])]
        assert end.logprobs == pytest.approx(rows.tolist(), abs=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tool_choice": "maybe"}, "tool_choice='maybe'; expected auto, none, required or a tool; tools: look"),
        ({"tools": [LOOK, LOOK]}, "two tools have the name 'look'"),
        ({"tools": [{"name": "look"}]}, "names no function"),
        ({"tools": (), "tool_choice": "required"}, "tools: none"),
        ({"response_schema": {"type": "object"}, "stop": ("x",)}, "stop would cut what response_schema demands"),
        ({"tool_choice": "required", "stop_token_ids": (5,)}, "stop_token_ids would cut what tool_choice demands"),
        ({"response_schema": {"type": "string", "pattern": "(?=x)"}}, "response_schema cannot be enforced"),
        ({"tools": [STRICT]}, r"tools\[0\].function.parameters of the tool .* cannot be enforced: .*strict=true"),
        ({"effort": "enormous"}, "effort='enormous'; expected one of minimal, low"),
    ],
)
def test_a_form_that_cannot_be_is_refused(llm: LLM, options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        list(llm.chat([{"role": "user", "content": "Hi"}], **{"tools": [LOOK], "max_tokens": 5, **options}))


def test_max_running_bounds_a_step(folder: Path) -> None:
    llm = abruzzi.load(folder, max_running=2, cache_tokens=512, threads=1)
    sequences = [llm.submit([5, 6, n], SamplingParams(max_tokens=4)) for n in range(5, 10)]
    llm.step()
    assert llm.occupancy() == Occupancy(waiting=3, running=2, blocks_held=2, blocks=512 // BLOCK_TOKENS)
    while llm.step():
        assert llm.occupancy().running <= 2
    assert all(s.finish_reason for s in sequences)
    assert LLM.load(folder, max_running=1000).scheduler.step_tokens >= 1000
    with pytest.raises(ValueError, match="max_running=0; expected 1 or more"):
        LLM.load(folder, max_running=0)


def test_calls_are_numbered_through_the_conversation(llm: LLM) -> None:
    made = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "a", "content": "ok"},
    ]
    end = end_of(llm.chat(history, [LOOK], tool_choice="required", thinking=False, max_tokens=60, seed=1))
    assert [c.index for c in end.message.tool_calls][:1] == [1]
