"""Control tokens are written down in one file each chat format: everybody else asks
`Tokenizer.format`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src" / "abruzzi"
FORMATS = ("tokenizer/formats/k2.py", "tokenizer/formats/chatml.py")
# What other people's servers leave in their text: there is no tokenizer behind an endpoint to ask.
FOREIGN = ("agent/think_tags.py",)
LITERAL = re.compile(r"<\|[a-z_]+\|>|</?think>|\[(?:BOS|EOS|EOT|PAD|UNK)\]")


def control_tokens(source: str) -> list[str]:
    return LITERAL.findall(source)


def test_only_formats_write_control_tokens_down() -> None:
    found = {str(p.relative_to(SRC)) for p in SRC.rglob("*.py") if control_tokens(p.read_text(encoding="utf-8"))}
    assert found - set(FORMATS) == set(FOREIGN), "ask tok.format or tok.marker_ids"
    assert set(FORMATS) <= found


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_writes_each_of_its_tokens_once(name: str) -> None:
    counts = Counter(control_tokens((SRC / name).read_text(encoding="utf-8")))
    assert len(counts) >= (15 if name.endswith("k2.py") else 3)
    assert {token for token, n in counts.items() if n > 1} == set()


@pytest.mark.parametrize("planted", ['id_of("<|im_end|>")', '"</think>" in text', "<think>", 'tok.control["[PAD]"]'])
def test_the_guard_sees_a_planted_literal(planted: str) -> None:
    assert len(control_tokens(planted)) == 1
