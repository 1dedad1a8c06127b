"""Paged KV cache bookkeeping and prefix cache: who holds which block, which full block serves
another prompt.

A block is a fixed run of token slots. A sequence holds a table of blocks; several may hold the same
one. A full block gets a key from its tokens and from the key of the block before it, so equal keys
mean equal prefixes from the first token on. A keyed block that nobody holds stays filled until its
slots are needed, the longest unused first: a later prompt with the same beginning takes it over
(prefix cache).

Only bookkeeping: the numbers themselves lie in the runner's arrays. Not safe for use by two
threads.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

BlockKey = bytes
BLOCK_TOKENS = 16  # of a block, unless the engine is told otherwise


class OutOfBlocks(Exception):
    """No block is free: something must end or be preempted first."""


def block_key(before: BlockKey | None, ids: Sequence[int]) -> BlockKey:
    """The key of a full block. before: the key of the block in front of it, None for the first.

    A cryptographic hash, because an engineered collision would show one user's tokens to
    another."""
    digest = hashlib.blake2b(before or b"", digest_size=16)
    digest.update(b"".join(i.to_bytes(4, "little") for i in ids))
    return digest.digest()


class BlockPool:
    """`blocks` numbered slots runs of `block_tokens` tokens each."""

    def __init__(self, blocks: int, block_tokens: int) -> None:
        if blocks < 1 or block_tokens < 1:
            raise ValueError(f"blocks={blocks}, block_tokens={block_tokens}; expected at least one of each")
        self.blocks, self.block_tokens = blocks, block_tokens
        self._holders = [0] * blocks
        self._empty = list(range(blocks - 1, -1, -1))  # taken from the end: low numbers first
        self._unused: OrderedDict[int, None] = OrderedDict()  # keyed, held by nobody; oldest first
        self._key_of: dict[int, BlockKey] = {}
        self._block_of: dict[BlockKey, int] = {}

    @property
    def free(self) -> int:
        """Blocks that `take` could hand out, remembered ones included."""
        return len(self._empty) + len(self._unused)

    @property
    def held(self) -> int:
        """Blocks that some sequence holds."""
        return self.blocks - self.free

    def take(self) -> int:
        """A block for new tokens, held once. Raises OutOfBlocks."""
        if self._empty:
            block = self._empty.pop()
        elif self._unused:
            block, _ = self._unused.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
        else:
            raise OutOfBlocks(f"all {self.blocks} blocks of {self.block_tokens} tokens are held")
        self._holders[block] = 1
        return block

    def reuse(self, key: BlockKey) -> int | None:
        """Hold the block with this key once more; None when no block has it."""
        block = self._block_of.get(key)
        if block is None:
            return None
        self._unused.pop(block, None)
        self._holders[block] += 1
        return block

    def remember(self, block: int, key: BlockKey) -> None:
        """A held block is full now. When another has the same key already, that one stays the known
        one."""
        assert self._holders[block] > 0
        if block not in self._key_of and key not in self._block_of:
            self._key_of[block] = key
            self._block_of[key] = block

    def give_back(self, block: int) -> None:
        """One holder less. The last one leaves it empty, or filled and waiting when it has a
        key."""
        assert self._holders[block] > 0
        self._holders[block] -= 1
        if self._holders[block]:
            return
        if block in self._key_of:
            self._unused[block] = None
        else:
            self._empty.append(block)

    def forget_all(self) -> None:
        """Drop every key (the weights changed). Blocks that are held stay held."""
        self._empty.extend(self._unused)
        self._unused.clear()
        self._key_of.clear()
        self._block_of.clear()
