"""Reader of the plain text under words/: entries of parts of lines.

    Anything up to the first entry is a note for the reader: what the slots mean.

    # gain
    {p} [buy] {b} more.
    {Q} <give> {him} another {b}.
    -- held_out
    A parcel <bring> {him} {b} more.
    -- why
    Add the {b} new ones to {a}

`# gain` begins an entry, whose first lines are its part `trained`; `-- held_out` begins another
part. Every other line that is not blank is one text, in the order in which it is drawn from. The
line `40 x {}` stands for forty lines `{}`: a text that is drawn forty times as often. Nothing is
quoted or escaped. Whatever does not fit is a ValueError with file and line; what the parts mean is
for the caller to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter

WORDS = Path(__file__).parent / "words"
FIRST_PART = "trained"

_PART = re.compile(r"-- ([a-z_]+)")
_REPEATED = re.compile(r"(\d+) x (.+)")
_SLOT = re.compile(r"\{\w*\}")


@dataclass
class Entry:
    """One entry. line: where it begins; parts: its texts by part, without parts that have none."""

    name: str
    file: Path
    line: int
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def only(self, *parts: str) -> None:
        """Raises ValueError when the entry has a part that is not one of `parts`."""
        for part in self.parts:
            if part not in parts:
                raise self.error(f"the part {part!r} is unknown; expected one of {', '.join(parts)}")

    def texts(self, part: str) -> tuple[str, ...]:
        """The texts of a part. Raises ValueError when it has none."""
        if part not in self.parts:
            raise self.error(f"the part {part!r} is missing; expected '-- {part}' and a text below it")
        return self.parts[part]

    def text(self, part: str) -> str:
        """The one text of a part. Raises ValueError for none or several."""
        texts = self.texts(part)
        if len(texts) != 1:
            raise self.error(f"the part {part!r} has {len(texts)} texts; expected one")
        return texts[0]

    def number(self, part: str) -> int:
        """The one whole number of a part. Raises ValueError for anything else."""
        text = self.text(part)
        if not text.isdecimal():
            raise self.error(f"the part {part!r} is {text!r}; expected a whole number")
        return int(text)

    def error(self, what: str, line: int | None = None) -> ValueError:
        """What is wrong with this entry, with the place of `line` or of its heading in front."""
        return _error(self.file, self.line if line is None else line, f"entry {self.name!r}: {what}")


def read(name: str) -> dict[str, Entry]:
    """The entries of words/NAME.txt by name, in the file's order. Raises ValueError for a file that
    does not fit."""
    return parse(WORDS / f"{name}.txt")


def parse(file: Path) -> dict[str, Entry]:
    """`read` for a file anywhere."""
    entries: dict[str, Entry] = {}
    for entry in _entries(file):
        if entry.name in entries:
            raise entry.error(f"stands there a second time; expected one, and line {entries[entry.name].line} has it")
        entries[entry.name] = entry
    if not entries:
        raise _error(file, 1, "no entry; expected a line '# NAME'")
    return entries


def _entries(file: Path) -> Iterator[Entry]:
    entry: Entry | None = None
    part, texts, plain = FIRST_PART, [], set()
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#"):
            if entry:
                yield _closed(entry, part, texts)
            if not line.startswith("# ") or line != line.rstrip() or not line[2:].strip():
                raise _error(file, number, f"{line!r}; expected '# NAME', the name of an entry behind one space")
            entry, part, texts, plain = Entry(line[2:], file, number), FIRST_PART, [], set()
        elif entry is None or not line:
            continue
        elif line.startswith("--"):
            found = _PART.fullmatch(line)
            if not found:
                raise entry.error(f"{line!r}; expected '-- part' in small letters", number)
            if found[1] in entry.parts or found[1] == part:
                raise entry.error(f"the part {found[1]!r} stands there a second time; expected one", number)
            _close_part(entry, part, texts)
            part, texts, plain = found[1], [], set()
        else:
            repeated = _REPEATED.fullmatch(line)
            text = repeated[2] if repeated else line
            _check_text(entry, number, text)
            if not repeated and text in plain:
                raise entry.error(f"{text!r} stands there a second time; expected it once, or 'N x TEXT'", number)
            plain.add(text)
            texts += [text] * (int(repeated[1]) if repeated else 1)
    if entry:
        yield _closed(entry, part, texts)


def _close_part(entry: Entry, part: str, texts: list[str]) -> None:
    if texts:
        entry.parts[part] = tuple(texts)
    elif part != FIRST_PART:
        raise entry.error(f"the part {part!r} is empty; expected at least one text below '-- {part}'")


def _closed(entry: Entry, part: str, texts: list[str]) -> Entry:
    _close_part(entry, part, texts)
    if not entry.parts:
        raise entry.error(f"is empty; expected at least one text below '# {entry.name}'")
    return entry


def _check_text(entry: Entry, number: int, text: str) -> None:
    if text != text.strip() or "  " in text:
        raise entry.error(f"stray spaces in {text!r}; expected none at the ends and no two in a row", number)
    try:
        list(Formatter().parse(text))
    except ValueError as error:
        raise entry.error(f"{text!r} has a loose brace ({error}); expected slots like {{name}}", number) from None
    for opening, closing in ("[]", "<>"):
        if text.count(opening) != text.count(closing):
            raise entry.error(f"{text!r}: {opening} does not match {closing}; expected {opening}verb{closing}", number)
    if text.count("^") % 2:
        raise entry.error(f"{text!r} has a loose ^; expected ^verb^", number)


def has_words(text: str) -> bool:
    """Whether a text says anything beside its slots."""
    return re.search(r"\w", _SLOT.sub("", text)) is not None


def _error(file: Path, line: int, what: str) -> ValueError:
    path = file.relative_to(WORDS) if file.is_relative_to(WORDS) else file
    return ValueError(f"{path}:{line}: {what}")
