#!/usr/bin/env bash
# scripts/gpu_check.sh's stages of tests and of Nsight Systems, with stand-ins for what they run.
#   test_gpu_check.sh SOURCE_DIR
set -euo pipefail

source_dir=$(realpath "$1")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
fail() { echo "FAILED: $1" >&2; cat "$place/output" >&2; exit 1; }
stand_in() { mkdir -p "$(dirname "$1")"; printf '#!/usr/bin/env bash\n%s\n' "$2" > "$1"; chmod +x "$1"; }

# What the stage calls, and no nsys that this machine may have.
mkdir "$place/tools_of_the_system"
for tool in bash sed realpath dirname mkdir ln rm grep timeout tail cut find du tr ldd awk sort head git tee paste; do
  ln -s "$(command -v "$tool")" "$place/tools_of_the_system/$tool"
done
stage=tests
check() {
  PATH=$place/bin:$place/tools_of_the_system SINKSCOPE_BUILD=$place/build "$source_dir/scripts/gpu_check.sh" \
    --output "$place/logs" "$stage" > "$place/output" 2>&1
}
row() { grep -qE -- "^$stage +$1 +[0-9]+ +$2" "$place/output"; }

stand_in "$place/build/tests/gpu/test_gpu" 'echo "All tests passed (3 assertions)"'
mkdir "$place/bin"
stand_in "$place/bin/nvidia-smi" 'echo "GPU 0: one"'
check || fail "one GPU needs the tests of one"
row pass "1 program" || fail "its row says so"
stand_in "$place/bin/nvidia-smi" 'printf "GPU 0: one\nGPU 1: another\n"'
check && fail "several GPUs need the tests of several"
row FAIL "there is no .*/tests/comm/test_gpus" || fail "its row says so"
stand_in "$place/build/tests/comm/test_gpus" 'echo "All tests passed (4 assertions)"'
check || fail "both pass"
row pass "2 program" || fail "its row says so"
stand_in "$place/build/tests/comm/test_gpus" 'exit 3'
check && fail "one that fails is a failure"
row FAIL "2 program" || fail "its row says so"
stage=nsys

stand_in "$place/build/tools/sinkscope" 'test -f "$2" && echo "$*" > given && echo "tokens  1 /s"'
check || fail "a machine without nsys does not fail"
row none "there is no nsys" || fail "its row says so"

stand_in "$place/bin/nsys" '[[ "$1 $4" == "profile --output" ]] && "${@:6}" && echo report > "$5.nsys-rep"'
check || fail "a report is a pass"
row pass ".*/logs/nsys/bench.nsys-rep" || fail "its row names it"
[[ $(< "$place/logs/nsys/given") == "bench configs/gpt2-124m.json" ]] || fail "the program gets the README's words"

stand_in "$place/bin/nsys" '"${@:6}"'
check && fail "no report is a failure"
row FAIL "there is no report" || fail "its row says so: an older one does not count"
stand_in "$place/bin/nsys" 'echo report > "$5.nsys-rep"'
check && fail "a report without the program is a failure"
row FAIL "sinkscope did not run to its end" || fail "its row says so"
stand_in "$place/bin/nsys" 'echo "no permission"; exit 1'
check && fail "a failure of nsys is a failure"
row FAIL "no permission" || fail "its row has the message"
rm "$place/build/tools/sinkscope"
check && fail "a build without the program is a failure"
row FAIL "there is no $place/build/tools/sinkscope" || fail "its row names it"
echo "passed"
