"""The openai client, chat. keep: the message goes back as it came; drop: role, content and calls
only, as in most tutorials."""

import json
import sys
from pathlib import Path
from typing import Any

import openai

URL, STREAM, VARIANT, spec = (
    sys.argv[1],
    sys.argv[2] == "stream",
    sys.argv[3],
    json.loads(Path(sys.argv[4]).read_text()),
)
client = openai.OpenAI(base_url=f"{URL}/v1", api_key="openai-chat", max_retries=0)


def result(arguments: str) -> str:
    return f"result of {json.loads(arguments)['e']}"


def ask(history: list[Any]) -> Any:
    wanted: Any = {"model": spec["model"], "messages": history, "tools": spec["tools"]}
    if not STREAM:
        return client.chat.completions.create(**wanted).choices[0].message
    with client.chat.completions.stream(**wanted) as events:
        for _ in events:
            pass
        return events.get_final_completion().choices[0].message


history: list[Any] = [{"role": "system", "content": spec["system"]}, {"role": "user", "content": spec["question"]}]
answers, calls = [], 0
while len(answers) < 2:
    message = ask(history)
    if VARIANT == "keep":
        history.append(message.model_dump(exclude_none=True))
    else:
        made = [
            {"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": c.function.arguments}}
            for c in message.tool_calls or []
        ]
        history.append({"role": "assistant", "content": message.content, **({"tool_calls": made} if made else {})})
    for call in message.tool_calls or []:
        calls += 1
        history.append({"role": "tool", "tool_call_id": call.id, "content": result(call.function.arguments)})
    if not message.tool_calls:
        answers.append(message.content)
        history.append({"role": "user", "content": spec["follow_up"]})
print(json.dumps({"answers": answers, "calls": calls}))
