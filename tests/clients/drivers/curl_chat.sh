#!/usr/bin/env bash
# curl and jq: url stream|whole keep|drop spec.json
set -euo pipefail
url=$1 mode=$2 variant=$3 spec=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
jq '[{role: "system", content: .system}, {role: "user", content: .question}]' "$spec" >"$work/history"
calls=0 answers='[]'

post() { # the answer's message, on stdout
  jq -n --slurpfile h "$work/history" --slurpfile s "$spec" --argjson stream "$1" \
    '{model: $s[0].model, messages: $h[0], tools: $s[0].tools, stream: $stream}' >"$work/body"
  curl -sS --fail-with-body -N "$url/v1/chat/completions" -H 'Authorization: Bearer curl' \
    -H 'Content-Type: application/json' -d "@$work/body" >"$work/answer"
  if [[ $1 == false ]]; then
    jq '.choices[0].message' "$work/answer"
  else # put the pieces together
    grep '^data: {' "$work/answer" | cut -c7- | jq -s '[.[].choices[0].delta] | {
      role: "assistant", content: (map(.content // "") | add),
      reasoning_content: (map(.reasoning_content // "") | add),
      tool_calls: (map(.tool_calls // [] | .[]) | group_by(.index) | map({
        id: .[0].id, type: "function",
        function: {name: .[0].function.name, arguments: (map(.function.arguments // "") | add)}}))}
      | if .tool_calls == [] then del(.tool_calls) else . end'
  fi
}

while [[ $(jq length <<<"$answers") -lt 2 ]]; do
  post "$([[ $mode == stream ]] && echo true || echo false)" >"$work/message"
  if [[ $variant == drop ]]; then
    jq 'del(.reasoning, .reasoning_content)' "$work/message" >"$work/kept"
  else
    cp "$work/message" "$work/kept"
  fi
  results=$(jq '[.tool_calls // [] | .[] | {role: "tool", tool_call_id: .id,
    content: ("result of " + (.function.arguments | fromjson | .e))}]' "$work/message")
  calls=$((calls + $(jq length <<<"$results")))
  if [[ $results == '[]' ]]; then
    answers=$(jq --slurpfile m "$work/message" '. + [$m[0].content]' <<<"$answers")
    results=$(jq '[{role: "user", content: .follow_up}]' "$spec")
  fi
  jq --slurpfile m "$work/kept" --argjson r "$results" '. + [$m[0]] + $r' "$work/history" >"$work/next"
  mv "$work/next" "$work/history"
done
jq -n --argjson a "$answers" --argjson c "$calls" '{answers: $a, calls: $c}' -c
