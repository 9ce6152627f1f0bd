#!/usr/bin/env bash
# No line of C++ or CUDA is longer than 120 characters.
#   test_line_width.sh SOURCE_DIR
set -euo pipefail
export LC_ALL=C.UTF-8  # in which … is one character

too_long() { find "$@" -regex '.*\.\(cpp\|h\|cu\|cuh\)' -exec grep -nHE '.{121}' {} + || true; }

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
printf '// %116s…\n' > "$place/fits.h"
printf '// %117s…\n' > "$place/long.cu"
[[ $(too_long "$place") == "$place/long.cu:1:"* ]] || { echo "FAILED: expected one line too long: $(too_long "$place")" >&2; exit 1; }

cd "$1"
found=$(too_long kernels engine tools tests)
[[ -z $found ]] || { echo "FAILED: expected at most 120 characters:" >&2; echo "$found" >&2; exit 1; }
echo passed
