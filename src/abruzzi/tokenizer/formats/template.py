"""The files that let every other engine speak our chat format: tokenizer.json, tokenizer_config.json,
generation_config.json and chat_template.jinja, which renders what `chat.render` renders.

What jinja cannot know are sampled ids and given call indices: other engines encode the text of a message,
and count its calls. Its text is also where other engines let a user forge control tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abruzzi.tokenizer.bpe import Tokenizer
from abruzzi.tokenizer.formats.control import END_SECTION, SECTION, require_chat_tokens, spelling

# DEFAULT_SYSTEM and PRESERVE are filled in per checkpoint. `open` holds [id, label] of unanswered calls.
_TEMPLATE = """\
{%- macro text_of(content) -%}
{%- if content is none or content is not defined -%}{%- elif content is string -%}{{ content }}
{%- else -%}{%- for part in content -%}{{ part.text }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- set keep = PRESERVE -%}
{%- if preserve_thinking is defined and preserve_thinking is not none -%}
{%- set keep = preserve_thinking -%}
{%- endif -%}
{%- set ns = namespace(last=-1, calls=0, open=[], at=-1) -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' and not m.tool_calls -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if tools -%}
<|im_system|>tool_declare<|im_middle|>{{ tools | tojson(separators=(',', ':'), sort_keys=true) }}<|im_end|>
{%- endif -%}
{%- set system = DEFAULT_SYSTEM -%}
{%- if system and (not messages or messages[0].role not in ('system', 'developer')) -%}
<|im_system|>system<|im_middle|>{{ system }}<|im_end|>
{%- endif -%}
{%- for m in messages -%}
{%- set role = 'system' if m.role == 'developer' else m.role -%}
{{ '<|im_user|>' if role == 'user' else '<|im_assistant|>' if role == 'assistant' else '<|im_system|>' }}
{{- m.name or role }}<|im_middle|>
{%- if role == 'assistant' -%}
{%- set thought = m.reasoning_content -%}
{%- if thought is not defined or thought is none -%}{%- set thought = m.reasoning or '' -%}{%- endif -%}
<think>{%- if keep or loop.index0 > ns.last -%}{{ thought }}{%- endif -%}</think>{{ text_of(m.content) }}
{%- if m.tool_calls -%}
<|tool_calls_section_begin|>
{%- for call in m.tool_calls -%}
{%- set label = 'functions.' ~ call.function.name ~ ':' ~ ns.calls -%}
{%- set ns.calls = ns.calls + 1 -%}
{%- set ns.open = ns.open + [[call.id or '', label]] -%}
<|tool_call_begin|>{{ label }}<|tool_call_argument_begin|>
{%- set arguments = call.function.arguments -%}
{%- if arguments is string -%}{{ arguments }}{%- elif arguments is defined -%}{{ arguments | tojson }}{%- endif -%}
<|tool_call_end|>
{%- endfor -%}
<|tool_calls_section_end|>
{%- endif -%}
{%- elif role == 'tool' -%}
{%- set ns.at = -1 -%}
{%- for call in ns.open -%}
{%- if (call[0] == m.tool_call_id if m.tool_call_id else ns.at < 0) -%}{%- set ns.at = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if ns.at < 0 -%}{{ raise_exception('a tool result answers no open call') }}{%- endif -%}
{{ '## Return of ' ~ ns.open[ns.at][1] ~ '\\n' ~ text_of(m.content) }}
{%- set ns.open = ns.open[:ns.at] + ns.open[ns.at + 1:] -%}
{%- else -%}
{{ text_of(m.content) }}
{%- endif -%}
<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_assistant|>assistant<|im_middle|>{%- if thinking is defined and not thinking -%}<think></think>{%- endif -%}
{%- endif -%}
"""


def chat_template(tok: Tokenizer) -> str:
    """The jinja template of a checkpoint with this tokenizer and its defaults.

    Variables beside the usual ones: preserve_thinking and thinking."""
    template = _TEMPLATE
    for name in (SECTION, END_SECTION):
        template = template.replace(name, spelling(tok, name))
    template = template.replace("PRESERVE", str(tok.defaults.preserve_thinking).lower())
    # Last, so that nothing in the system line is taken for one of the above. JSON's escapes are jinja's.
    return template.replace("DEFAULT_SYSTEM", json.dumps(tok.defaults.system, ensure_ascii=False))


def chat_files(
    tok: Tokenizer, *, max_context: int, sampling: Mapping[str, Any] | None = None, eos: Sequence[str] = ("<|im_end|>",)
) -> dict[str, str]:
    """Name -> content of the four files, for `checkpoint.save_checkpoint(extra_files=...)`.

    eos: end tokens by name, the first is tokenizer_config.json's. sampling: further keys of
    generation_config.json (temperature, top_p). The default system line and preserve_thinking are the
    tokenizer's `defaults` (Tokenizer.with_defaults). Raises ValueError for end tokens that the tokenizer
    lacks, or none, and for a tokenizer without the chat's control tokens."""
    require_chat_tokens(tok)
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
    eos: Sequence[str] = ("<|im_end|>",),
) -> None:
    """`chat_files`, written to a directory (made when absent; files of these names are replaced)."""
    files = chat_files(tok, max_context=max_context, sampling=sampling, eos=eos)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        # newline="": chat_template.jinja and the JSON are the same bytes on every system.
        (folder / name).write_text(text, encoding="utf-8", newline="")
