"""Wilson's interval: its defining equation, and its coverage by exact summation."""

from __future__ import annotations

import math

import pytest

from abruzzi.evals.stats import Z95, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (3, 10), (81, 100), (0, 200), (500, 1000)])
def test_the_ends_solve_the_score_equation(k: int, n: int) -> None:
    p = k / n
    for end in wilson(k, n):
        if 1e-12 < end < 1 - 1e-12:
            assert math.isclose(abs(p - end), Z95 * math.sqrt(end * (1 - end) / n), rel_tol=1e-9)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.9])
def test_coverage_is_near_95_percent(p: float) -> None:
    n = 100
    mass = sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1) if wilson(k, n)[0] <= p <= wilson(k, n)[1]
    )
    assert 0.93 < mass < 0.98


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_named(k: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{k} successes in {n}"):
        wilson(k, n)
