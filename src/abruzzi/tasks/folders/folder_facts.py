"""Questions whose answer is spread over a few small files: search, read, follow a pointer, combine.

    The van coming to Carlos has already stopped 9 times. How often will it still stop?
        files: search "Carlos"           -> parcels.txt:1: The parcel for Carlos is in the silver van, see ...
        files: read vans/silver.txt      -> Stops: 12
        calculator: 12 - 9               -> 3

A folder holds a list (who belongs where) and entries (what is true of it), either one file per
entry, pointed at from the list or found by its title, or all in one file. Trained questions take
two to four calls, "longer" ones five or six. About one trace in ten begins with a search that finds
nothing or a path that does not exist, and then does it right. The calculator joins in where numbers
are combined.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

from .. import language
from ..environments import Folder
from ..phrasing import Bank, bank, text_id
from ..task import Move, Split, Task, Unfit
from ..vocabulary import MEN, WOMEN
from ..workings import exact, work_out
from . import scenes

_SLIP_SHARE = 0.10
_KINDS: dict[Split, tuple[str, ...]] = {
    "trained": ("name", "number", "calc", "calc", "link"),
    "held_out": ("name", "number", "calc", "calc", "link"),
    "longer": ("pair",),
}
_STEPS: dict[Split, range] = {"trained": range(2, 5), "held_out": range(2, 5), "longer": range(5, 7)}
Layout = Literal["pointed", "titled", "flat"]


@dataclass(frozen=True)
class Entry:
    """What the folder says of one entity. `title` names it in a sentence."""

    title: str
    path: str
    name: str
    number: int
    link: int


@dataclass
class Draft:
    """A question with what its thinking and its answer say."""

    question: str
    answer: str
    others: tuple[str, ...]
    sentence: str
    moves: list[Move]
    closing: str
    alone: str


def make(split: Split, seed: int, id: str) -> Task:
    """A question about a folder. Same arguments, same task."""
    rng = random.Random(f"folder_facts/{split}/{seed}")
    while True:
        cabinet = Cabinet(rng, split == "held_out")
        try:
            draft = cabinet.draft(rng.choice(_KINDS[split]), split)
        except Unfit:
            continue
        if len(draft.moves) in _STEPS[split]:
            return _task(split, id, cabinet, draft)


def _task(split: Split, id: str, cabinet: Cabinet, draft: Draft) -> Task:
    rng = cabinet.rng
    folder = cabinet.folder()
    return Task(
        id=id,
        family="folder_facts",
        split=split,
        templates=tuple(cabinet.bank.used),
        steps=len(draft.moves),
        prompt=cabinet.bank.draw("intro").format(draft.question),
        prompt_without_tools=f"{draft.question}\n\n{folder.as_text()}",
        answer=draft.answer,
        others=draft.others,
        environment=folder,
        moves=tuple(_with_slip(draft.moves, rng) if rng.random() < _SLIP_SHARE else draft.moves),
        closing=draft.closing,
        alone=draft.alone,
        sentence=draft.sentence,
    )


class Cabinet:
    """A filled folder of one scene."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.rng = rng
        self.key = rng.choice(scenes.NAMES)
        scene = self.scene = scenes.scene(self.key)
        asks = {f"{self.key}.{kind}": say for kind, say in scene.asks.items()}
        self.bank = Bank({**asks, **bank("folders/introductions")}, rng, held_out)
        self.layout: Layout = rng.choice(("pointed", "titled", "flat"))
        people = rng.sample(WOMEN + MEN, 12)
        size = 3 if self.layout == "pointed" else rng.randint(3, 4)  # pointers make the files long
        entities = rng.sample(scene.entities, size) if scene.entities else people[:size]
        names = rng.sample(scene.names, size) if scene.names else people[4 : 4 + size]
        self.listed = rng.sample(scene.listed, size) if scene.listed else people[8 : 8 + size]
        numbers = rng.sample(range(scene.low, scene.high + 1), size)
        links = [*range(1, size), 0]  # a ring, so that nothing links to itself
        self.entries = [
            Entry(scene.title.format(e=e), f"{scene.folder}/{e.lower().replace(' ', '_')}.txt", name, number, link)
            for e, name, number, link in zip(entities, names, numbers, links)
        ]
        self.line = rng.choice(scene.lines)
        self.order = rng.sample(range(size), size)
        self.notes = rng.sample(scene.notes, rng.randint(1, 2))

    def draft(self, kind: str, split: Split) -> Draft:
        """A question of one kind about this folder. Raises Unfit."""
        first, second = self.rng.sample(range(len(self.entries)), 2)
        if kind == "name":
            return self._name(first)
        if kind in ("number", "link"):
            return self._number(first, kind)
        return self._calc(first) if kind == "calc" else self._pair(first, second)

    def folder(self) -> Folder:
        scene = self.scene
        listing = [self.listing_line(i) for i in self.order]
        files = {scene.listing: "\n".join(listing)}
        if self.layout == "flat":
            files[self.flat_path] = "\n".join(
                self.flat_line(i) for i in sorted(self.order, key=lambda i: self.entries[i].title)
            )
        else:
            files.update({entry.path: "\n".join(self.entry_lines(entry)) for entry in self.entries})
        files["notes.txt"] = "\n".join(self.notes)
        return Folder(tuple(sorted((path, text + "\n") for path, text in files.items())))

    @property
    def flat_path(self) -> str:
        return f"{self.scene.folder}.txt"

    def listing_line(self, i: int) -> str:
        who, entry = self.listed[i], self.entries[i]
        text = self.line.format(who=who, Who=who.capitalize(), t=entry.title)
        return f"{text}, see {entry.path}." if self.layout == "pointed" else f"{text}."

    def entry_lines(self, entry: Entry) -> list[str]:
        scene, linked = self.scene, self.entries[entry.link]
        pointer = f", see {linked.path}" if self.layout == "pointed" else ""
        return [
            entry.title[0].upper() + entry.title[1:],
            f"{scene.name_label}: {entry.name}",
            f"{scene.number_label}: {entry.number}",
            f"{scene.link_label}: {linked.title}{pointer}",
        ]

    def flat_line(self, i: int) -> str:
        title, name, number, link = self.entry_lines(self.entries[i])
        return f"{title}. {name}. {number}. {link}."

    def find(self, i: int, start: str) -> tuple[list[Move], str]:
        """The calls that lead from somebody on the list to the entry, and what the list says."""
        who, entry = self.listed[i], self.entries[i]
        moves = [Move(start, "files", {"action": "search", "query": who}, self.listing_line(i))]
        says = f"{self.scene.lines[0].format(who=who, t=entry.title)}."
        return [*moves, *self.open(entry, says)], says

    def open(self, entry: Entry, says: str) -> list[Move]:
        """The calls that show an entry, once it is known which."""
        lines = self.entry_lines(entry)
        number = f"{self.scene.number_label}: {entry.number}"
        if self.layout == "pointed":
            return [Move(f"{says} Read {entry.path}.", "files", {"action": "read", "path": entry.path}, number)]
        expect = lines[0] if self.layout == "titled" else number
        search = Move(f"{says} Search for that.", "files", {"action": "search", "query": entry.title}, expect)
        if self.layout == "flat":
            return [search]
        thought = f"The file is {entry.path}. I read it."
        return [search, Move(thought, "files", {"action": "read", "path": entry.path}, number)]

    def of(self, who: str) -> str:
        return f"the {who}" if self.scene.listed else who

    def the(self, entry: Entry) -> str:
        return f"the {entry.title}" if self.scene.title != "{e}" else entry.title

    def ask(self, kind: str, **slots: object) -> str:
        return language.sentence_case(self.bank.draw(f"{self.key}.{kind}").format_map(slots))

    def _name(self, i: int) -> Draft:
        entry, label = self.entries[i], self.scene.name_label
        moves, says = self.find(i, f"Plan: find {self.of(self.listed[i])}, then look up {label}.")
        fact = f"{label}: {entry.name}"
        moves[-1] = replace(moves[-1], expect=fact)
        return Draft(
            question=self.ask("name", who=self.listed[i]),
            answer=entry.name,
            others=tuple(e.name for e in self.entries if e is not entry),
            sentence=f"It is {entry.name}.",
            moves=moves,
            closing=f"It says {fact}.",
            alone=f"{says} There it says {fact}.",
        )

    def _number(self, i: int, kind: str) -> Draft:
        then = f"{self.scene.link_label}, then " if kind == "link" else ""
        moves, says = self.find(
            i, f"Plan: find {self.of(self.listed[i])}, then look up {then}{self.scene.number_label}."
        )
        entry = self.entries[i]
        if kind == "link":
            linked = self.entries[entry.link]
            link = f"The {self.scene.link_label.lower()} is {self.the(linked)}."
            moves[-1] = replace(moves[-1], expect=f"{self.scene.link_label}: {linked.title}")
            moves += self.open(linked, link)
            says, entry = f"{says} {link}", linked
        fact = f"{self.scene.number_label}: {entry.number}"
        return Draft(
            question=self.ask(kind, who=self.listed[i]),
            answer=str(entry.number),
            others=(),
            sentence=f"It is {entry.number} {self.scene.unit}.",
            moves=moves,
            closing=f"For {self.the(entry)} it says {fact}.",
            alone=f"{says} For {self.the(entry)} it says {fact}.",
        )

    def _calc(self, i: int) -> Draft:
        scene, entry = self.scene, self.entries[i]
        moves, says = self.find(
            i, f"Plan: find {self.of(self.listed[i])}, look up {scene.number_label}, then calculate."
        )
        if scene.op == "*":
            n = self.rng.randint(2, 18)
            a, b, why = n, entry.number, f"{n} times that"
        else:
            n = self.rng.randint(2, entry.number - 2)
            a, b, why = entry.number, n, f"Take {n} away"
        fact = f"{scene.number_label}: {entry.number}"
        result = exact(a, scene.op, b)
        check = f"{result} / {b} = {a}" if scene.op == "*" else f"{result} + {b} = {a}"
        move = _calculate(f"It says {fact}. {why}", a, scene.op, b)
        return Draft(
            question=self.ask("calc", who=self.listed[i], n=n),
            answer=str(result),
            others=(),
            sentence=f"It is {result} {scene.result_unit}.",
            moves=[*moves, move],
            closing=f"That gives {result}. Check: {check}.",
            alone=f"{says} It says {fact}. {why}. {work_out(a, scene.op, b)}. So it is {result}.",
        )

    def _pair(self, i: int, j: int) -> Draft:
        if self.layout == "titled":
            raise Unfit
        first, second = self.entries[i], self.entries[j]
        label = self.scene.number_label
        to_first, says_first = self.find(i, f"Plan: find {label} for both, then add. First {self.of(self.listed[i])}.")
        to_second, says_second = self.find(j, f"It says {label}: {first.number}. Now {self.of(self.listed[j])}.")
        a, b = first.number, second.number
        result = a + b
        moves = [*to_first, *to_second, _calculate(f"It says {label}: {b}. Add both", a, "+", b)]
        check = f"Check: {result} - {b} = {a}."
        question = self.ask("pair", who=self.listed[i], who2=self.listed[j])
        closing, alone = f"Together {result}. {check}", f"{work_out(a, '+', b)}. Together {result}."
        sentence = f"Together it is {result} {self.scene.unit}."
        if self.rng.random() < 0.5:
            n = self.rng.randint(2, result - 2)
            moves.append(_calculate(f"Together {result}. Without {n}", result, "-", n))
            question += self.ask_rest(n)
            left = result - n
            closing = f"That leaves {left}. Check: {left} + {n} = {result}."
            sentence = f"Without these it is {left} {self.scene.unit}."
            alone = f"{alone} Without {n}. {work_out(result, '-', n)}. That leaves {left}."
            result = left
        facts = f"{says_first} There it says {label}: {a}. {says_second} There it says {label}: {b}."
        return Draft(question, str(result), (), sentence, moves, closing, f"{facts} {alone}")

    def ask_rest(self, n: int) -> str:
        text = " Then take {n} away from that. What is left?"
        self.bank.used.append(f"rest.{text_id(text)}")
        return text.format(n=n)


def _calculate(thought: str, a: int, op: str, b: int) -> Move:
    expression = f"{a} {op} {b}"
    return Move(f"{thought}: {expression}.", "calculator", {"expression": expression}, str(exact(a, op, b)))


def _with_slip(moves: list[Move], rng: random.Random) -> list[Move]:
    """A search that is too long, or a path that does not exist, before the right one."""
    reads = [i for i, move in enumerate(moves) if move.arguments.get("action") == "read"]
    if reads and rng.random() < 0.6:
        at, right = reads[0], moves[reads[0]]
        wrong = right.arguments["path"].rsplit("/", 1)[-1]
        slip = replace(right, arguments={"action": "read", "path": wrong}, expect="", planted=True)
        remark = f"That path does not exist. The folder belongs to it: {right.arguments['path']}."
    else:
        at, right = 0, moves[0]
        wrong = f"where is {right.arguments['query']}"
        slip = replace(right, arguments={"action": "search", "query": wrong}, expect="", planted=True)
        remark = f"No line has these words. Only the name, {right.arguments['query']}, should do."
    return [*moves[:at], slip, replace(right, thought=remark), *moves[at + 1 :]]
