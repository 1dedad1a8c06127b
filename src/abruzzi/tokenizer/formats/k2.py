"""Kimi K2's chat format (k2.md 5), which K2-Thinking and our own checkpoints speak.

A turn is a role's token, a name, _MIDDLE, text, _END. In the assistant's turn the text is a thought
between the think markers, the answer, and a section of calls: each _CALL, its label
("functions.add:0"), _ARGUMENTS, JSON, _END_CALL. tests/unit/tokenizer/test_chat_render.py shows a
whole conversation as text.

Every control token is written here and nowhere else in the package. Two things vary between
checkpoints: a vocabulary may spell the section tokens in the singular, and it may have no tokens
for the think markers, which are then text.
"""

from __future__ import annotations

import re

from abruzzi.tokenizer.formats.format import ChatFormat, Header, Marker

_THINK, _END_THINK = "<think>", "</think>"
_SECTION, _END_SECTION = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _END_CALL = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_USER, _ASSISTANT, _SYSTEM = "<|im_user|>", "<|im_assistant|>", "<|im_system|>"
_MIDDLE, _END = "<|im_middle|>", "<|im_end|>"
_BOS, _EOS, _UNK, _PAD = "[BOS]", "[EOS]", "[UNK]", "[PAD]"

# The control tokens of a vocabulary of our own, in the order of their ids.
VOCABULARY = (
    *(_BOS, _EOS, _END, _USER, _ASSISTANT, _SYSTEM, _MIDDLE),
    *(_SECTION, _END_SECTION, _CALL, _ARGUMENTS, _END_CALL, _THINK, _END_THINK, _UNK, _PAD),
)
# As Kimi's, these survive skip_special_tokens: a reader must see where thinking and calls begin.
VISIBLE = frozenset((_SECTION, _END_SECTION, _CALL, _ARGUMENTS, _END_CALL, _THINK, _END_THINK))

# `open` holds [id, label] of unanswered calls; the rest of `${...}` are the markers of a
# ChatFormat.
_TEMPLATE = """\
{%- macro text_of(content) -%}
{%- if content is none or content is not defined -%}{%- elif content is string -%}{{ content }}
{%- else -%}{%- for part in content -%}{{ part.text }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- set keep = ${preserve_thinking} -%}
{%- if preserve_thinking is defined and preserve_thinking is not none -%}
{%- set keep = preserve_thinking -%}
{%- endif -%}
{%- set ns = namespace(last=-1, calls=0, open=[], at=-1) -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' and not m.tool_calls -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if tools -%}
${system_open}tool_declare${header_close}{{ tools | tojson(separators=(',', ':'), sort_keys=true) }}${end_of_turn}
{%- endif -%}
{%- set system = ${default_system} -%}
{%- if system and (not messages or messages[0].role not in ('system', 'developer')) -%}
${system_open}system${header_close}{{ system }}${end_of_turn}
{%- endif -%}
{%- for m in messages -%}
{%- set role = 'system' if m.role == 'developer' else m.role -%}
{{ '${user_open}' if role == 'user' else '${assistant_open}' if role == 'assistant' else '${system_open}' }}
{{- m.name or role }}${header_close}
{%- if role == 'assistant' -%}
{%- set thought = m.reasoning_content -%}
{%- if thought is not defined or thought is none -%}{%- set thought = m.reasoning or '' -%}{%- endif -%}
${think_open}{%- if keep or loop.index0 > ns.last -%}{{ thought }}{%- endif -%}${think_close}{{ text_of(m.content) }}
{%- if m.tool_calls -%}
${section_open}
{%- for call in m.tool_calls -%}
{%- set label = 'functions.' ~ call.function.name ~ ':' ~ ns.calls -%}
{%- set ns.calls = ns.calls + 1 -%}
{%- set ns.open = ns.open + [[call.id or '', label]] -%}
${call_open}{{ label }}${call_arguments}
{%- set arguments = call.function.arguments -%}
{%- if arguments is string -%}{{ arguments }}{%- elif arguments is defined -%}{{ arguments | tojson }}{%- endif -%}
${call_close}
{%- endfor -%}
${section_close}
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
${end_of_turn}
{%- endfor -%}
{%- if add_generation_prompt -%}
${assistant_open}assistant${header_close}\
{%- if thinking is defined and not thinking -%}${think_open}${think_close}{%- endif -%}
{%- endif -%}
"""

K2 = ChatFormat(
    name="kimi-k2",
    title="Kimi's chat format",
    headers={
        "user": Header(_USER, _MIDDLE),
        "assistant": Header(_ASSISTANT, _MIDDLE),
        "system": Header(_SYSTEM, _MIDDLE),
    },
    ends=(_END, _EOS, "[EOT]"),
    markers={
        Marker.THINK_OPEN: (_THINK,),
        Marker.THINK_CLOSE: (_END_THINK,),
        Marker.SECTION_OPEN: (_SECTION, "<|tool_call_section_begin|>"),
        Marker.SECTION_CLOSE: (_END_SECTION, "<|tool_call_section_end|>"),
        Marker.CALL_OPEN: (_CALL,),
        Marker.CALL_ARGUMENTS: (_ARGUMENTS,),
        Marker.CALL_CLOSE: (_END_CALL,),
    },
    call_label="functions.{name}:{index}",
    # Models leave out "functions." or the index; a name may hold dots, hyphens and colons.
    label_pattern=re.compile(r"(?:functions\.)?(.*?)(?::([0-9]+))?", re.DOTALL),
    tools_name="tool_declare",
    tools_json={"sort_keys": True, "separators": (",", ":")},
    result="## Return of {label}\n{content}",
    clears_thinking="assistant",
    system="You are Kimi, an AI assistant created by Moonshot AI.",
    special={"bos_token": _BOS, "pad_token": _PAD, "unk_token": _UNK},
    template=_TEMPLATE,
)
