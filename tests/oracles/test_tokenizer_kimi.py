"""Our tokenizer against tiktoken, tokenizers and transformers: Kimi's file, converted, and written
to a directory."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from abruzzi import tokenizer
from abruzzi.tokenizer import ChatDefaults, Tokenizer, load, render, write_chat_files

SYSTEM = "You are \"nano\" {{ x }} {% raw %} PRESERVE DEFAULT_SYSTEM\n\\n 你好 \u2028 🙂 'q'"

WORDS = """
the quick brown fox can't we'LL THEY'RE I'd naïve ÀÉÎ ǅungla ʼn ß ſ 'ſ K ﬁ
你好 世界 日本語 ひらがな カタカナ 한국어 中文abc русский Ελληνικά עברית العربية हिन्दी ไทย
0 1 12 123 1234567 ١٢٣ ² ½ Ⅷ 〇 一二三 ㊀ ⼀ 々
... --- != ->> ()[]{} <| |> <think> </think> <|im_end|> [EOS] ‘’“”… € ™ 🙂 👩‍💻 🇮🇹
"""
SPACES = (
    *(" ", "  ", "\t", "\n", "\r\n", "\n\n", "   \n ", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c", "\u200b"),
    *("\u180e", "e\u0301", "\u0301"),
)


@pytest.fixture(scope="module")
def kimi(k2_data: Path) -> Tokenizer:
    return load(k2_data / "kimi_tokenizer")


@pytest.fixture(scope="module")
def written(kimi: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kimi's tokenizer as a checkpoint directory that we wrote."""
    folder = tmp_path_factory.mktemp("kimi")
    write_chat_files(kimi, folder, max_context=262_144, eos=("<|im_end|>", "[EOS]"))
    return folder


@pytest.fixture(scope="module")
def converted(written: Path) -> Tokenizer:
    return load(written)


@pytest.fixture(scope="module")
def theirs(written: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(written)


def mixed_texts(count: int, seed: int) -> list[str]:
    """Texts over many scripts: words, digits, contractions, white space, marks, any assigned
    character."""
    rng = random.Random(seed)
    pieces = [*WORDS.split(), *SPACES]
    blocks = ((0x20, 0x250), (0x250, 0xD800), (0xE000, 0x32000))

    def piece() -> str:
        return rng.choice(pieces) if rng.random() < 0.9 else chr(rng.randrange(*rng.choice(blocks)))

    return ["".join(piece() for _ in range(rng.randint(1, 12))) for _ in range(count)]


def test_both_backends_give_the_same_ids(kimi: Tokenizer, converted: Tokenizer, k2_data: Path) -> None:
    vectors = json.loads((k2_data / "tokenizer_vectors.json").read_text(encoding="utf-8"))
    for text in [v["text"] for v in vectors] + mixed_texts(4000, seed=1):
        ids = kimi.encode(text)
        assert converted.encode(text) == ids, text
        assert kimi.decode(ids) == text and converted.decode(ids) == text
        assert kimi.encode(text, allow_special=True) == converted.encode(text, allow_special=True)


def test_no_character_splits_differently(kimi: Tokenizer, converted: Tokenizer) -> None:
    """Two regex engines with their own tables of Unicode: every 37th character, between others."""
    for code in range(0, 0x32000, 37):
        if not 0xD800 <= code < 0xE000:
            text = f"a{chr(code)}b {chr(code)}'s{chr(code)}1"
            assert converted.encode(text) == kimi.encode(text), hex(code)


def test_the_converted_tokenizer_is_the_same_in_every_respect(kimi: Tokenizer, converted: Tokenizer) -> None:
    assert (converted.vocab_size, converted.control) == (kimi.vocab_size, kimi.control)
    assert (converted.visible, converted.defaults) == (kimi.visible, kimi.defaults)
    assert all(converted.token_bytes(i) == kimi.token_bytes(i) for i in range(kimi.vocab_size))


def test_every_learned_token_that_is_a_text_of_its_own_encodes_alike(kimi: Tokenizer, converted: Tokenizer) -> None:
    rng = random.Random(2)
    for i in rng.sample(range(163_584), 5000):
        text = kimi.decode([i])
        assert converted.encode(text) == kimi.encode(text), text


def test_transformers_reads_what_we_write(kimi: Tokenizer, theirs: Any, written: Path) -> None:
    assert len(theirs) == kimi.vocab_size
    assert (theirs.eos_token_id, theirs.pad_token_id) == (kimi.id_of("<|im_end|>"), kimi.id_of("[PAD]"))
    generation = json.loads((written / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [kimi.id_of("<|im_end|>"), kimi.id_of("[EOS]")]
    for text in mixed_texts(1500, seed=3):
        # transformers reads control strings in text, as our encode does when it is allowed to.
        assert theirs.encode(text, add_special_tokens=False) == kimi.encode(text, allow_special=True), text
    for text in ("<think>R</think>A<|tool_call_begin|>f<|im_end|>",):
        ids = kimi.encode(text, allow_special=True)
        assert theirs.decode(ids) == kimi.decode(ids) == text
        assert theirs.decode(ids, skip_special_tokens=True) == text.removesuffix("<|im_end|>")


# jinja's rendering against ours


def conversations(count: int, seed: int) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]] | None]]:
    """Random OpenAI-shaped conversations with the shapes that clients send; no control strings in
    them."""
    rng = random.Random(seed)
    words = [
        "Hi",
        "naïve café",
        "你好，世界",
        " lead",
        "trail \n",
        "a\n\nb",
        "{{ x }}",
        "{% if %}",
        "5 < 6 & 7",
        '"q"',
        "",
        "🙂",
    ]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randint(0, 3)))

    def content() -> Any:
        return rng.choice([text, text, lambda: [{"type": "text", "text": text()} for _ in range(rng.randint(0, 2))]])()

    def calls() -> list[dict[str, Any]]:
        out = []
        for _ in range(rng.randint(1, 3)):
            arguments = rng.choice(['{"a": 1}', {"é": [1, None, 2.5], "b": "<x> & 'y'"}, "", "{broken", {}])
            function = {"name": rng.choice(["f", "get.weather-x"]), "arguments": arguments}
            out.append({"id": f"call_{rng.random()}", "type": "function", "function": function})
        return out

    def conversation() -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        if rng.random() < 0.5:
            out.append({"role": rng.choice(["system", "developer"]), "content": content()})
        for _ in range(rng.randint(1, 3)):
            out.append({"role": "user", "content": content(), **rng.choice([{}, {"name": "alice"}, {"name": None}])})
            for _ in range(rng.randint(0, 2)):
                made = calls()
                thought = rng.choice(
                    [{"reasoning_content": text()}, {"reasoning": text()}, {"reasoning_content": None}]
                )
                out.append({"role": "assistant", **thought, **rng.choice([{}, {"content": None}]), "tool_calls": made})
                if rng.random() < 0.3:  # a client that sends no ids: results in order
                    out += [{"role": "tool", "content": content()} for _ in made]
                else:
                    shuffled = rng.sample(made, len(made))
                    out += [{"role": "tool", "tool_call_id": c["id"], "content": content()} for c in shuffled]
            if rng.random() < 0.8:
                out.append(
                    {"role": "assistant", "content": content(), **rng.choice([{}, {"reasoning_content": text()}])}
                )
        return out

    schema = {"type": "object", "properties": {"z": {"type": "string", "enum": ["é", "<"]}, "a": {"default": None}}}
    tools = [{"type": "function", "function": {"name": "f", "description": "naïve 'd' <b>", "parameters": schema}}]
    return [(conversation(), rng.choice([None, tools])) for _ in range(count)]


def check_jinja(tok: Tokenizer, theirs: Any, count: int, seed: int) -> None:
    rng = random.Random(seed)
    for messages, tools in conversations(count, seed):
        prompt = rng.choice([True, False])
        options = rng.choice(
            [{}, {"preserve_thinking": True}, {"preserve_thinking": False}, {"preserve_thinking": None}]
        )
        options = {**options, **rng.choice([{}, {"thinking": False}, {"thinking": True}])}
        ours = render(tok, messages, tools, prompt, **options)
        shown = theirs.apply_chat_template(
            messages, tools=tools, add_generation_prompt=prompt, tokenize=False, **options
        )
        assert shown == tok.decode(ours.ids), messages
        ids = theirs.apply_chat_template(
            messages, tools=tools, add_generation_prompt=prompt, tokenize=True, return_dict=False, **options
        )
        assert list(ids) == ours.ids, messages


def test_the_template_that_we_write_renders_what_we_render(kimi: Tokenizer, theirs: Any) -> None:
    check_jinja(kimi, theirs, 150, seed=4)


def test_the_template_renders_kimis_vectors(theirs: Any, k2_data: Path) -> None:
    for vector in json.loads((k2_data / "chat_template_vectors.json").read_text(encoding="utf-8")):
        shown = theirs.apply_chat_template(
            vector["messages"], tools=vector["tools"], add_generation_prompt=True, tokenize=False
        )
        assert shown == vector["rendered"], vector["name"]


@pytest.mark.parametrize("preserve", [False, True])
@pytest.mark.parametrize("system", ["", SYSTEM])
@pytest.mark.parametrize(("kind", "size"), [("train_bpe", 300), ("train_words", 280)])
def test_the_template_of_a_tokenizer_of_our_own(
    tmp_path: Path, preserve: bool, system: str, kind: str, size: int
) -> None:
    from transformers import AutoTokenizer

    from abruzzi.tokenizer import train

    lines = ["the quick brown fox 你好 naïve functions.get_weather:0 ## Return of {}"] * 3
    text = getattr(train, kind)(lines, size)
    tok = tokenizer.from_json(text, ChatDefaults(system, preserve, cut_long_runs=False))
    write_chat_files(tok, tmp_path, max_context=4096)
    assert load(tmp_path).defaults == tok.defaults
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.model_max_length == 4096
    check_jinja(tok, theirs, 60, seed=5 + preserve)


def test_the_template_refuses_a_result_that_answers_nothing(theirs: Any) -> None:
    with pytest.raises(Exception, match="answers no open call"):
        theirs.apply_chat_template([{"role": "tool", "content": "x", "tool_call_id": "y"}], tokenize=False)


def test_end_tokens_must_be_known(kimi: Tokenizer, tmp_path: Path) -> None:
    for wrong in ((), ("<|gone|>",), "[EOS]"):
        with pytest.raises(ValueError, match="are not control tokens"):
            write_chat_files(kimi, tmp_path, max_context=8, eos=wrong)
    assert not list(tmp_path.iterdir())


# the oracles themselves: each goes red on a planted mistake


def test_the_comparison_notices_a_wrong_pattern(kimi: Tokenizer, written: Path) -> None:
    whole = json.loads((written / "tokenizer.json").read_text(encoding="utf-8"))
    texts = mixed_texts(1000, seed=1)
    expected = [kimi.encode(t) for t in texts]
    split = whole["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    split["Regex"] = split["Regex"].replace("{1,3}", "{1,2}")
    wrong = tokenizer.from_json(json.dumps(whole))
    assert any(wrong.encode(t) != ids for t, ids in zip(texts, expected))
