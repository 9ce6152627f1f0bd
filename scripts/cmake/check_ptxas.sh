#!/usr/bin/env bash
# Runs a compilation and fails where ptxas, asked for its report (-Xptxas=-v), tells of what makes a wgmma kernel slow:
# registers spilled to memory, matrix products serialised (C7511, C7515), setmaxnreg ignored (C7508). The report itself
# is shown only then.
#   check_ptxas.sh COMPILER ARGUMENTS...
set -uo pipefail

report=$("$@" 2>&1)
status=$?
slow='C75(08|1[0-9])|setmaxnreg.*ignored|[1-9][0-9]* bytes (stack frame|spill (stores|loads))'
if (( status != 0 )); then
  printf '%s\n' "$report" >&2
  exit "$status"
fi
if grep -qE "$slow" <<< "$report"; then
  grep -E "$slow|Compiling entry function" <<< "$report" >&2
  echo "error: these kernels must neither spill registers nor have their matrix products serialised" >&2
  exit 1
fi
grep -vE '^ptxas info|^ *[0-9]+ bytes stack frame|^$' <<< "$report" >&2
exit 0
