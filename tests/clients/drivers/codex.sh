#!/usr/bin/env bash
# Codex CLI, one prompt, without its web search and sub-agents (tools that are not functions): url stream - spec.json
set -euo pipefail
url=$1 spec=$4
export CODEX_HOME KEY=codex
CODEX_HOME=$(mktemp -d)
trap 'rm -rf "$CODEX_HOME"' EXIT
cat >"$CODEX_HOME/config.toml" <<TOML
model = "tiny"
model_provider = "abruzzi"
web_search = "disabled"
[model_providers.abruzzi]
name = "abruzzi"
base_url = "$url/v1"
wire_api = "responses"
env_key = "KEY"
request_max_retries = 0
stream_max_retries = 0
[features]
multi_agent = false
[analytics]
enabled = false
TOML
codex exec --skip-git-repo-check --json --dangerously-bypass-approvals-and-sandbox "$(jq -r .question "$spec")" \
  </dev/null >"$CODEX_HOME/said"
jq -sc '[.[] | select(.type == "item.completed") | .item] | {
  answers: [map(select(.type == "agent_message")) | last | .text],
  calls: (map(select(.type == "command_execution")) | length)}' "$CODEX_HOME/said"
