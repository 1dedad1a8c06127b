"""A byte-level BPE of our own, in the tokenizer.json form that every reader of the family knows.

All 256 bytes are in the vocabulary, so no text is ever unknown; digits stand alone, so that a number
is read figure by figure; Kimi's control tokens follow the learned ones under their own names.
"""

from __future__ import annotations

from collections.abc import Iterable

CONTROL_TOKENS = (
    *("[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
    *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
    *("<|tool_call_argument_begin|>", "<|tool_call_end|>", "<think>", "</think>", "[UNK]", "[PAD]"),
)
# As Kimi's, they survive skip_special_tokens: a reader must see where thinking and calls begin.
_VISIBLE = ("tool_call", "think>")
# Words with their leading space, single digits, runs of punctuation, runs of white space.
PATTERN = r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """The JSON text of a tokenizer.json with exactly `vocab_size` ids, control tokens included.

    Raises ValueError when the texts are too few to fill the vocabulary."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    learned = vocab_size - len(CONTROL_TOKENS)
    if learned < 256:
        raise ValueError(f"vocab_size={vocab_size} is too small; expected at least {256 + len(CONTROL_TOKENS)}")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=learned, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=[]
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() != learned:
        raise ValueError(f"the texts gave {bpe.get_vocab_size()} entries, expected {learned}; hint: more varied texts")
    bpe.add_tokens(
        [AddedToken(t, normalized=False, special=not any(part in t for part in _VISIBLE)) for t in CONTROL_TOKENS]
    )
    return bpe.to_str()
