#!/usr/bin/env bash
# Checks the CUDA build on a machine with a GPU: build, tests, those of several GPUs and of ranks that share one, compute-sanitizer, bench, the README's command of Nsight
# Systems, and PyTorch's step beside ours; one table last. The exit status is 1 when any stage failed.
#   scripts/gpu_check.sh [--output DIR] [build] [tests] [several] [shared] [sanitize] [bench] [nsys] [torch]
#     --output DIR   logs and JSON go here, default runs/gpu_check
#   Without stages all of them run, in this order. The environment may set
#     SINKSCOPE_BUILD      a build folder whose programs run on this machine: nothing is built
#     SANITIZE_FILTER      Catch2 filter of what runs under compute-sanitizer, default "[sanitize]"
#     SANITIZE_SECONDS     time limit of its tools, which run side by side, default 240
#     BENCH_MODEL          a config in configs/ that tests/bench/torch_step.py knows as well, default gpt2-124m
#     BENCH_BATCH, BENCH_LENGTH   default 64 and 1024
# A test that is skipped fails its stage, but for those of several GPUs: here is a GPU, or there should be. No setting of the GPU is changed.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

output=
stages=()
usage() { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
while (( $# > 0 )); do
  case $1 in
    --output)
      (( $# > 1 )) && [[ -n $2 ]] || { echo "gpu_check: --output needs a folder" >&2; exit 1; }
      output=$2
      shift 2 ;;
    build|tests|several|shared|sanitize|bench|nsys|torch) stages+=("$1"); shift ;;
    -h|--help) usage; exit 0 ;;
    *) echo "gpu_check: unknown argument $1" >&2; usage >&2; exit 1 ;;
  esac
done
(( ${#stages[@]} > 0 )) || stages=(build tests several shared sanitize bench nsys torch)
wanted() { [[ " ${stages[*]} " == *" $1 "* ]]; }

output=$(realpath -m "${output:-$root/runs/gpu_check}")
mkdir -p "$output" || exit 1
build=${SINKSCOPE_BUILD:+$(realpath -m "$SINKSCOPE_BUILD")}
prebuilt=$build
build=${build:-$root/build/cuda}
cd "$root" || exit 1

rows=()
failed=0
# row STAGE RESULT SECONDS FIGURES; a result of FAIL fails the whole.
row() {
  rows+=("$(printf '%-12s %-5s %7s  %s' "$1" "$2" "$3" "$4")")
  printf '[%4d s] %s\n' "$SECONDS" "$1: $2 ${4:+($4)}"
  if [[ $2 == FAIL ]]; then failed=1; fi
}

# number KEY FILE: the first number of that key in a JSON file; empty when there is none.
number() { { grep -o "\"$1\": *[-+0-9.eE]*" "$2" 2> /dev/null || true; } | head -n 1 | sed 's/.*: *//'; }

# The libraries a program misses on this machine.
missing_libraries() { ldd "$1" 2> /dev/null | awk '/not found/ {print $1}' | sort -u | tr '\n' ' '; }

# A program of the build, or a row that says why it does not run.
program() {
  local stage=$1 path=$build/$2 missing
  if [[ ! -x $path ]]; then
    row "$stage" FAIL 0 "there is no $path: build first, or set SINKSCOPE_BUILD"
    return 1
  fi
  missing=$(missing_libraries "$path")
  if [[ -n $missing ]]; then
    row "$stage" FAIL 0 "$2 needs libraries that this machine lacks: $missing"
    return 1
  fi
}

# What cmake did not find, by the Debian package that has it where that is known.
missing_packages() {
  local log=$1 name
  {
    grep -oP "Could not find a package configuration file provided by \"\K[^\"]+" "$log"
    grep -oP "Could NOT find \K[A-Za-z0-9_]+" "$log"
    grep -oP "Package '\K[^']+(?=', required by|' not found)" "$log"
    grep -oP "No package '\K[^']+" "$log"
  } | sort -u | while read -r name; do
    case $name in
      nlohmann_json) echo nlohmann-json3-dev ;;
      spdlog) echo libspdlog-dev ;;
      CLI11) echo libcli11-dev ;;
      Catch2) echo catch2 ;;
      openblas) echo libopenblas-openmp-dev ;;
      libzstd) echo libzstd-dev ;;
      libxxhash) echo libxxhash-dev ;;
      ZLIB) echo zlib1g-dev ;;
      simdjson) echo libsimdjson-dev ;;
      Boost) echo libboost-dev ;;
      PkgConfig) echo pkg-config ;;
      CUDAToolkit) echo "the CUDA toolkit" ;;
      sentencepiece|cpp-httplib) ;;  # may be absent
      *) echo "$name" ;;
    esac
  done | sort -u | paste -sd , | sed 's/,/, /g'
}

stage_build() {
  local begin=$SECONDS log=$output/build.log missing
  if [[ -n $prebuilt ]]; then
    program build tools/sinkscope || return
    if "$build/tools/sinkscope" doctor > "$log" 2>&1; then
      row build ready 0 "programs of $build"
    else
      row build FAIL 0 "$build/tools/sinkscope does not run; see $log"
    fi
    return
  fi
  if ! cmake --preset cuda > "$log" 2>&1; then
    missing=$(missing_packages "$log")
    row build FAIL $((SECONDS - begin)) "cmake fails${missing:+; missing: $missing}; see $log, or set SINKSCOPE_BUILD"
  elif ! cmake --build --preset cuda -j "$(nproc)" >> "$log" 2>&1; then
    row build FAIL $((SECONDS - begin)) "$(grep -m 1 -E 'error|FAILED' "$log" | cut -c 1-100); see $log"
  else
    row build pass $((SECONDS - begin)) "$build"
  fi
}

stage_tests() {
  local begin=$SECONDS log=$output/tests.log status figures
  program tests tests/gpu/test_gpu || return
  if [[ -n $prebuilt ]]; then  # ctest's files hold the paths of the machine that built
    local test ran=0
    status=0
    : > "$log"
    for test in "$build"/tests/gpu/test_*; do
      [[ -f $test && -x $test ]] || continue
      ran=$((ran + 1))
      timeout -k 10 540 "$test" >> "$log" 2>&1 || { status=$?; echo "$test: exit status $status" >> "$log"; }
    done
    figures="$ran program(s); $({ grep -oE '^All tests passed.*|^test cases:.*' "$log" || true; } | paste -sd ' ')"
    grep -q '^skipped:' "$log" && { status=77; figures=$(grep -m 1 '^skipped:' "$log"); }
  else
    ctest --test-dir "$build" -L gpu --no-tests=error --output-on-failure > "$log" 2>&1
    status=$?
    figures=$({ grep -E 'tests passed|tests failed' "$log" || tail -n 1 "$log"; } | head -n 1)
    if grep -qE '\*\*\*Skipped|\(Skipped\)' "$log"; then
      status=77
      figures="tests were skipped: $(grep -m 1 -oE 'skipped: .*' "$log" || echo "no GPU?")"
    fi
  fi
  if (( status == 0 )); then
    row tests pass $((SECONDS - begin)) "$figures"
  else
    row tests FAIL $((SECONDS - begin)) "$figures; see $log"
  fi
}

# A program whose tests start sinkscope as several ranks: STAGE PROGRAM.
ranks_stage() {
  local stage=$1 begin=$SECONDS log=$output/$1.log status figures
  program "$stage" "$2" || return
  SINKSCOPE_PROGRAM=$build/tools/sinkscope SINKSCOPE_RANK_CHECKS=$build/tests/comm/rank_checks timeout -k 10 3600 "$build/$2" > "$log" 2>&1
  status=$?
  figures=$({ grep -oE '^All tests passed.*|^test cases:.*|^skipped:.*' "$log" || tail -n 1 "$log"; } | paste -sd ' ')
  case $status in
    0) row "$stage" pass $((SECONDS - begin)) "$figures" ;;
    77) if [[ $stage == several ]]; then row "$stage" none 0 "$figures"; else row "$stage" FAIL 0 "$figures"; fi ;;
    *) row "$stage" FAIL $((SECONDS - begin)) "$figures; see $log" ;;
  esac
}

# Those that several GPUs train together, where there are so many.
stage_several() {
  if [[ ! -x $build/tests/comm/test_gpus ]] && (( $(nvidia-smi -L 2> /dev/null | grep -c '^GPU') < 2 )); then
    row several none 0 "fewer than two GPUs"
    return
  fi
  ranks_stage several tests/comm/test_gpus
}

# Eight ranks that share one GPU.
stage_shared() {
  program shared tools/sinkscope || return
  if [[ ! -x $build/tests/comm/test_shared_gpu ]]; then
    row shared none 0 "the build has no test_shared_gpu, which needs NCCL"
    return
  fi
  ranks_stage shared tests/comm/test_shared_gpu
}

# The four tools run side by side: none of them times anything.
stage_sanitize() {
  local sanitizer tool log summary status seconds
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
  if [[ -z $sanitizer ]]; then
    row sanitize FAIL 0 "there is no compute-sanitizer (CUDA toolkit)"
    return
  fi
  program sanitize tests/gpu/test_gpu || return
  # initcheck does not see what the copy engine writes, and the first of these kernels reads nothing else; nor what that one writes, which is left out. racecheck follows no barrier in
  # shared memory, and reports whatever the copy engine or a warp hands over by one; SINKSCOPE_JITTER is for those kernels. Where a kernel that it leaves out has clusters it ends
  # in an error of its own (CUDA 13.0; a cluster's barrier is enough, and the same kernel passes where it is not left out), so that tests tagged [cluster] are not for it.
  local -A excluded=([initcheck]="--kernel-name-exclude kernel_substring=9dq_kernel --kernel-name-exclude kernel_substring=add_partials_kernelILi1E"
                     [racecheck]="--kernel-name-exclude kernel_substring=4sm90")
  local filter=${SANITIZE_FILTER:-[sanitize]}
  local -A filters=([racecheck]="~[cluster]${filter//,/,~[cluster]}")
  for tool in memcheck racecheck initcheck synccheck; do
    (
      begin=$SECONDS
      timeout -k 10 "${SANITIZE_SECONDS:-240}" "$sanitizer" --tool "$tool" ${excluded[$tool]:-} --error-exitcode 99 \
        "$build/tests/gpu/test_gpu" "${filters[$tool]:-$filter}" > "$output/$tool.log" 2>&1
      echo "$? $((SECONDS - begin))" > "$output/$tool.status"
    ) &
  done
  wait
  for tool in memcheck racecheck initcheck synccheck; do
    log=$output/$tool.log
    read -r status seconds < "$output/$tool.status"
    summary=$(grep -oE '(ERROR|RACECHECK) SUMMARY: .*' "$log" | tail -n 1)
    if (( status == 0 )) && grep -q 'All tests passed' "$log" && [[ $summary == *"SUMMARY: 0 "* ]]; then
      row "$tool" pass "$seconds" "$summary"
    elif (( status == 124 || status == 137 )); then
      row "$tool" FAIL "$seconds" "stopped after ${SANITIZE_SECONDS:-240} s; see $log"
    else
      summary=${summary:-exit status $status: $(tail -n 1 "$log" | cut -c 1-80)}
      row "$tool" FAIL "$seconds" "$summary; see $log"
    fi
  done
}

model=${BENCH_MODEL:-gpt2-124m}
batch=${BENCH_BATCH:-64}
length=${BENCH_LENGTH:-1024}
ours=
theirs=

# figures MILLISECONDS TOKENS_PER_SECOND PEAK_BYTES
figures() { awk -v ms="$1" -v t="$2" -v m="$3" 'BEGIN { printf "%.2f ms, %.0f tokens/s, %.1f GB", ms, t, m / 1e9 }'; }
percent() { awk -v x="$1" 'BEGIN { if (x == "") print "unknown"; else printf "%.1f %%", 100 * x }'; }

stage_bench() {
  local begin=$SECONDS log=$output/bench.log json=$output/bench.json
  rm -f "$json"
  program bench tools/sinkscope || return
  if ! timeout -k 10 540 "$build/tools/sinkscope" bench "configs/$model.json" --set device=cuda --set precision=bf16 \
      --set "train.micro_batch=$batch" --set "train.sequence_length=$length" --set train.gradient_accumulation=1 \
      --step --kernels --json "$json" > "$log" 2>&1; then
    row bench FAIL $((SECONDS - begin)) "$(tail -n 1 "$log" | cut -c 1-100); see $log"
    return
  fi
  ours=$(number tokens_per_second "$json")
  row bench pass $((SECONDS - begin)) "$model $batch x $length: $(
    figures "$(number milliseconds "$json")" "$ours" "$(number peak_memory_bytes "$json")"
  ), MFU by datasheet $(percent "$(number mfu_datasheet "$json")"), measured $(percent "$(number mfu_measured "$json")")"
  grep -E '^(copy|matrix|probes) ' "$log" | tr -s ' ' | sed 's/^/         /'
}

# As the README has it, in a folder of its own, since the report is written into the working folder.
stage_nsys() {
  local begin=$SECONDS log=$output/nsys.log folder=$output/nsys command report
  if ! command -v nsys > /dev/null; then
    row nsys none 0 "there is no nsys (Nsight Systems) here"
    return
  fi
  program nsys tools/sinkscope || return
  if ! command=$(grep -m 1 '^nsys profile ' README.md); then
    row nsys FAIL 0 "README.md has no line of nsys"
    return
  fi
  rm -rf "$folder"
  mkdir "$folder" && ln -s "$root/configs" "$folder/configs"
  if ! (cd "$folder" && PATH=$build/tools:$PATH timeout -k 10 540 bash -c "$command") > "$log" 2>&1; then
    row nsys FAIL $((SECONDS - begin)) "$(tail -n 1 "$log" | cut -c 1-100); see $log"
    return
  fi
  report=$(find "$folder" -name '*.nsys-rep' -size +0)
  if [[ -z $report ]]; then
    row nsys FAIL $((SECONDS - begin)) "there is no report in $folder; see $log"
  elif ! grep -q '^tokens ' "$log"; then
    row nsys FAIL $((SECONDS - begin)) "sinkscope did not run to its end; see $log"
  else
    row nsys pass $((SECONDS - begin)) "$(du -h "$report" | tr '\t' ' ')"
  fi
}

stage_torch() {
  local begin=$SECONDS log=$output/torch.log json=$output/torch.json attention
  rm -f "$json"
  if ! python3 -c 'import torch' 2> /dev/null; then
    row torch none 0 "python3 has no torch here"
    return
  fi
  if ! timeout -k 10 540 python3 tests/bench/torch_step.py --model "$model" --batch "$batch" --length "$length" \
      > "$json" 2> "$log"; then
    row torch FAIL $((SECONDS - begin)) "$(tail -n 1 "$log" | cut -c 1-100); see $log"
    return
  fi
  theirs=$(number tokens_per_second "$json")
  attention=$(grep -o '"attention": "[a-z]*"' "$json" | cut -d '"' -f 4)
  row torch pass $((SECONDS - begin)) "$attention attention: $(
    figures "$(number milliseconds "$json")" "$theirs" "$(number peak_memory_bytes "$json")"
  ), MFU by datasheet $(percent "$(number mfu "$json")")"
}

gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null | head -n 1)
echo "gpu_check: ${gpu:-no GPU that nvidia-smi knows}; logs in $output"
for stage in build tests several shared sanitize bench nsys torch; do
  if wanted "$stage"; then "stage_$stage"; fi
done
if [[ -n $ours && -n $theirs ]]; then
  ratio=$(awk -v a="$ours" -v b="$theirs" 'BEGIN { printf "%.2fx", a / b }')
  row "ours/torch" "$ratio" "" "tokens/s, same machine, one after the other"
fi

{
  printf '\n%s, commit %s\n' "${gpu:-no GPU}" "$(git rev-parse --short HEAD 2> /dev/null || echo unknown)"
  printf '%-12s %-5s %7s  %s\n' stage "" seconds figures
  printf '%s\n' "${rows[@]}"
  if (( failed )); then echo "FAILED"; else echo "passed"; fi
} | tee "$output/table.txt"
exit "$failed"
