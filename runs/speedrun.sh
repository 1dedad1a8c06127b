#!/usr/bin/env bash
# The whole story in one page: from nothing to a small reasoning model with tools, what it can do and what it cost.
#
#   runs/speedrun.sh                                  # nano_cpu: hours on two cores; run it again to go on
#   RECIPE=smoke runs/speedrun.sh                     # the same path in a minute or two; the model knows nothing
#   RECIPE=mini_h200 runs/speedrun.sh                 # what ships as nano: seven minutes on one H200
#   runs/speedrun.sh --set lr_muon=0.005              # what is given here goes to `abruzzi train`
#   PROCESSES=2 TIME_LIMIT=90m runs/speedrun.sh       # a process per core, stopped cleanly after so long
#
# Everything lands in runs/$RECIPE: tokenizer.json, state.pt, metrics.jsonl, ledger.json, loss.html, checkpoint/.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
RECIPE=${RECIPE:-nano_cpu}
OUT=${OUT:-runs/$RECIPE}
PROCESSES=${PROCESSES:-1}
EVAL_TASKS=${EVAL_TASKS:-20}
abruzzi() { "$PYTHON" -m abruzzi.cli.main "$@"; }

# 0. What is this machine?
abruzzi doctor

# 1. Tokenizer, data and training, one command. The vocabulary is built from six thousand samples of the tasks; samples
#    are made while the model trains; the last steps round the experts as INT4 will. Stopped by Ctrl-C or TIME_LIMIT it
#    saves and this script exits with 3; the next start goes on exactly there.
options=(--out "$OUT" "$@")
[ -n "${TIME_LIMIT:-}" ] && options+=(--time-limit "$TIME_LIMIT")
[ -e "$OUT/state.pt" ] && options+=(--resume)
if [ "$PROCESSES" -gt 1 ]; then
  "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$PROCESSES" \
    -m abruzzi.cli.main train "$RECIPE" --threads 1 "${options[@]}"
else
  abruzzi train "$RECIPE" "${options[@]}"
fi
echo "curves: $OUT/loss.html"
if [ ! -d "$OUT/checkpoint" ]; then
  echo "stopped before the last step; start this again to go on"
  exit 3
fi

# 2. The export: the last step wrote it, in Hugging Face layout, experts in INT4. Any engine that knows DeepseekV3 reads it.
abruzzi show "$OUT/checkpoint"

# 3. Talk to it: it thinks, calls the calculator and answers.
abruzzi run --model "$OUT/checkpoint" --max-tokens 200 \
  "Calculate 69 - 21 + 39." || [ $? -eq 3 ]

# 4. Eval: fresh tasks on trained phrasings, on phrasings it never saw, and with more steps than trained.
"$PYTHON" bench/nano_accuracy.py --model "$OUT/checkpoint" --n "$EVAL_TASKS" --only-thinking-with-tools \
  --out "$OUT/accuracy.json"

# 5. The ledger: tokens, arithmetic, hours, energy and dollars of all starts, with the source of every price.
sed -n '/## What it took/,$p' "$OUT/checkpoint/README.md"
