"""Tables of plans: what continuous batching decides, step by step, without a model.

A case is read as: so many blocks, these prompts arrive, then each step's plan as {name: tokens}.
After each step every sequence without waiting ids gets a token, as the engine would give it one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from abruzzi.engine.block_pool import BlockPool
from abruzzi.engine.scheduler import Scheduler
from abruzzi.engine.sequence import Sequence, State, Token
from abruzzi.types import SamplingParams

BLOCK = 4


def prompt(name: str, length: int, beginning: str = "") -> list[int]:
    """`length` ids that no other name has, of which the first `len(beginning)` depend on
    `beginning` alone."""
    shared = [1000 + ord(c) for c in beginning]
    return [*shared, *(100 * ord(name) + i for i in range(length - len(shared)))]


def sequence(ids: list[int]) -> Sequence:
    return Sequence(list(ids), len(ids), SamplingParams(), 0, 1000, frozenset())


@dataclass
class Bench:
    """A scheduler and the sequences that it was given, by name."""

    scheduler: Scheduler
    names: dict[str, Sequence] = field(default_factory=dict)

    def add(self, name: str, length: int, beginning: str = "") -> Sequence:
        self.names[name] = sequence(prompt(name, length, beginning))
        self.scheduler.add(self.names[name])
        return self.names[name]

    def step(self) -> dict[str, int]:
        """One step; the plan by name, in its order."""
        name_of = {id(s): name for name, s in self.names.items()}
        plan = self.scheduler.schedule()
        for s, count in plan:
            assert len(s.blocks) * BLOCK >= s.computed + count, "a planned token has no slot"
            self.scheduler.ran(s, count)
            if not s.waiting_ids:
                s.append(Token(9000 + len(s.tokens), -1.0))
        return {name_of[id(s)]: count for s, count in plan}

    def states(self) -> dict[str, State]:
        return {name: s.state for name, s in self.names.items()}


def bench(blocks: int, step_tokens: int = 8, max_running: int = 4) -> Bench:
    return Bench(Scheduler(BlockPool(blocks, BLOCK), step_tokens, max_running))


@dataclass(frozen=True)
class Case:
    why: str
    prompts: tuple[tuple[str, int], ...]
    plans: tuple[dict[str, int], ...]
    blocks: int = 32
    step_tokens: int = 8
    max_running: int = 4


CASES = [
    Case("nothing to do is an empty plan", (), ({}, {})),
    Case("a prompt that fits runs whole, then decodes", (("a", 5),), ({"a": 5}, {"a": 1}, {"a": 1})),
    Case("a long prompt is cut into chunks of step_tokens", (("a", 19),), ({"a": 8}, {"a": 8}, {"a": 3}, {"a": 1})),
    Case(
        "the oldest prefill takes the whole budget before the next one starts",
        (("a", 12), ("b", 12)),
        ({"a": 8}, {"a": 4, "b": 4}, {"a": 1, "b": 7}, {"a": 1, "b": 1}),
    ),
    Case(
        "decodes take one token each and the prefill all the rest of the step",
        (("a", 2), ("b", 2), ("c", 20)),
        ({"a": 2, "b": 2, "c": 4}, {"a": 1, "b": 1, "c": 6}, {"a": 1, "b": 1, "c": 6}, {"a": 1, "b": 1, "c": 4}),
    ),
    Case(
        "no more than max_running share a step",
        (("a", 2), ("b", 2), ("c", 2)),
        ({"a": 2, "b": 2}, {"a": 1, "b": 1}),
        max_running=2,
    ),
    Case(
        "who does not fit yet is not overtaken by a smaller one behind it",
        (("a", 7), ("b", 17), ("c", 2)),
        ({"a": 7}, {"a": 1}, {"a": 1}),
        blocks=6,
        step_tokens=24,
    ),
    Case(
        "the youngest is preempted when the oldest needs a block",
        (("a", 8), ("b", 8)),
        ({"a": 8, "b": 8}, {"a": 1}, {"a": 1}),
        blocks=4,
        step_tokens=16,
    ),
    Case(
        "a victim waits for the next step even if a piece of it would fit into this one (thrashing)",
        (("a", 4), ("b", 12)),
        ({"a": 4}, {"a": 1, "b": 3}, {"a": 1, "b": 3}, {"a": 1}, {"a": 1, "b": 3}),
        blocks=4,
        step_tokens=4,
    ),
    Case(
        "a sequence that finds no room for itself preempts itself and nobody older",
        (("a", 7), ("b", 8)),
        ({"a": 7, "b": 8}, {"a": 1}, {"a": 1}),
        blocks=4,
        step_tokens=16,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.why)
def test_plans(case: Case) -> None:
    made = bench(case.blocks, case.step_tokens, case.max_running)
    for name, length in case.prompts:
        made.add(name, length)
    plans = [made.step() for _ in case.plans]
    assert plans == list(case.plans)
    assert [list(p) for p in plans] == [list(p) for p in case.plans]  # the order within a step as well


def test_a_step_never_runs_more_than_step_tokens() -> None:
    made = bench(64, step_tokens=10)
    for name, length in (("a", 3), ("b", 9), ("c", 30), ("d", 2), ("e", 11)):
        made.add(name, length)
    totals = [sum(made.step().values()) for _ in range(12)]
    assert max(totals) == 10 and totals[:4] == [10, 10, 10, 10]


def test_states_are_waiting_running_finished() -> None:
    made = bench(32, max_running=1)
    a, b = made.add("a", 4), made.add("b", 4)
    assert made.states() == {"a": State.WAITING, "b": State.WAITING}
    made.step()
    assert made.states() == {"a": State.RUNNING, "b": State.WAITING}
    made.scheduler.remove(a)
    made.scheduler.remove(a)  # idempotent
    assert made.states() == {"a": State.FINISHED, "b": State.WAITING}
    made.step()
    assert made.states() == {"a": State.FINISHED, "b": State.RUNNING}
    made.scheduler.remove(b)
    assert made.scheduler.pool.held == 0


def test_a_waiting_sequence_that_is_removed_never_runs() -> None:
    made = bench(32, step_tokens=8)
    made.add("a", 8)
    b = made.add("b", 8)
    assert made.step() == {"a": 8}
    made.scheduler.remove(b)
    assert not made.scheduler.waiting and made.step() == {"a": 1}


def test_a_preempted_sequence_waits_in_front_of_everybody_and_computes_its_own_tokens_again() -> None:
    made = bench(4, step_tokens=16)
    _, b, _ = made.add("a", 8), made.add("b", 8), made.add("c", 4)
    assert made.step() == {"a": 8, "b": 8}
    assert made.step() == {"a": 1}
    assert b.state is State.WAITING and b.computed == 0 and not b.blocks and len(b.tokens) == 1
    assert next(iter(made.scheduler.waiting)) is b and made.scheduler.preemptions == 1
    made.scheduler.remove(made.names["a"])
    # b's last block was evicted for a's ninth token, its first one is still cached: ids 5 to 9 run
    # again.
    assert made.step() == {"b": 5, "c": 4}
    assert b.state is State.RUNNING and b.cached_tokens == 0  # nothing was cached when it first came


def test_cached_tokens_are_counted_at_the_first_admission_only() -> None:
    made = bench(8, step_tokens=16)
    made.add("a", 8)
    made.step()
    made.scheduler.remove(made.names["a"])
    again = sequence(prompt("a", 8))
    made.names["again"] = again
    made.scheduler.add(again)
    assert made.step() == {"again": 4}  # the second block holds the last id, which always runs
    assert again.cached_tokens == 4


def test_blocks_are_released_last_first_so_that_a_prefix_keeps_its_beginning() -> None:
    made = bench(4, step_tokens=16)
    made.add("a", 16)
    made.step()
    made.scheduler.remove(made.names["a"])
    other = made.add("b", 5)  # two new blocks: the LRU ones, which must be a's last two
    made.step()
    made.scheduler.remove(other)
    again = sequence(prompt("a", 16))
    made.scheduler.add(again)
    made.scheduler.schedule()
    assert again.cached_tokens == 8


def test_who_needs_the_block_that_another_is_computing_waits_for_it() -> None:
    made = bench(32, step_tokens=8)
    made.add("a", 12, beginning="12345678")
    made.add("b", 12, beginning="12345678")
    made.add("c", 3)
    assert made.step() == {"a": 8}  # b would compute a's blocks a second time; no budget is left for c
    assert made.step() == {"a": 4, "b": 4}
    assert made.names["b"].cached_tokens == 8
    assert made.step() == {"a": 1, "b": 1, "c": 3}


def test_others_go_on_past_one_that_waits_for_a_block() -> None:
    made = bench(32, step_tokens=16)
    made.add("a", 12, beginning="12345678")
    made.add("b", 12, beginning="12345678")
    made.add("c", 3)
    assert made.step() == {"a": 12, "c": 3}


def test_step_tokens_below_max_running_is_refused() -> None:
    with pytest.raises(ValueError, match="step_tokens=3 is less than max_running=4"):
        Scheduler(BlockPool(4, BLOCK), step_tokens=3, max_running=4)
