"""Continuous batching: which sequences run in the next step, and with how many of their tokens.

The policy, in the order in which `schedule` applies it:

- Decodes first: a sequence that decodes takes one token of every step.
- Chunked prefill: what is left of `step_tokens` goes to prefills, oldest first, so a long prompt never
  holds up the others for longer than one step.
- Preemption: when the block pool is empty, the youngest running sequence gives its blocks back, last
  block first, and is prefilled again later. Its tokens are kept; as draws depend on (seed, position)
  alone, it goes on as if nothing had happened. It does not come back in the same step (thrashing).
- Admission is first come, first served: nobody overtakes a sequence that does not fit yet
  (starvation). A sequence whose next block a running one is computing waits for that block instead
  (prefix cache), and those behind it may go on.

A worked step: blocks of 4 tokens, step_tokens 8. A decodes, B is at 4 of a prompt of 14, C (3
tokens) waits. The plan is [(A, 1), (B, 7)]: A's token, then all that is left for B, nothing for C.
In the next step B's last 3 tokens run, and C is admitted: [(A, 1), (B, 3), (C, 3)]. Should the pool
run dry in that step while room is made for B, the youngest (C, if it runs) is put out first, then B
itself.

No model, no clock, no thread: tests/unit/engine/test_scheduler.py holds plans in tables.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from abruzzi.engine.block_pool import BlockKey, BlockPool, OutOfBlocks, block_key
from abruzzi.engine.sequence import Sequence, State

STEP_TOKENS = 512  # enough to give every expert of a large model rows to multiply, short enough not to be noticed


MAX_RUNNING = 64


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full the engine is. waiting, running: sequences; blocks, and how many are held: of the
    latent cache."""

    waiting: int
    running: int
    blocks_held: int
    blocks: int


class Scheduler:
    """A queue of WAITING sequences and the batch of RUNNING ones, over one pool of cache blocks.

    step_tokens: tokens of one step at most. max_running: sequences of one step at most."""

    def __init__(self, pool: BlockPool, step_tokens: int = STEP_TOKENS, max_running: int = MAX_RUNNING) -> None:
        if max_running < 1:
            raise ValueError(f"max_running={max_running}; expected 1 or more")
        if step_tokens < max_running:
            raise ValueError(f"step_tokens={step_tokens} is less than max_running={max_running}; each may take one")
        self.pool, self.step_tokens, self.max_running = pool, step_tokens, max_running
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.preemptions = 0

    def occupancy(self) -> Occupancy:
        """Numbers that another thread may read without stopping this one."""
        return Occupancy(len(self.waiting), len(self.running), self.pool.held, self.pool.blocks)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence: WAITING."""
        sequence.state = State.WAITING
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and its blocks back: FINISHED. Idempotent."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        sequence.state = State.FINISHED
        self._release(sequence)

    def schedule(self) -> list[tuple[Sequence, int]]:
        """The plan of the next step: (sequence, how many of its ids run now), with blocks taken for
        them.

        Empty when there is nothing to do."""
        budget = self.step_tokens - sum(s.decodes for s in self.running)
        preemptions_before = self.preemptions
        plan: list[tuple[Sequence, int]] = []
        for sequence in list(self.running):
            if sequence.state is not State.RUNNING:
                continue  # preempted for an older one
            count = 1 if sequence.decodes else min(sequence.waiting_ids, budget)
            if count and self._make_room(sequence, count):
                plan.append((sequence, count))
                budget -= 0 if sequence.decodes else count  # decodes were counted beforehand
        if self.preemptions > preemptions_before:
            return plan  # whoever was just put out must not come back into the same full pool
        return plan + self._admit(budget)

    def _admit(self, budget: int) -> list[tuple[Sequence, int]]:
        """Waiting sequences that start now, first come, first served, with `budget` tokens for all
        of them."""
        plan: list[tuple[Sequence, int]] = []
        index = 0
        while index < min(len(self.waiting), self.max_running) and budget > 0 and len(self.running) < self.max_running:
            sequence = self.waiting[index]
            self._reuse_prefix(sequence)
            if self._prefix_is_being_computed(sequence):
                self._release(sequence)
                index += 1
                continue
            count = min(sequence.waiting_ids, budget)
            if self._missing(sequence, count) > self.pool.free:
                self._release(sequence)
                break  # nobody overtakes
            del self.waiting[index]
            if sequence.cached_tokens is None:
                sequence.cached_tokens = sequence.computed
            sequence.state = State.RUNNING
            self.running.append(sequence)
            assert self._make_room(sequence, count)
            plan.append((sequence, count))
            budget -= count
        return plan

    def ran(self, sequence: Sequence, count: int) -> None:
        """`count` more ids are in the KV cache: their full blocks can serve other prompts from now
        on."""
        sequence.computed += count
        size = self.pool.block_tokens
        while (len(sequence.keys) + 1) * size <= sequence.computed:
            index = len(sequence.keys)
            sequence.keys.append(self._key(sequence, index))
            self.pool.remember(sequence.blocks[index], sequence.keys[-1])

    def _key(self, sequence: Sequence, index: int) -> BlockKey:
        """The prefix-cache key of the sequence's block `index`; the keys in front of it are
        known."""
        size = self.pool.block_tokens
        before = sequence.keys[-1] if sequence.keys else None
        return block_key(before, sequence.ids[index * size : (index + 1) * size])

    def _reuse_prefix(self, sequence: Sequence) -> None:
        """Hold the cached blocks that the ids begin with. The last id always runs, for its
        logits."""
        size = self.pool.block_tokens
        for index in range((len(sequence.ids) - 1) // size):
            key = self._key(sequence, index)
            block = self.pool.reuse(key)
            if block is None:
                break
            sequence.blocks.append(block)
            sequence.keys.append(key)
        sequence.computed = len(sequence.blocks) * size

    def _prefix_is_being_computed(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing the very block that this one needs next: then
        this one waits for it. Of many that arrive at once with one beginning (the n samples of a
        request), one computes it for all."""
        start, known = sequence.computed, len(sequence.keys)
        end = start + self.pool.block_tokens
        if end >= len(sequence.ids):
            return False
        needed = sequence.ids[start:end]
        return any(
            r.computed < end <= len(r.ids) and r.keys[:known] == sequence.keys and r.ids[start:end] == needed
            for r in self.running
        )

    def _missing(self, sequence: Sequence, count: int) -> int:
        """Blocks that `count` more tokens need."""
        return -(-(sequence.computed + count) // self.pool.block_tokens) - len(sequence.blocks)

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Take the blocks for `count` more tokens, preempting the youngest. False when it was
        `sequence` itself."""
        while self._missing(sequence, count) > 0:
            try:
                sequence.blocks.append(self.pool.take())
            except OutOfBlocks:
                victim = self.running.pop()
                self._release(victim)
                victim.state = State.WAITING
                self.waiting.appendleft(victim)
                self.preemptions += 1
                if victim is sequence:
                    return False
        return True

    def _release(self, sequence: Sequence) -> None:
        # Last block first: of equally old blocks LRU then evicts the end of a prefix before its
        # beginning.
        for block in reversed(sequence.blocks):
            self.pool.give_back(block)
        sequence.blocks.clear()
        sequence.keys.clear()
        sequence.computed = 0
