"""Who runs in the next step, and with how many tokens: continuous batching over a pool of blocks.

Sequences that decode take one token each; what is left of `step_tokens` goes to prefills, oldest first, so a
long prompt never holds up the others for longer than one step. When the pool is empty the youngest
sequence gives its blocks back and is prefilled again later (preemption); its tokens are kept, and as draws
depend on (seed, position) alone it goes on as if nothing had happened. A prompt whose beginning another one is
computing waits until it can take that over.
"""

from __future__ import annotations

from collections import deque

from abruzzi.engine.block_pool import BlockPool, OutOfBlocks, block_key
from abruzzi.engine.sequence import Sequence

STEP_TOKENS = 512  # enough to give every expert of a large model rows to multiply, short enough not to be noticed


class Scheduler:
    """Waiting and running sequences. max_running: how many share a step at most."""

    def __init__(self, pool: BlockPool, step_tokens: int = STEP_TOKENS, max_running: int = 64) -> None:
        if step_tokens < max_running:
            raise ValueError(f"step_tokens={step_tokens} is less than max_running={max_running}; each may take one")
        self.pool, self.step_tokens, self.max_running = pool, step_tokens, max_running
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and its blocks back. Does nothing when it is out already."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def schedule(self) -> list[tuple[Sequence, int]]:
        """(sequence, how many of its ids to run now), blocks for them taken. Empty when there is nothing to do."""
        budget = self.step_tokens - sum(s.waiting_ids == 1 for s in self.running)
        before = self.preemptions
        plan: list[tuple[Sequence, int]] = []
        for sequence in list(self.running):
            if sequence not in self.running:
                continue  # preempted for an older one
            decodes = sequence.waiting_ids == 1
            count = 1 if decodes else min(sequence.waiting_ids, budget)
            if count and self._make_room(sequence, count):
                plan.append((sequence, count))
                budget -= 0 if decodes else count
        if self.preemptions > before:
            return plan  # whoever was just put out must not come back into the same full pool
        at = 0
        while at < min(len(self.waiting), self.max_running) and budget > 0 and len(self.running) < self.max_running:
            sequence = self.waiting[at]
            self._take_over_prefix(sequence)
            if self._under_way(sequence):
                self._release(sequence)
                at += 1
                continue
            count = min(sequence.waiting_ids, budget)
            if self._missing(sequence, count) > self.pool.free:
                self._release(sequence)
                break  # first come, first served: nobody overtakes
            del self.waiting[at]
            if sequence.cached_tokens is None:
                sequence.cached_tokens = sequence.computed
            self.running.append(sequence)
            assert self._make_room(sequence, count)
            plan.append((sequence, count))
            budget -= count
        return plan

    def ran(self, sequence: Sequence, count: int) -> None:
        """`count` more ids have their latents in the cache: full blocks can serve others from now on."""
        sequence.computed += count
        size = self.pool.block_tokens
        while (len(sequence.keys) + 1) * size <= sequence.computed:
            at = len(sequence.keys)
            before = sequence.keys[-1] if sequence.keys else None
            sequence.keys.append(block_key(before, sequence.ids[at * size : (at + 1) * size]))
            self.pool.remember(sequence.blocks[at], sequence.keys[-1])

    def _take_over_prefix(self, sequence: Sequence) -> None:
        """Hold the known blocks that the ids begin with. The last id always runs, for its logits."""
        size = self.pool.block_tokens
        for at in range((len(sequence.ids) - 1) // size):
            before = sequence.keys[-1] if sequence.keys else None
            key = block_key(before, sequence.ids[at * size : (at + 1) * size])
            block = self.pool.reuse(key)
            if block is None:
                break
            sequence.blocks.append(block)
            sequence.keys.append(key)
        sequence.computed = len(sequence.blocks) * size

    def _under_way(self, sequence: Sequence) -> bool:
        """Whether a running sequence is just computing the next block that this one needs: then it waits for it, and
        of many that come at once with the same beginning (the n samples of a request) one computes it for all."""
        at, known = sequence.computed, len(sequence.keys)
        end = at + self.pool.block_tokens
        if end >= len(sequence.ids):
            return False
        wanted = sequence.ids[at:end]
        return any(
            r.computed < end <= len(r.ids) and r.keys[:known] == sequence.keys and r.ids[at:end] == wanted
            for r in self.running
        )

    def _missing(self, sequence: Sequence, count: int) -> int:
        """Blocks that `count` more tokens need."""
        return -(-(sequence.computed + count) // self.pool.block_tokens) - len(sequence.blocks)

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Take the blocks for `count` more tokens, preempting the youngest. False when it was `sequence` itself."""
        while self._missing(sequence, count) > 0:
            try:
                sequence.blocks.append(self.pool.take())
            except OutOfBlocks:
                victim = self.running.pop()
                self._release(victim)
                self.waiting.appendleft(victim)
                self.preemptions += 1
                if victim is sequence:
                    return False
        return True

    def _release(self, sequence: Sequence) -> None:
        # Last block first: of equally old blocks the end of a prefix is forgotten before its beginning.
        for block in reversed(sequence.blocks):
            self.pool.give_back(block)
        sequence.blocks.clear()
        sequence.keys.clear()
        sequence.computed = 0
