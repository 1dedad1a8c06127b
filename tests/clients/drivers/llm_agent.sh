#!/usr/bin/env bash
# The command `llm`, with tools that are Python functions: url stream|whole - spec.json
set -euo pipefail
url=$1 mode=$2 spec=$4
export LLM_USER_PATH
LLM_USER_PATH=$(mktemp -d)
trap 'rm -rf "$LLM_USER_PATH"' EXIT
cat >"$LLM_USER_PATH/extra-openai-models.yaml" <<YAML
- model_id: tiny
  model_name: tiny
  api_base: $url/v1
  supports_tools: true
YAML
cat >"$LLM_USER_PATH/tools.py" <<'PY'
import os
from pathlib import Path
from typing import Any

MADE = Path(os.environ["LLM_USER_PATH"]) / "made"


def calc(e: str, x: float = 0, y: Any = 0, z: Any = 0, big: Any = 0, small: Any = 0, a: Any = 0, list: Any = 0,
         o: Any = 0) -> str:
    """Computes."""
    with MADE.open("a") as out:
        out.write(".")
    return f"result of {e}"


def note(e: str, x: float = 0, y: Any = 0, z: Any = 0, big: Any = 0, small: Any = 0, a: Any = 0, list: Any = 0,
         o: Any = 0) -> str:
    """Writes a note down."""
    return calc(e)
PY
options=()
[[ $mode == whole ]] && options=(--no-stream)
ask() { llm "$@" --key llm-agent --functions "$LLM_USER_PATH/tools.py" --chain-limit 0 "${options[@]}" 2>"$LLM_USER_PATH/err" || { cat "$LLM_USER_PATH/err" >&2; exit 1; }; }
first=$(ask -m tiny -s "$(jq -r .system "$spec")" "$(jq -r .question "$spec")")
second=$(ask -c "$(jq -r .follow_up "$spec")")
calls=$(wc -c <"$LLM_USER_PATH/made")
jq -nc --arg a "$first" --arg b "$second" --argjson c "$calls" '{answers: [$a, $b], calls: $c}'
