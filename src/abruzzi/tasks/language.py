"""Small English grammar for phrasings: who is spoken of, verbs that agree and take a tense, slots.

A phrasing is text with slots in braces and verbs in their dictionary form inside marks:

    "{P} [have] {a} {things}."          [verb] agrees with the protagonist: Mia has / I have
    "{Q} <give> {him} {b} more."        <verb> agrees with one other person or thing: Ben gives
    "{b} of them ^get^ lost."           ^verb^ agrees with several: get

All marked verbs of a text take the same tense. Slots of the protagonist: {P} name or I, {p}
pronoun, {him}, {his}, {Ps} possessive of the name, {we} the protagonist and somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .numbers import in_words

Tense = Literal["present", "past"]

_PAST = {
    **{"have": "had", "buy": "bought", "give": "gave", "find": "found", "get": "got", "sell": "sold", "lose": "lost"},
    **{"eat": "ate", "put": "put", "take": "took", "make": "made", "break": "broke", "go": "went", "come": "came"},
    **{"win": "won", "read": "read", "spend": "spent", "pay": "paid", "drive": "drove", "ride": "rode", "run": "ran"},
    **{"leave": "left", "bring": "brought", "send": "sent", "do": "did", "keep": "kept", "hold": "held", "set": "set"},
    **{"cost": "cost", "grow": "grew", "begin": "began", "throw": "threw"},
    **{
        "split": "split",
        "sit": "sat",
        "stand": "stood",
        "fly": "flew",
        "swim": "swam",
        "let": "let",
        "knit": "knitted",
        "dig": "dug",
        "sleep": "slept",
    },
    **{
        "bear": "bore",
        "lay": "laid",
        "begin": "began",
        "shrink": "shrank",
        "fit": "fitted",
        "drop": "dropped",
        "lend": "lent",
        "fall": "fell",
        "become": "became",
        "see": "saw",
        "leave": "left",
        "stop": "stopped",
        "plan": "planned",
        "stick": "stuck",
        "steal": "stole",
    },
    "lie": "lay",
    "choose": "chose",
    "deal": "dealt",
    "rise": "rose",
    "know": "knew",
    "drink": "drank",
    "sing": "sang",
    "wear": "wore",
    "cut": "cut",
    "chip": "chipped",
}
_VERB = re.compile(r"\[(\w+)\]|<(\w+)>|\^(\w+)\^")
_SENTENCE_START = re.compile(r"(?:^|(?<=[.?!] ))[a-z]")


@dataclass(frozen=True)
class Person:
    """Somebody in a story. plural: the verb takes its bare form (I, you)."""

    name: str
    pronoun: str
    him: str
    his: str
    possessive: str
    we: str
    plural: bool = False

    def slots(self) -> dict[str, str]:
        return {
            "P": self.name,
            "p": self.pronoun,
            "him": self.him,
            "his": self.his,
            "Ps": self.possessive,
            "we": self.we,
        }


SPEAKER = Person("I", "I", "me", "my", "my", "we", plural=True)
LISTENER = Person("you", "you", "you", "your", "your", "you", plural=True)


def she(name: str) -> Person:
    return Person(name, "she", "her", "her", f"{name}'s", "they")


def he(name: str) -> Person:
    return Person(name, "he", "him", "his", f"{name}'s", "they")


def told(person: Person) -> Person:
    """Whom the answer speaks of when the question was about `person`: I becomes you."""
    return LISTENER if person is SPEAKER else person


def render(
    phrasing: str, slots: Mapping[str, object], person: Person, tense: Tense = "present", opens: bool = True
) -> str:
    """Fill the slots, inflect the verbs, begin sentences with a capital if `opens`. KeyError for a
    missing slot."""
    text = phrasing.format_map({**person.slots(), **slots})

    def inflected(match: re.Match[str]) -> str:
        own, one, several = match.groups()
        if own:
            return _inflect(own, "I" if person is SPEAKER else "several" if person.plural else "one", tense)
        return _inflect(one or several, "one" if one else "several", tense)

    text = _VERB.sub(inflected, text)
    return sentence_case(text) if opens else text


def sentence_case(text: str) -> str:
    """The first letter of every sentence as a capital."""
    return _SENTENCE_START.sub(lambda match: match.group().upper(), text)


def with_article(noun: str) -> str:
    """'a lamp', 'an orange'. The nouns of this room have no silent h or sounded u in front."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """The regular plural: boxes, baskets, berries."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def times(n: int) -> str:
    """'twice', 'three times'."""
    return "twice" if n == 2 else f"{in_words(n)} times"


def listed(items: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _inflect(verb: str, agreement: Literal["I", "one", "several"], tense: Tense) -> str:
    if verb == "be":
        present = {"I": "am", "one": "is", "several": "are"}
        return present[agreement] if tense == "present" else ("were" if agreement == "several" else "was")
    if tense == "past":
        return _PAST.get(verb) or _regular_past(verb)
    if agreement != "one":
        return verb
    if verb == "have":
        return "has"
    if verb in ("do", "go"):
        return verb + "es"
    return plural(verb)  # a verb takes -s, -es and -ies exactly where a noun does


def _regular_past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + "ed"
