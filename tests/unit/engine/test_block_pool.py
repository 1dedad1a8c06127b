"""The pool against a plain model of it, under random use: nothing lost, nothing held twice by
mistake."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from abruzzi.engine.block_pool import BlockPool, OutOfBlocks, block_key


class Pool(RuleBasedStateMachine):
    """The model: how often each block is held, what was last written into it, and who serves which
    key: the first block that was filled with it, until somebody takes that one. A second block with
    the same tokens is not kept."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6, 4)
        self.count = dict.fromkeys(range(6), 0)
        self.content: dict[int, bytes] = {}
        self.known: dict[bytes, int] = {}

    @precondition(lambda self: sum(c == 0 for c in self.count.values()) > 0)
    @rule(target=held)
    def take(self) -> int:
        block = self.pool.take()
        assert self.count[block] == 0  # never one that somebody reads
        self.count[block] = 1
        self.content.pop(block, None)  # the new owner writes over it
        self.known = {k: b for k, b in self.known.items() if b != block}
        return block

    @precondition(lambda self: all(self.count.values()))
    @rule()
    def take_from_nothing(self) -> None:
        with pytest.raises(OutOfBlocks, match="all 6 blocks of 4 tokens"):
            self.pool.take()

    @rule(block=held, key=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def fill(self, block: int, key: bytes) -> None:
        if block not in self.content:
            self.content[block] = key
            self.known.setdefault(key, block)
            self.pool.remember(block, key)

    @rule(target=held, key=st.sampled_from([b"a", b"b", b"c", b"d"]), data=st.data())
    def reuse(self, key: bytes, data: st.DataObject) -> int:
        block = self.pool.reuse(key)
        if block is None:
            assert key not in self.known
            return self.take_any(data)
        assert block == self.known[key] and self.content[block] == key  # what it promises is what lies there
        self.count[block] += 1
        return block

    def take_any(self, data: st.DataObject) -> int:
        if all(self.count.values()):
            block = data.draw(st.sampled_from(sorted(self.count)))
            self.count[block] += 1
            self.pool._holders[block] += 1  # as a fork of a sequence would
            return block
        return self.take()

    @rule(block=consumes(held))
    def give_back(self, block: int) -> None:
        self.pool.give_back(block)
        self.count[block] -= 1

    @rule()
    def forget_all(self) -> None:
        self.pool.forget_all()
        self.known.clear()
        self.content = {b: f"old {b}".encode() for b in self.content if self.count[b]}

    @invariant()
    def numbers_agree(self) -> None:
        assert self.pool.held == sum(c > 0 for c in self.count.values())
        assert self.pool.free + self.pool.held == 6


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_longest_unused_block_is_taken_first() -> None:
    pool = BlockPool(3, 4)
    blocks = [pool.take() for _ in range(3)]
    for block, key in zip(blocks, (b"x", b"y", b"z")):
        pool.remember(block, key)
    for block in (blocks[1], blocks[0], blocks[2]):
        pool.give_back(block)
    assert pool.free == 3
    assert pool.take() == blocks[1] and pool.reuse(b"y") is None
    assert pool.reuse(b"x") == blocks[0] and pool.reuse(b"z") == blocks[2]
    with pytest.raises(OutOfBlocks):
        pool.take()


def test_keys_depend_on_the_whole_prefix_and_on_every_bit_of_an_id() -> None:
    first = block_key(None, [1, 2, 3, 4])
    assert first == block_key(None, (1, 2, 3, 4)) != block_key(None, [1, 2, 4, 3])
    assert block_key(first, [5]) != block_key(None, [5]) != block_key(None, [5 + 65536])


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0), (-1, 1)])
def test_empty_pools_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        BlockPool(*sizes)
