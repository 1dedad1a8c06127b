#!/usr/bin/env bash
# Kimi Code CLI, as it is, with one prompt: url stream kimi|openai|openai_responses|anthropic spec.json
set -euo pipefail
url=$1 provider=$3 spec=$4
export KIMI_CODE_HOME KIMI_CODE_NO_AUTO_UPDATE=1
KIMI_CODE_HOME=$(mktemp -d)
trap 'rm -rf "$KIMI_CODE_HOME"' EXIT
[[ $provider == anthropic ]] || url=$url/v1
cat >"$KIMI_CODE_HOME/config.toml" <<TOML
default_model = "tiny"
telemetry = false
[providers.abruzzi]
type = "$provider"
base_url = "$url"
api_key = "kimi-code"
[models.tiny]
provider = "abruzzi"
model = "tiny"
max_context_size = 1000000
capabilities = ["thinking", "tool_use"]
TOML
kimi -p "$(jq -r .question "$spec")" --output-format stream-json >"$KIMI_CODE_HOME/said"
jq -sc '{answers: [map(select(.role == "assistant" and (.tool_calls | not))) | last | .content],
  calls: (map(.tool_calls // [] | length) | add)}' "$KIMI_CODE_HOME/said"
