"""The files that let every other engine speak our chat format: tokenizer.json,
tokenizer_config.json, generation_config.json and chat_template.jinja, which renders what
`render.render` renders.

What jinja cannot know are sampled ids and given call indices: other engines encode the text of a
message, and count its calls. Its text is also where other engines let a user forge control tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from abruzzi.tokenizer.bpe import Tokenizer


def chat_template(tok: Tokenizer) -> str:
    """The jinja template of a checkpoint with this tokenizer and its defaults.

    Variables beside the usual ones: preserve_thinking and thinking."""
    form, defaults = tok.format, tok.defaults
    filled = {marker.value: form.spelling(marker, tok.control) for marker in form.markers}
    filled |= {f"{role}_open": header.open for role, header in form.headers.items()}
    filled |= {"header_close": form.headers["system"].close, "end_of_turn": form.ends[0]}
    filled |= {"preserve_thinking": str(defaults.preserve_thinking).lower()}
    # JSON's escapes are jinja's.
    filled |= {"default_system": json.dumps(defaults.system, ensure_ascii=False)}
    return Template(form.template).substitute(filled)


def chat_files(
    tok: Tokenizer, *, max_context: int, sampling: Mapping[str, Any] | None = None, eos: Sequence[str] | None = None
) -> dict[str, str]:
    """Name -> content of the four files, for `checkpoint.save_checkpoint(extra_files=...)`.

    eos: end tokens by name, the first is tokenizer_config.json's; None = the format's end of turn.
    sampling: further keys of generation_config.json (temperature, top_p). The default system line
    and preserve_thinking are the tokenizer's `defaults` (Tokenizer.with_defaults). Raises
    ValueError for end tokens that the tokenizer lacks, or none, and for a tokenizer without the
    chat's control tokens."""
    tok.format.require(tok.control)
    eos = tok.format.ends[:1] if eos is None else eos
    missing = [t for t in eos if tok.id_of(t) is None]
    if missing or not eos or isinstance(eos, str):
        raise ValueError(
            f"end tokens {eos!r} are not control tokens of this tokenizer; "
            f"expected some of: {', '.join(sorted(tok.control))[:200]}"
        )
    settings = {**tok.settings(), "model_max_length": max_context, "eos_token": eos[0]}
    eos_ids = [tok.control[t] for t in eos]
    generation: dict[str, Any] = {"eos_token_id": eos_ids[0] if len(eos_ids) == 1 else eos_ids}
    generation |= {f"{key}_id": tok.control[settings[key]] for key in ("bos_token", "pad_token") if key in settings}
    generation |= {"do_sample": True, "temperature": 1.0, **(sampling or {})}
    return {
        "tokenizer.json": tok.to_json(),
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
        "chat_template.jinja": chat_template(tok),
    }


def write_chat_files(
    tok: Tokenizer,
    path: str | Path,
    *,
    max_context: int,
    sampling: Mapping[str, Any] | None = None,
    eos: Sequence[str] | None = None,
) -> None:
    """`chat_files`, written to a directory (made when absent; files of these names are
    replaced)."""
    files = chat_files(tok, max_context=max_context, sampling=sampling, eos=eos)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        # newline="": chat_template.jinja and the JSON are the same bytes on every system.
        (folder / name).write_text(text, encoding="utf-8", newline="")
