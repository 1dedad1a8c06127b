"""Thousands of requests of all sorts, malformed ones too: every one ends, blocks come back, memory
stays."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abruzzi import nano_path
from abruzzi.engine.llm import LLM
from abruzzi.types import SamplingParams
from tests import tiny

BENCH = Path(__file__).resolve().parents[3] / "bench"


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    """bench/engine_soak.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        spec = importlib.util.spec_from_file_location("engine_soak", BENCH / "engine_soak.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["engine_soak"] = module  # dataclasses look there
        spec.loader.exec_module(module)
        return module


def test_four_hundred_requests_of_all_sorts(soak: ModuleType) -> None:
    llm = LLM.load(nano_path(), cache_tokens=512)
    tally = soak.soak(llm, 400, seed=1)
    assert tally.finished > 300 and tally.aborted > 5 and tally.refused > 5
    assert llm.scheduler.preemptions > 0 and llm.scheduler.pool.held == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow(soak: ModuleType) -> None:
    llm = LLM.load(nano_path(), cache_tokens=512)
    tally = soak.soak(llm, 4000, seed=2)
    assert soak.growth(tally.memory) < 200  # bytes per request; one that is kept takes more than 1000


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM.load(tiny.write(tmp_path_factory.mktemp("tiny") / "m"), cache_tokens=96)


ids = st.one_of(
    st.lists(st.integers(0, 299), max_size=120),
    st.lists(st.integers(-(2**70), 2**70), max_size=5),
    st.lists(st.integers(0, 299).map(np.int32), min_size=1, max_size=5),
    st.lists(st.one_of(st.floats(), st.text(max_size=2), st.none(), st.booleans()), min_size=1, max_size=3),
    st.text(max_size=3),
    st.none(),
)
numbers = st.one_of(st.none(), st.integers(-5, 60), st.floats(), st.integers(2**62, 2**70))
options = st.dictionaries(
    st.sampled_from(
        ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "thinking_budget", "top_logprobs"]
    ),
    numbers,
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(ids, options)
@example([0], {"top_k": 2**64})
@example([0], {"temperature": 10**400})
def test_whatever_is_asked_is_answered_or_refused_in_one_sentence(llm: LLM, ids: Any, options: dict[str, Any]) -> None:
    try:
        sequence = llm.submit(ids, SamplingParams(**options))
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    else:
        for _ in range(200):
            if sequence.finish_reason is not None:
                break
            llm.step()
        assert sequence.finish_reason in ("stop", "length") and 1 <= len(sequence.tokens) <= sequence.limit
        assert all(0 <= t.id < 300 and np.isfinite(t.logprob) for t in sequence.tokens)
    assert llm.scheduler.pool.held == 0 and not llm.scheduler.waiting and not llm.scheduler.running
