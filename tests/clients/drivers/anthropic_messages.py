"""The anthropic client, messages. keep: the blocks go back as they came; drop: without the thinking
blocks."""

import json
import sys
from pathlib import Path
from typing import Any

import anthropic

URL, STREAM, VARIANT, spec = (
    sys.argv[1],
    sys.argv[2] == "stream",
    sys.argv[3],
    json.loads(Path(sys.argv[4]).read_text()),
)
client = anthropic.Anthropic(base_url=URL, api_key="anthropic-messages", max_retries=0)
tools = [
    {"name": f["name"], "description": f["description"], "input_schema": f["parameters"]}
    for f in (t["function"] for t in spec["tools"])
]


def ask(history: list[Any]) -> Any:
    wanted: Any = {"model": spec["model"], "max_tokens": 4000, "system": spec["system"], "tools": tools}
    if not STREAM:
        return client.messages.create(**wanted, messages=history)
    with client.messages.stream(**wanted, messages=history) as stream:
        return stream.get_final_message()


history: list[Any] = [{"role": "user", "content": spec["question"]}]
answers, calls = [], 0
while len(answers) < 2:
    message = ask(history)
    blocks = [b for b in message.content if VARIANT == "keep" or b.type not in ("thinking", "redacted_thinking")]
    history.append({"role": "assistant", "content": blocks})
    made = [b for b in message.content if b.type == "tool_use"]
    calls += len(made)
    results = [{"type": "tool_result", "tool_use_id": c.id, "content": f"result of {c.input['e']}"} for c in made]
    if not made:
        answers.append("".join(b.text for b in message.content if b.type == "text"))
    history.append({"role": "user", "content": results or spec["follow_up"]})
print(json.dumps({"answers": answers, "calls": calls}))
