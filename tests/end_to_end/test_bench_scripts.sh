#!/usr/bin/env bash
# The scripts of tests/bench that run the program refuse one that is not there, in one line and not by a traceback.
#   test_bench_scripts.sh SOURCE_DIR
set -euo pipefail

bench=$(realpath "$1")/tests/bench
command -v python3 > /dev/null || { echo "skipped: there is no python3"; exit 77; }
for script in product_speed ranks_speed timeline; do  # attention_speed.py needs PyTorch first
  for program in /nowhere/sinkscope no-such-sinkscope; do
    status=0
    output=$(python3 "$bench/$script.py" "$program" 2>&1) || status=$?
    [[ $status == 2 && ${output##*$'\n'} == "$script.py: error: SINKSCOPE: there is no program $program" ]] ||
      { printf 'FAILED: %s.py %s: exit status %d\n%s\n' "$script" "$program" "$status" "$output" >&2; exit 1; }
  done
done
echo passed
