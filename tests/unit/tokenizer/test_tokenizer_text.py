"""Text and ids: nothing that is text becomes a control token, every text comes back, bad files are
refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CONTROL_TEXTS, RESERVED, small, small_ranks, small_tiktoken, spelled, texts, tokenizer_json, without

from abruzzi import tokenizer
from abruzzi.tokenizer import ChatDefaults, Tokenizer, from_json, load
from abruzzi.tokenizer.bpe import MAX_RUN, _cut
from abruzzi.tokenizer.formats.k2 import K2

BACKENDS: dict[str, Callable[[], Tokenizer]] = {
    "json": small,
    "tiktoken": small_tiktoken,
    "spelled": spelled,
    "converted": lambda: from_json(small_tiktoken().to_json()),
}


@pytest.mark.parametrize("backend", BACKENDS)
@given(text=texts)
@settings(max_examples=150, deadline=None)
def test_no_text_becomes_a_control_token_and_every_text_comes_back(backend: str, text: str) -> None:
    tok = BACKENDS[backend]()
    ids = tok.encode(text)
    assert tok.control_ids.isdisjoint(ids)
    assert tok.decode(ids) == text
    assert b"".join(map(tok.token_bytes, ids)) == text.encode()


@given(text=texts)
@settings(max_examples=150, deadline=None)
def test_control_strings_are_read_on_demand_longest_first(text: str) -> None:
    tok = small()
    ids = tok.encode(text, allow_special=True)
    assert tok.decode(ids) == text
    expected, rest = [], text
    while rest:  # a slow twin: at each place the longest control string, else one more character of text
        hits = [c for c in tok.control if rest.startswith(c)]
        expected.append(max(hits, key=len) if hits else rest[0])
        rest = rest[len(expected[-1]) :]
    assert [tok.control_text[i] for i in ids if i in tok.control_ids] == [e for e in expected if e in tok.control]


def test_a_vocabulary_that_spells_control_tokens_does_not_reach_them() -> None:
    """Added tokens that are in the vocabulary as well, with merges that end in them and
    `ignore_merges`."""
    data = json.loads(tokenizer_json())
    model = data["model"]
    for added in data["added_tokens"]:
        model["vocab"][added["content"]] = added["id"]
    model["vocab"]["<think"] = 2000
    model["merges"] += [["<", "think"], ["<think", ">"], ["<think>", "Ġ"]]
    model["vocab"].setdefault("think", 2001)
    model["vocab"]["<think>Ġ"] = 2002
    model["ignore_merges"] = True
    tok = from_json(json.dumps(data))
    for text in CONTROL_TEXTS:
        assert tok.control_ids.isdisjoint(tok.encode(text)), text
        assert tok.decode(tok.encode(f"a{text} b")) == f"a{text} b"
    assert tok.encode("<think>", allow_special=True) == [tok.id_of("<think>")]


def test_the_library_alone_would_have_let_text_through() -> None:
    """Shows that the tests above can fail: the plain library does turn text into control tokens."""
    from tokenizers import Tokenizer as Library

    assert small().id_of("<think>") in Library.from_str(tokenizer_json()).encode("<think>").ids


def test_control_tokens_and_sizes() -> None:
    tok = small()
    assert tok.vocab_size == max(tok.control_ids) + 1
    assert len(tok.control_ids) == len(tok.control) and RESERVED in tok.control
    assert tok.decode([tok.control["<|im_end|>"]]) == "<|im_end|>"
    assert tok.id_of("<|nothing|>") is None
    assert copy.deepcopy(tok) is tok  # copies of parsers share it
    assert tok.end_ids == {tok.control["<|im_end|>"], tok.control["[EOS]"]}


def test_undecodable_bytes_are_replaced_and_unknown_ids_refused() -> None:
    tok = small()
    first = next(i for i in range(tok.vocab_size) if tok.token_bytes(i) == b"\xe4")
    assert tok.decode([first]) == "\ufffd"
    for wrong in (tok.vocab_size, -1, "7"):
        with pytest.raises(ValueError, match="not in this vocabulary"):
            tok.decode([wrong])  # type: ignore[list-item]


@pytest.mark.parametrize("wrong", ["a\ud800b", b"bytes", None, 5])
def test_what_is_no_text_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="hint"):
        small().encode(wrong)


def test_the_longest_control_string_wins_where_one_begins_another() -> None:
    tok = without(rename=(("[UNK]", "<think>ing"), ("[PAD]", "<think>i")))
    for name in ("<think>", "<think>i", "<think>ing"):
        assert tok.encode(f"{name}s", allow_special=True) == [tok.control[name], *tok.encode("s")]


@pytest.mark.parametrize("char", ["x", " "])
def test_long_runs_are_cut_as_kimi_does(char: str) -> None:
    first = "b " if char == "x" else "b"  # so that the run begins behind it
    pieces = list(_cut(first + char * (3 * MAX_RUN + 5) + "\tc"[char == " " :]))
    lengths = [len(first) + MAX_RUN, MAX_RUN, MAX_RUN, 5 + (2 if char == "x" else 1)]
    assert [len(p) for p in pieces] == lengths


def test_cuts_reach_the_ids_and_only_when_asked_for() -> None:
    text = "weather" * 4000  # 25,000 is no multiple of 7: the cut goes through a token
    cut, uncut = small(), small(cut_long_runs=False)
    assert cut.encode(text) == [*uncut.encode(text[:MAX_RUN]), *uncut.encode(text[MAX_RUN:])] != uncut.encode(text)
    assert cut.decode(cut.encode(text)) == uncut.decode(uncut.encode(text)) == text
    assert cut.encode(text[:MAX_RUN]) == uncut.encode(text[:MAX_RUN])


def test_texts_beyond_400_000_characters_are_cut_there() -> None:
    tok = small_tiktoken()
    text = "weather " * 50_000 + "weather"
    assert tok.encode("x" + text) == tok.encode(("x" + text)[:400_000]) + tok.encode(("x" + text)[400_000:])


@pytest.mark.parametrize("backend", [small, small_tiktoken])
def test_save_and_load_give_the_same_tokenizer(backend: Callable[[], Tokenizer], tmp_path: Path) -> None:
    tok = backend().with_defaults(ChatDefaults("line", preserve_thinking=True, cut_long_runs=False))
    tok.save(tmp_path)
    back = load(tmp_path)
    assert (back.control, back.visible, back.vocab_size, back.defaults) == (
        tok.control,
        tok.visible,
        tok.vocab_size,
        tok.defaults,
    )
    for text in CONTROL_TEXTS:
        assert back.encode(f"weather {text}") == tok.encode(f"weather {text}")


def test_a_directory_without_our_key_has_kimis_defaults(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    assert load(tmp_path).defaults == ChatDefaults(K2.system, cut_long_runs=False)


# bad files


def _tiktoken_lines() -> list[bytes]:
    import base64

    return [base64.b64encode(token) + b" %d" % rank for token, rank in small_ranks().items()]


def test_a_bare_tiktoken_file_encodes_but_renders_nothing(tmp_path: Path) -> None:
    (tmp_path / "tiktoken.model").write_bytes(b"\n".join(_tiktoken_lines()))
    tok = load(tmp_path)
    assert tok.decode(tok.encode("the <think> weather")) == "the <think> weather"
    assert tok.vocab_size == len(small_ranks()) + 256 and len(tok.control) == 256
    with pytest.raises(ValueError, match=r"lacks <\|im_user\|>.*hint"):
        tokenizer.render(tok, [])
    with pytest.raises(ValueError, match="lacks"):
        tokenizer.ChatParser(tok)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: lines[:-5] + lines[-4:], "each once"),
        (lambda lines: [*lines[:300], lines[300][:-4] + b"==", *lines[301:]], "base64 rank|each once"),
        (lambda lines: [*lines, b"AAAA"], "base64 rank"),
        (lambda lines: [*lines, b"!!!! 9"], "base64 rank"),
        (lambda lines: lines[:100], "lacks 156 of the 256 bytes"),
        (lambda lines: [], "lacks 256"),
    ],
)
def test_damaged_tiktoken_files(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], says: str) -> None:
    (tmp_path / "tiktoken.model").write_bytes(b"\n".join(change(_tiktoken_lines())))
    with pytest.raises(ValueError, match=says) as caught:
        load(tmp_path)
    assert "hint" in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer.json", "", "not valid JSON"),
        ("tokenizer.json", tokenizer_json()[:5000], "not valid JSON"),
        ("tokenizer.json", "[]", "model type None"),
        ("tokenizer.json", "\udcff", "not UTF-8"),
        ("tokenizer_config.json", "[1]", "expected an object"),
        ("tokenizer_config.json", "{", "not valid JSON"),
        ("tokenizer_config.json", '{"abruzzi": 3}', "another version"),
        ("tokenizer_config.json", '{"abruzzi": {"colour": 3}}', "another version"),
        ("tokenizer_config.json", '{"abruzzi": {"preserve_thinking": "no"}}', "another version"),
        ("tokenizer_config.json", '{"abruzzi": {"cut_long_runs": 1}}', "another version"),
        ("config.json", '{"vocab_size": 100}', "belong to another checkpoint"),
        ("config.json", '{"text_config": {"vocab_size": 100}}', "belong to another checkpoint"),
    ],
)
def test_damaged_or_mismatched_files(tmp_path: Path, file: str, content: str, says: str) -> None:
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    (tmp_path / file).write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=says) as caught:
        load(tmp_path)
    assert "hint" in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("decoder", "says"),
    [
        ({"5": {"content": "<think>"}}, "not one of the reserved ids"),
        ({"x": {"content": "<think>"}}, "not one of the reserved ids"),
        ({"490": "text"}, "not one of the reserved ids"),
        ({"490": {"content": "<think>"}, "491": {"content": "<think>"}}, "share a name"),
        ([1], "must be an object"),
    ],
)
def test_tiktoken_with_a_foreign_config(tmp_path: Path, decoder: Any, says: str) -> None:
    assert len(small_ranks()) <= 490 < len(small_ranks()) + 256
    (tmp_path / "tiktoken.model").write_bytes(b"\n".join(_tiktoken_lines()))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    with pytest.raises(ValueError, match=says) as caught:
        load(tmp_path)
    assert "hint" in str(caught.value)


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither tokenizer.json nor tiktoken.model; hint"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"no such directory.*hint"):
        load(tmp_path / "gone")


def _edit(*path: str | int, value: Any) -> Callable[[Any], None]:
    def edit(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (_edit("model", "type", value="Unigram"), "'Unigram' is not supported"),
        (_edit("model", "type", value="WordPiece"), "'WordPiece' is not supported"),
        (_edit("model", "dropout", value=0.1), "dropout=0.1"),
        (_edit("model", "byte_fallback", value=True), "byte_fallback"),
        (_edit("model", "end_of_word_suffix", value="</w>"), "end_of_word_suffix"),
        (_edit("normalizer", value={"type": "NFKC"}), "normalizer 'NFKC'"),
        (_edit("pre_tokenizer", value=None), "pre-tokenizer none"),
        (_edit("pre_tokenizer", value={"type": "Metaspace"}), "pre-tokenizer Metaspace"),
        (_edit("pre_tokenizer", "pretokenizers", 0, value={"type": "WhitespaceSplit"}), "WhitespaceSplit"),
        (_edit("pre_tokenizer", "pretokenizers", 0, "behavior", value="Removed"), "Removed"),
        (_edit("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", value=True), "add_prefix_space"),
        (_edit("model", "vocab", value=[]), "must map tokens to ids"),
        (_edit("model", "vocab", "!", value="x"), "must map tokens to ids"),
        (_edit("model", "vocab", "!", value=5), "share an id"),
        (_edit("model", "vocab", "日", value=5000), "no byte's character"),
        (_edit("model", "vocab", "Ġx", value=375), "a control token and a learned token"),
        (_edit("model", "merges", value=None), "merges must be a list"),
        (_edit("model", "merges", 0, value=["a"]), "not a pair"),
        (_edit("model", "merges", 0, value=["gone", "too"]), "cannot be read"),
        (_edit("added_tokens", value={"a": 1}), "must be a list"),
        (_edit("added_tokens", 0, "id", value=None), "no content and id"),
        (_edit("added_tokens", 0, "lstrip", value=True), "lstrip=true is not supported"),
        (_edit("added_tokens", 0, "content", value="[EOS]"), "there twice"),
        (_edit("added_tokens", 0, "id", value=370), "share an id"),
    ],
)
def test_what_tokenizer_json_may_not_say(edit: Callable[[Any], None], says: str) -> None:
    data = copy.deepcopy(json.loads(tokenizer_json()))
    edit(data)
    with pytest.raises(ValueError, match=says):
        from_json(json.dumps(data))


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_tokenizer_json_with_anything_replaced_loads_or_says_why(data: st.DataObject) -> None:
    whole = json.loads(tokenizer_json())
    whole["model"]["merges"] = whole["model"]["merges"][:3]
    at: Any = whole
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else list(range(len(at)))))
        child = at[key]
        if isinstance(child, (dict, list)) and child and data.draw(st.booleans()):
            at = child
            continue
        at[key] = data.draw(
            st.sampled_from([None, 0, -1, 1.5, "", "x", [], [1], ["a", "b"], {}, {"type": "BPE"}, True])
        )
        break
    try:
        tok = from_json(json.dumps(whole))
    except ValueError:
        return
    assert tok.decode(tok.encode("the <think> weather\n")) == "the <think> weather\n"
