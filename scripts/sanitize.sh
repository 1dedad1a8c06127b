#!/usr/bin/env bash
# Run the kernels' oracle tests, and whole steps in several threads, under the address and undefined-behaviour sanitizers.
#
#   PYTHON=.venv/bin/python bash scripts/sanitize.sh
#
# The script also proves that it would notice: a build that reads one word behind a matrix, packed or not, must fail.
# Needs g++ and the development environment (`make test` makes it); builds below build/sanitize.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=$(realpath -s "${PYTHON:-.venv/bin/python}")
OUT=$PWD/build/sanitize

build() { # folder, further CMake options
  local folder=$1
  shift
  rm -rf "$folder"
  "$PYTHON" -m pip install --quiet --no-deps --target "$folder/site" \
    --config-settings=build-dir="$folder/cmake" \
    --config-settings=cmake.define.ABRUZZI_SANITIZE=ON "${@/#/--config-settings=cmake.define.}" .
}

run() { # folder, pytest arguments
  local folder=$1
  shift
  # libstdc++ has to be there before the extension throws, or every C++ exception aborts.
  ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)" \
    PYTHONMALLOC=malloc PYTHONPATH="$folder/site" \
    "$PYTHON" -c '
import sys
# An editable install of the same package would win over PYTHONPATH.
sys.meta_path = [f for f in sys.meta_path if "editable" not in type(f).__module__ and "Editable" not in type(f).__name__]
import abruzzi.kernels._ext as ext
assert sys.argv[1] in ext.__file__, ext.__file__
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
' "$folder" "$@"
}

echo "sanitize: building with -fsanitize=address,undefined"
build "$OUT/clean"
run "$OUT/clean" tests/oracles/test_kernels.py
# Whole steps: the kernels of the fastest instruction set only, or this takes minutes.
run "$OUT/clean" tests/unit/engine/test_step_bits.py -k "not forked and not scalar"

echo "sanitize: a planted read out of bounds must be noticed"
build "$OUT/planted" ABRUZZI_PLANT_BUG=ON
for case in "linear_int8_equals_its_twin" "linear_equals_its_twin"; do # one planted bug each
  if run "$OUT/planted" -s -x -k "$case" tests/oracles/test_kernels.py >"$OUT/planted.log" 2>&1; then
    echo "sanitize: the bug planted for $case was NOT noticed; this run proves nothing" >&2
    exit 1
  fi
  grep -q "AddressSanitizer: heap-buffer-overflow" "$OUT/planted.log" || {
    echo "sanitize: the bug planted for $case failed for another reason:" >&2
    tail -20 "$OUT/planted.log" >&2
    exit 1
  }
done
echo "sanitize: ok"
