"""ChatML without thoughts and tools, which SmolLM2 and many small models speak.

A turn is _OPEN, the role and a line end as text, the text, _CLOSE, a line end.
"""

from __future__ import annotations

import re

from abruzzi.tokenizer.formats.format import ChatFormat, Header

_OPEN, _CLOSE, _END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

# Header and text are one text to the tokenizer, as the jinja template has them. `${...}` are the markers
# of a ChatFormat.
_TEMPLATE = """\
{%- set system = ${default_system} -%}
{%- if system and (not messages or messages[0].role not in ('system', 'developer')) -%}
{{ '${system_open}system\\n' ~ system ~ '${end_of_turn}\\n' }}
{%- endif -%}
{%- for m in messages -%}
{{ '${system_open}' ~ ('system' if m.role == 'developer' else m.role) ~ '\\n' ~ m.content ~ '${end_of_turn}\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '${assistant_open}assistant\\n' }}{%- endif -%}
"""

CHATML = ChatFormat(
    name="chatml",
    title="ChatML",
    headers={role: Header(_OPEN, "\n", plain=True) for role in ("user", "assistant", "system")},
    ends=(_CLOSE, _END_OF_TEXT),
    markers={},
    call_label="",
    label_pattern=re.compile(r"(.*)()", re.DOTALL),
    tools_name="",
    result="{content}",
    clears_thinking="assistant",
    system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    special={"bos_token": _OPEN, "pad_token": _CLOSE, "unk_token": _END_OF_TEXT},
    template=_TEMPLATE,
    between="\n",
    # Qwen3's and others', whose thoughts and calls would be read as text here.
    not_beside=("<think>", "<tool_call>"),
)
