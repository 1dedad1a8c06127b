"""The plain text of words/: read as it stands, refused with file and line, ids from the text
alone."""

from __future__ import annotations

import random
import re
from hashlib import blake2b
from pathlib import Path

import pytest

from abruzzi.tasks import entries, make, phrasing
from abruzzi.tasks.dates.amounts import chained
from abruzzi.tasks.folders.scenes import staged
from abruzzi.tasks.phrasing import Bank, bank, banks
from abruzzi.tasks.tables.themes import themed

TEXT: str = """What the slots mean, and nothing that is drawn.

# gain
{p} [buy] {b} more.
2 x {}
{Q} <give> {him} {b}.
-- held_out
{b} more ^come^ by post.
-- why
Add {b} to {a}

# left
-- then
{r} are left.
"""


def parsed(tmp_path: Path, text: str) -> dict[str, entries.Entry]:
    file = tmp_path / "some.txt"
    file.write_text(text, encoding="utf-8")
    return entries.parse(file)


def test_a_file_is_read_line_by_line_in_its_order(tmp_path: Path) -> None:
    read = parsed(tmp_path, TEXT)
    assert list(read) == ["gain", "left"]
    assert read["gain"].parts == {
        "trained": ("{p} [buy] {b} more.", "{}", "{}", "{Q} <give> {him} {b}."),
        "held_out": ("{b} more ^come^ by post.",),
        "why": ("Add {b} to {a}",),
    }
    assert read["left"].parts == {"then": ("{r} are left.",)}
    assert [entry.line for entry in read.values()] == [3, 12]


@pytest.mark.parametrize(
    ("line", "wrong", "says"),
    [
        (3, "#gain", "3: '#gain'; expected '# NAME'"),
        (12, "# gain", "12: entry 'gain': stands there a second time; expected one, and line 3 has it"),
        (7, "--held_out", "7: entry 'gain': '--held_out'; expected '-- part'"),
        (9, "-- held_out", "9: entry 'gain': the part 'held_out' stands there a second time"),
        (10, "", "3: entry 'gain': the part 'why' is empty; expected at least one text"),
        (14, "# right", "12: entry 'left': the part 'then' is empty"),
        (14, "{r} are left. ", "14: entry 'left': stray spaces"),
        (4, "{p} [buy]  more.", "4: entry 'gain': stray spaces"),
        (4, "{p [buy] {b} more.", "4: entry 'gain': '{p [buy] {b} more.' has a loose brace"),
        (4, "{p} [buy {b} more.", "4: entry 'gain': '{p} [buy {b} more.': [ does not match ]; expected [verb]"),
        (4, "{p} <buy {b} more.", "4: entry 'gain': '{p} <buy {b} more.': < does not match >"),
        (8, "{b} more ^come by post.", "8: entry 'gain': '{b} more ^come by post.' has a loose ^"),
        (4, "{Q} <give> {him} {b}.", "6: entry 'gain': '{Q} <give> {him} {b}.' stands there a second time"),
    ],
)
def test_a_line_that_does_not_fit_is_named_with_its_file(tmp_path: Path, line: int, wrong: str, says: str) -> None:
    lines = TEXT.split("\n")
    lines[line - 1] = wrong
    with pytest.raises(ValueError, match=re.escape(f"some.txt:{says}")):
        parsed(tmp_path, "\n".join(lines))


def test_a_file_without_entries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("some.txt:1: no entry; expected a line '# NAME'")):
        parsed(tmp_path, "gain\nmore\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# gain\nmore\n-- perhaps\nless\n", "the part 'perhaps' is unknown; expected one of trained, held_out, plan"),
        ("# gain\nmore of {b}\n-- held_out\nmore of {b}\n", "'more of {b}' is held out and trained"),
    ],
)
def test_a_bank_refuses_parts_that_it_does_not_know_and_held_out_texts_that_are_trained(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        phrasing.say(parsed(tmp_path, text)["gain"])


def test_two_texts_of_an_entry_with_one_id_are_refused(tmp_path: Path) -> None:
    seen: dict[str, str] = {}
    for number in range(100_000):  # about 4,800 of them meet by chance
        text = f"text {number}"
        other = seen.setdefault(phrasing.text_id(text), text)
        if other != text:
            break
    else:
        raise AssertionError("no two texts met")
    with pytest.raises(ValueError, match=f"{text!r} and {other!r} have the same id"):
        phrasing.say(parsed(tmp_path, f"# gain\n{other}\nmore\n{text}\n")["gain"])


def test_an_id_is_a_hash_of_the_text_wherever_it_stands(tmp_path: Path) -> None:
    say = phrasing.say(parsed(tmp_path, TEXT)["gain"])
    for text in (*say.trained, *say.held_out):
        assert say.ids[text] == blake2b(text.encode(), digest_size=3).hexdigest()
    lines = TEXT.split("\n")
    lines[3:6] = reversed(lines[3:6])
    assert phrasing.say(parsed(tmp_path, "\n".join(lines))["gain"]).ids == say.ids
    for held_out in (False, True):
        drawing = Bank({"gain": say}, random.Random(1), held_out)
        texts = [drawing.draw("gain") for _ in range(20)]
        assert drawing.used == [f"gain.{'h' if held_out else ''}{say.ids[text]}" for text in texts]
    # A promise: records of runs name these.
    assert make("puzzles", "trained", 0).templates == ("countdown.98143c", "frame.8f0402")


def test_every_file_is_read_by_somebody_and_no_two_banks_share_a_kind() -> None:
    files = {str(f.relative_to(entries.WORDS).with_suffix("")) for f in entries.WORDS.rglob("*.txt")}
    asked: set[str] = set()
    real = entries.read

    def noted(name: str) -> dict[str, entries.Entry]:
        asked.add(name)
        return real(name)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(entries, "read", noted)
        _forget()
        for family in ("word_problems", "table_questions", "folder_facts", "dates_and_units", "puzzles", "chains"):
            for seed in range(300):
                make(family, "trained", seed)
    assert asked == files
    with pytest.raises(ValueError, match="the entry 'frame' is in stories/frames, stories/frames twice"):
        banks("stories/frames", "stories/frames")


def _forget() -> None:
    from abruzzi.tasks.dates import amounts, asking
    from abruzzi.tasks.folders import scenes
    from abruzzi.tasks.tables import themes

    for cached in (bank, banks, amounts.chains, asking.says, scenes.scene, themes.theme, themes.themes):
        cached.cache_clear()


def test_a_theme_a_scene_and_a_chain_of_units_say_what_they_miss(tmp_path: Path) -> None:
    def changed(name: str, old: str, new: str) -> dict[str, entries.Entry]:
        text = (entries.WORDS / f"{name}.txt").read_text(encoding="utf-8")
        assert old in text
        return parsed(tmp_path, text.replace(old, new, 1))

    stock, staff = "tables/themes/stock", "folders/staff"
    for old, new, says in (
        ("# theme", "# themes", "expected the entry 'theme' first"),
        ("-- low\n4\n", "-- low\nfour\n", "entry 'price': the part 'low' is 'four'; expected a whole number"),
        ("-- unit\ndollars\n", "", "entry 'price': the part 'unit' is missing; expected '-- unit'"),
        ("-- unit\ndollars\n", "-- unit\ndollars\neuros\n", "the part 'unit' has 2 texts; expected one"),
        ("times: A customer", "twice: A customer", "expected 'KIND: QUESTION' with times, minus, until"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)):
            themed(changed(stock, old, new))
    for old, new, says in (
        ("# calc", "# calculation", "expected the entry 'scene' first and behind it name, number, calc, link, pair"),
        ("-- op\n*\n", "-- op\n+\n", "the op is '+'; expected one of *, -"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)):
            staged(changed(staff, old, new))
    with pytest.raises(ValueError, match=re.escape("expected '# UNIT = N UNIT = N UNIT'")):
        chained(parsed(tmp_path, "# mile 1760 yard\nThe way is {x}.\n")["mile 1760 yard"])
    chain = chained(parsed(tmp_path, "# mile = 1760 yard = 3 foot\nThe way is {x}.\n")["mile = 1760 yard = 3 foot"])
    assert chain.units == (("mile", 1760), ("yard", 3), ("foot", 0))
