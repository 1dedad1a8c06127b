"""The adapter to `reasoning-gym`, with the library itself where it is installed; what it refuses,
always."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from abruzzi.tasks import make
from abruzzi.tasks import reasoning_gym as adapter
from abruzzi.tasks.audit import audit

# Answers that Python's own eval or sympy's would run, or that would not end.
ATTACKS = (
    "__import__('os').system('touch {file}')",
    "open('{file}', 'w')",
    "open('{file}', 'w')!",
    "[open('{file}', 'w')]",
    "[c for c in open('{file}', 'w')]",
    "(lambda: open('{file}', 'w'))()",
    'exec(\'open("{file}", "w")\')',
    "1 if open('{file}', 'w') else 2",
    "9**9**9**9",
    "(9**99)**99",
    "9**(99*99)",
    "2**99999999",
    "'a' * 9999999999",
    "[0] * 9999999999",
    "99999999!",
    "factorial(99999999)",
    "x.__class__",
    "1 << 99999999",
)


def test_what_a_generator_may_evaluate() -> None:
    for answer in ("24", "(8 - 4) * 3 / 2", "-x**2/2 + C", "sin(x) + 3.5*exp(-2*x)", "-4*(-2*x - 8)**(3/2)/3 + C"):
        assert adapter.harmless(answer), answer
    for answer in ("[[0, 1], [1, 0]]", "['A', 'B']", "EACADDDDB", "0 1 2\n3 4 5", "P ∧ (Q ∨ R)", "_ Q _\nQ _ _"):
        assert adapter.harmless(answer), answer
    for attack in ATTACKS:
        assert not adapter.harmless(attack), attack
    assert not adapter.harmless("1 + " * 1000 + "1")


def test_a_missing_library_is_said_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ValueError, match=r"hint: pip install 'abruzzi\[tasks\]'"):
        make("reasoning_gym/chain_sum", "trained", 1)


@pytest.fixture(scope="module")
def names() -> Sequence[str]:
    pytest.importorskip("reasoning_gym", reason="pip install 'abruzzi[tasks]'")
    return adapter.generators()


@pytest.mark.parametrize(
    "name", ["chain_sum", "countdown", "simple_integration", "n_queens", "string_insertion", "knights_knaves", "maze"]
)
def test_gold_is_right_and_the_score_is_the_librarys(names: Sequence[str], name: str) -> None:
    import reasoning_gym

    assert name in names
    for seed in range(3):
        task = make(f"reasoning_gym/{name}", "trained", seed)
        audit(task)
        dataset = reasoning_gym.create_dataset(name, seed=seed, size=1)
        entry = dataset[0]
        assert (task.prompt, task.answer) == (entry["question"], entry["answer"])
        for text in (entry["answer"], "17", "no idea at all", entry["answer"] + " 5"):
            assert task.reward(text) == dataset.score_answer(text, entry)
        assert task.reward(f"I think so. <answer> {task.answer} </answer>") == 1.0
        assert task.reward("") == 0.0
        assert task == make(f"reasoning_gym/{name}", "trained", seed) != make(f"reasoning_gym/{name}", "trained", 99)
        (message,) = task.gold(thinking=False, tools=True)
        assert task.reward(message.content or "") == 1.0
        with task.open_tools() as tools:
            assert tuple(tools) == ()


def test_answers_are_never_run(names: Sequence[str], tmp_path: Path) -> None:
    for name in ("countdown", "puzzle24", "simple_integration", "spiral_matrix", "n_queens"):
        task = adapter.make(name, seed=1)
        assert task.evaluates
        for attack in ATTACKS:
            assert task.reward(attack.replace("{file}", str(tmp_path / "run"))) == 0.0
    assert not list(tmp_path.iterdir())


def test_settings_and_names(names: Sequence[str]) -> None:
    short = adapter.make("chain_sum", seed=3, config={"min_terms": 2, "max_terms": 2})
    audit(short)
    assert short.prompt.count(" - ") + short.prompt.count(" + ") == 1
    for bad, hint in (
        (lambda: adapter.make("chain_sums", seed=1), "did you mean 'chain_sum'"),
        (lambda: adapter.make("chain_sum", seed=1, config={"max_term": 3}), "did you mean 'max_terms'"),
        (lambda: adapter.make("chain_sum", seed=1, config={"min_terms": 5, "max_terms": 2}), "refuses the settings"),
        (lambda: adapter.make("chain_sum", seed=1, config={"seed": 2}), "no setting 'seed'"),
        (lambda: make("reasoning_gym/chain_sum", "held_out", 1), "no split"),
        (lambda: short.gold(thinking=True, tools=False), "no gold thinking"),
        (lambda: adapter.make("rush_hour", seed=1).gold(False, False), "no gold answer"),
    ):
        with pytest.raises(ValueError, match=hint):
            bad()
