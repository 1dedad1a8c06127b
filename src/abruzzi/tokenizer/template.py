"""The files that let every other engine speak our chat format: tokenizer.json, tokenizer_config.json,
generation_config.json and chat_template.jinja, which renders what `chat.render` renders.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from abruzzi.tokenizer.bpe import ChatDefaults, Tokenizer

# DEFAULT_SYSTEM and PRESERVE are filled in per checkpoint. `labels` maps a call's id to its printed name.
_TEMPLATE = """\
{%- macro text_of(content) -%}
{%- if content is none or content is not defined -%}{%- elif content is string -%}{{ content }}
{%- else -%}{%- for part in content -%}{{ part.text }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- set keep = PRESERVE -%}
{%- if preserve_thinking is defined and preserve_thinking is not none -%}
{%- set keep = preserve_thinking -%}
{%- endif -%}
{%- set ns = namespace(last=-1, calls=0, labels={}) -%}
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
{{ {'user': '<|im_user|>', 'assistant': '<|im_assistant|>'}.get(role, '<|im_system|>') -}}
{{ m.name or role }}<|im_middle|>
{%- if role == 'assistant' -%}
{%- set thought = m.reasoning_content -%}
{%- if thought is not defined or thought is none -%}{%- set thought = m.reasoning or '' -%}{%- endif -%}
<think>{%- if keep or loop.index0 > ns.last -%}{{ thought }}{%- endif -%}</think>{{ text_of(m.content) }}
{%- if m.tool_calls -%}
<|tool_calls_section_begin|>
{%- for call in m.tool_calls -%}
{%- set label = 'functions.' ~ call.function.name ~ ':' ~ ns.calls -%}
{%- set ns.calls = ns.calls + 1 -%}
{%- set ns.labels = dict(ns.labels, **{call.id: label}) -%}
<|tool_call_begin|>{{ label }}<|tool_call_argument_begin|>
{%- set given = call.function.arguments -%}
{{ given if given is string else given | tojson }}
<|tool_call_end|>
{%- endfor -%}
<|tool_calls_section_end|>
{%- endif -%}
{%- elif role == 'tool' -%}
{{ '## Return of ' ~ ns.labels[m.tool_call_id] ~ '\\n' ~ text_of(m.content) }}
{%- else -%}
{{ text_of(m.content) }}
{%- endif -%}
<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_assistant|>assistant<|im_middle|>{%- if thinking is defined and not thinking -%}<think></think>{%- endif -%}
{%- endif -%}
"""


def chat_template(defaults: ChatDefaults) -> str:
    """The jinja template of a checkpoint with these defaults. Variables beside the usual ones:
    preserve_thinking and thinking."""
    system = json.dumps(defaults.system, ensure_ascii=False)
    return _TEMPLATE.replace("DEFAULT_SYSTEM", system).replace("PRESERVE", str(defaults.preserve_thinking).lower())


def chat_files(
    tok: Tokenizer, *, max_context: int, sampling: dict[str, Any] | None = None, eos: Sequence[str] = ("<|im_end|>",)
) -> dict[str, str]:
    """Name -> content of the four files, for `checkpoint.save_checkpoint(extra_files=...)`.

    sampling: further keys of generation_config.json (temperature, top_p). Raises ValueError for an end
    token that the tokenizer lacks."""
    missing = [t for t in eos if tok.id_of(t) is None]
    if missing:
        raise ValueError(
            f"end token {missing[0]!r} is not in this tokenizer; known: {', '.join(sorted(tok.control))[:200]}"
        )
    eos_ids = [tok.control[t] for t in eos]
    special = {
        k: t for k, t in (("bos_token", "[BOS]"), ("pad_token", "[PAD]"), ("unk_token", "[UNK]")) if t in tok.control
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_context,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos[0],
        **special,
        "abruzzi": asdict(tok.defaults),
    }
    generation: dict[str, Any] = {"eos_token_id": eos_ids[0] if len(eos_ids) == 1 else eos_ids}
    generation |= {f"{k}_id": tok.control[t] for k, t in special.items() if k != "unk_token"}
    generation |= {"do_sample": True, "temperature": 1.0, **(sampling or {})}
    return {
        "tokenizer.json": tok.to_json(),
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
        "chat_template.jinja": chat_template(tok.defaults),
    }
