"""The openai client, responses. keep: the items go back as they came; sealed: with encrypted
thinking, as for models whose thoughts are not shown; drop: without the reasoning items."""

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
client = openai.OpenAI(base_url=f"{URL}/v1", api_key="openai-responses", max_retries=0)
tools = [{"type": "function", "strict": False, **t["function"]} for t in spec["tools"]]


def ask(history: list[Any]) -> Any:
    wanted: Any = {"model": spec["model"], "instructions": spec["system"], "input": history, "tools": tools}
    if VARIANT == "sealed":
        wanted |= {"include": ["reasoning.encrypted_content"], "store": False}
    if not STREAM:
        return client.responses.create(**wanted)
    with client.responses.stream(**wanted) as events:
        for _ in events:
            pass
        return events.get_final_response()


history: list[Any] = [{"role": "user", "content": spec["question"]}]
answers, calls = [], 0
while len(answers) < 2:
    response = ask(history)
    made = [item for item in response.output if item.type == "function_call"]
    for item in response.output:
        if item.type != "reasoning" or VARIANT != "drop":
            dumped = item.model_dump(exclude_none=True)
            if item.type == "reasoning" and VARIANT == "sealed":
                dumped.pop("content", None)
            dumped.pop("parsed_arguments", None)
            history.append(dumped)
    for call in made:
        calls += 1
        output = f"result of {json.loads(call.arguments)['e']}"
        history.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
    if not made:
        answers.append(response.output_text)
        history.append({"role": "user", "content": spec["follow_up"]})
print(json.dumps({"answers": answers, "calls": calls}))
