"""LiteLLM. The variant is how the model is named: openai/tiny speaks chat, anthropic/tiny speaks
messages and is translated back, hosted_vllm/tiny is chat for servers of open models. The message
goes back as it came."""

import json
import sys
from pathlib import Path
from typing import Any

import litellm

URL, STREAM, VARIANT, spec = (
    sys.argv[1],
    sys.argv[2] == "stream",
    sys.argv[3],
    json.loads(Path(sys.argv[4]).read_text()),
)
base = URL if VARIANT == "anthropic" else f"{URL}/v1"


def ask(history: list[Any]) -> Any:
    wanted: Any = {"model": f"{VARIANT}/{spec['model']}", "api_base": base, "api_key": "litellm", "num_retries": 0}
    answer = litellm.completion(**wanted, messages=history, tools=spec["tools"], stream=STREAM, max_tokens=4000)
    if STREAM:
        answer = litellm.stream_chunk_builder(list(answer), messages=history)
    return answer.choices[0].message


history: list[Any] = [{"role": "system", "content": spec["system"]}, {"role": "user", "content": spec["question"]}]
answers, calls = [], 0
while len(answers) < 2:
    message = ask(history)
    history.append(message)
    for call in message.tool_calls or []:
        calls += 1
        output = f"result of {json.loads(call.function.arguments)['e']}"
        history.append({"role": "tool", "tool_call_id": call.id, "content": output})
    if not message.tool_calls:
        answers.append(message.content)
        history.append({"role": "user", "content": spec["follow_up"]})
print(json.dumps({"answers": answers, "calls": calls}))
