"""Metrics: counters, gauges and histograms in Prometheus's text format. No request text ever enters
them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from abruzzi.engine.scheduler import Occupancy
    from abruzzi.server.generation import End

TTFT_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ITL_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Histogram:
    """Counts of seconds by upper bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str, what: str) -> list[str]:
        out, total = [f"# HELP {name} {what}", f"# TYPE {name} histogram"], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts):
            total += count
            out.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*out, f"{name}_sum {self.sum:g}", f"{name}_count {total}"]


class Metrics:
    """Told by the service what happens; `text` writes it down."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # (path, status)
        self.efforts: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.thought_ends: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.schemas: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.generations = 0
        self.aborts = 0
        self.ttft = Histogram(TTFT_BOUNDS)
        self.itl = Histogram(ITL_BOUNDS)

    def answered(self, path: str, status: int) -> None:
        """A response began."""
        self.requests[path, status] += 1

    def started(self, choices: int) -> None:
        self.generations += choices

    def ended(self, end: End) -> None:
        """A choice came to its end."""
        self.ends[end.finish_reason] += 1
        self.thought_ends[end.thought_end or "none"] += 1
        usage = end.usage
        self.tokens["prompt"] += usage.prompt_tokens
        self.tokens["cached"] += usage.cached_tokens
        self.tokens["completion"] += usage.completion_tokens
        self.tokens["reasoning"] += usage.reasoning_tokens
        if end.ttft_s is not None:
            self.ttft.add(end.ttft_s)
        if end.decode_tok_s:
            self.itl.add(1 / end.decode_tok_s)

    def closed(self, unfinished: int) -> None:
        """A request is over; so many of its choices were dropped in the middle."""
        self.aborts += unfinished

    def text(self, load: Occupancy, open_sequences: int, failures: int, turns: int, store_failures: int = 0) -> str:
        """The whole exposition, for GET /metrics."""
        out: list[str] = []

        def counter(name: str, what: str, values: dict[str, float], kind: str = "counter") -> None:
            out.extend((f"# HELP abruzzi_{name} {what}", f"# TYPE abruzzi_{name} {kind}"))
            out.extend(f"abruzzi_{name}{labels} {value:g}" for labels, value in values.items())

        def by(label: str, counts: Counter[str]) -> dict[str, float]:
            return {f'{{{label}="{key}"}}': value for key, value in sorted(counts.items())}

        requests = {f'{{path="{p}",status="{s}"}}': float(n) for (p, s), n in sorted(self.requests.items())}
        counter("requests_total", "Responses by path and status.", requests)
        counter("generations_total", "Choices that were begun.", {"": self.generations})
        counter("aborts_total", "Choices whose client left or that failed.", {"": self.aborts})
        counter("engine_failures_total", "Forward passes that raised.", {"": failures})
        counter("store_failures_total", "Times the store of turns failed.", {"": store_failures})
        counter("finish_total", "Choices by finish reason.", by("reason", self.ends))
        counter("thoughts_total", "Choices by what ended their thought.", by("ended_by", self.thought_ends))
        counter("reasoning_effort_total", "Requests by effort.", by("effort", self.efforts))
        counter("schemas_total", "Schemas of requests by what became of them.", by("outcome", self.schemas))
        counter("dropped_total", "Parts of requests that were taken without effect.", by("kind", self.dropped))
        counter("tokens_total", "Tokens by kind; cached is part of prompt.", by("kind", self.tokens))
        counter("sequences_open", "Sequences that run or wait.", {"": open_sequences}, "gauge")
        counter("sequences_running", "Sequences in the batch.", {"": load.running}, "gauge")
        counter("sequences_waiting", "Sequences that wait.", {"": load.waiting}, "gauge")
        counter("cache_blocks_held", "Blocks of the latent cache in use.", {"": load.blocks_held}, "gauge")
        counter("cache_blocks", "Blocks of the latent cache.", {"": load.blocks}, "gauge")
        counter("stored_turns", "Sampled turns that can be restored.", {"": turns}, "gauge")
        out.extend(self.ttft.lines("abruzzi_ttft_seconds", "Submission to first token."))
        out.extend(self.itl.lines("abruzzi_itl_seconds", "Mean time between tokens of a choice."))
        return "\n".join(out) + "\n"
