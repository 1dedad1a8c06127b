"""Byte-level vocabularies of our own, in the tokenizer.json form that every reader of the family
knows.

Two kinds: `train_bpe` learns merges, the usual way. `train_words` takes frequent words whole and
spells everything else byte by byte, the same way wherever it stands, so that a very small model can
learn to copy any name letter by letter, as it copies numbers digit by digit.

All 256 bytes are in the vocabulary, so no text is ever unknown; digits stand alone, so that a
number is read figure by figure; Kimi's control tokens follow the learned ones under their own
names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from abruzzi.tokenizer.formats.k2 import VISIBLE, VOCABULARY

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

CONTROL_TOKENS = VOCABULARY
# Words with their leading space, single digits, runs of punctuation, runs of white space.
PATTERN = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """The JSON text of a tokenizer.json with exactly `vocab_size` ids, control tokens included.

    Raises ValueError when the texts are too few to fill the vocabulary."""
    from tokenizers import models, pre_tokenizers, trainers

    learned = _learned(vocab_size)
    bpe = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=learned, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=[]
    )
    bpe.train_from_iterator(texts, trainer)
    return _with_control_tokens(bpe, learned)


def train_words(texts: Iterable[str], vocab_size: int, spelled: Container[str] = ()) -> str:
    """As `train_bpe`, but the learned tokens are the words that occur in most texts (with the space
    before them, as the pattern cuts them), and there are no merges.

    spelled: words, in lower case, that never become a token however frequent they are (names)."""
    from tokenizers import models, pre_tokenizers

    learned = _learned(vocab_size)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = _byte_level(models.BPE()).pre_tokenizer
    assert pieces is not None
    texts_with: Counter[str] = Counter()
    for text in texts:
        texts_with.update({piece for piece, _ in pieces.pre_tokenize_str(text)})
    wanted = (
        piece
        # Ties in the order of the alphabet: a Counter's order is that of sets, which changes from
        # run to run.
        for piece, _ in sorted(texts_with.items(), key=lambda item: (-item[1], item[0]))
        if len(piece) > 1 and "".join(filter(str.isalpha, piece.lstrip("\u0120"))).lower() not in spelled
    )
    tokens = [*alphabet, *(piece for piece, _ in zip(wanted, range(learned - len(alphabet))))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    # ignore_merges: a word that is a token is taken whole, though no merge leads to it.
    return _with_control_tokens(_byte_level(models.BPE(vocabulary, [], ignore_merges=True)), learned)


def _learned(vocab_size: int) -> int:
    learned = vocab_size - len(CONTROL_TOKENS)
    if learned < 256:
        raise ValueError(f"vocab_size={vocab_size} is too small; expected at least {256 + len(CONTROL_TOKENS)}")
    return learned


def _byte_level(model: BPE) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers

    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return made


def _with_control_tokens(trained: Tokenizer, learned: int) -> str:
    from tokenizers import AddedToken

    got = trained.get_vocab_size()
    if got != learned:
        raise ValueError(f"the texts gave {got} entries, expected {learned}; hint: more varied texts")
    trained.add_tokens([AddedToken(t, normalized=False, special=t not in VISIBLE) for t in CONTROL_TOKENS])
    return trained.to_str()
