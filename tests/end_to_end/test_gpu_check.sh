#!/usr/bin/env bash
# scripts/gpu_check.sh's stages of several GPUs, of ranks that share one, of the sanitizers and of Nsight Systems, with stand-ins for what they run.
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
stage=several
check() {
  PATH=$place/bin:$place/tools_of_the_system SINKSCOPE_BUILD=$place/build "$source_dir/scripts/gpu_check.sh" \
    --output "$place/logs" "$stage" > "$place/output" 2>&1
}
row() { grep -qE -- "^$stage +$1 +[0-9]+ +$2" "$place/output"; }

mkdir "$place/bin"
stand_in "$place/bin/nvidia-smi" 'echo "GPU 0: one"'
check || fail "a build without them does not fail on one GPU"
row none "fewer than two GPUs" || fail "its row says so"
stand_in "$place/bin/nvidia-smi" 'printf "GPU 0: one\nGPU 1: another\n"'
check && fail "on two it does"
row FAIL "there is no $place/build/tests/comm/test_gpus" || fail "its row says so"
stand_in "$place/build/tests/comm/test_gpus" 'echo "skipped: fewer than two GPUs" >&2; exit 77'
check || fail "one GPU does not fail"
row none "skipped: fewer than two GPUs" || fail "its row says so"
stand_in "$place/build/tests/comm/test_gpus" 'echo "All tests passed ($SINKSCOPE_PROGRAM)"'
check || fail "tests that pass are a pass"
row pass "All tests passed .$place/build/tools/sinkscope." || fail "they run the build's program"
stand_in "$place/build/tests/comm/test_gpus" 'echo "test cases: 3 | 1 failed"; exit 3'
check && fail "one that fails is a failure"
row FAIL "test cases: 3 . 1 failed" || fail "its row says so"

stage=shared
check && fail "without a build it does not fail"
row FAIL "there is no $place/build/tools/sinkscope" || fail "its row says so"
stand_in "$place/build/tools/sinkscope" 'exit 0'
check || fail "a build without NCCL does not fail"
row none "the build has no test_shared_gpu" || fail "its row says so"
stand_in "$place/build/tests/comm/test_shared_gpu" 'echo "All tests passed ($SINKSCOPE_RANK_CHECKS)"'
check || fail "ranks that share a GPU are a pass"
row pass "All tests passed .$place/build/tests/comm/rank_checks." || fail "they run the build's program"
stand_in "$place/build/tests/comm/test_shared_gpu" 'echo "test cases: 7 | 2 failed"; exit 1'
check && fail "one that fails is a failure"
row FAIL "test cases: 7 . 2 failed" || fail "its row says so"
stand_in "$place/build/tests/comm/test_shared_gpu" 'echo "skipped: no GPU" >&2; exit 77'
check && fail "without a GPU it does not fail"
row FAIL "skipped: no GPU" || fail "its row says so"
rm "$place/build/tools/sinkscope"

stage=sanitize
stand_in "$place/bin/compute-sanitizer" 'printf "%s\n" "tests ${@: -1}" "All tests passed" "ERROR SUMMARY: 0 errors"'
stand_in "$place/build/tests/gpu/test_gpu" 'exit 3'
check || fail "sanitizers that find nothing are a pass"
stage=racecheck
row pass "ERROR SUMMARY: 0 errors" || fail "racecheck has a row"
grep -qxF "tests ~[cluster][sanitize]" "$place/logs/racecheck.log" || fail "racecheck leaves clusters out"
grep -qxF "tests [sanitize]" "$place/logs/memcheck.log" || fail "memcheck does not"

stage=nsys
stand_in "$place/build/tools/sinkscope" 'test -f "$2" && echo "$*" > given && echo "tokens  1 /s"'
check || fail "a machine without nsys does not fail"
row none "there is no nsys" || fail "its row says so"

stand_in "$place/bin/nsys" '[[ "$1 $4" == "profile --output" ]] && "${@:6}" && echo report > "$5.nsys-rep"'
check || fail "a report is a pass"
row pass ".*/logs/nsys/bench.nsys-rep" || fail "its row names it"
[[ $(< "$place/logs/nsys/given") == "bench configs/gpt2-124m.json --set train.cuda_graph=false" ]] || fail "the program gets the README's words"

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
