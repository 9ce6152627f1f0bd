#!/usr/bin/env bash
# The header that tells the commit of a build: that of the source folder at each build, with a + where files differ from it,
# and not written again while nothing changes, so that nothing is compiled again.
#   test_build_commit.sh SOURCE_DIR CMAKE GIT
set -euo pipefail

script=$(realpath "$1")/tools/write_commit.cmake cmake=$2 git=$3
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
fail() { echo "FAILED: $1" >&2; cat "$place/commit.h" >&2; exit 1; }
source=$place/source
write() { "$cmake" -DGIT="$git" -DSOURCE="$source" -DHEADER="$place/commit.h" -P "$script"; }
in_source() { "$git" -C "$source" -c user.name=test -c user.email=test@localhost "$@" > /dev/null; }
tells() { grep -qx "#define SINKSCOPE_COMMIT \"$1\"" "$place/commit.h" || fail "expected $1, $2"; }

mkdir "$source"
write
tells unknown "outside of any repository"
in_source init
echo one > "$source/file"
in_source add file
in_source commit -m one
write
first=$("$git" -C "$source" rev-parse --short=7 HEAD)
tells "$first" "the commit"
touch -d 2001-01-01 "$place/commit.h"
write
[[ $(date -r "$place/commit.h" +%Y) == 2001 ]] || fail "nothing has changed, and the header was written again"
echo two > "$source/file"
write
tells "$first+" "with a change"
in_source commit -am two
write
tells "$("$git" -C "$source" rev-parse --short=7 HEAD)" "the next commit"
echo passed
