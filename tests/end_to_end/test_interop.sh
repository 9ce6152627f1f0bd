#!/usr/bin/env bash
# tests/interop/run with a Python that has nothing, and with one whose checks pass or fail.
#   test_interop.sh SOURCE_DIR SINKSCOPE
set -euo pipefail

source_dir=$(realpath "$1")
program=$(realpath "$2")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
fail() { echo "FAILED: $1" >&2; cat "$place/output" >&2; exit 1; }
stand_in() { printf '#!/usr/bin/env bash\n%s\n' "$1" > "$place/python"; chmod +x "$place/python"; }
interop() { PYTHON=$place/python "$source_dir/tests/interop/run" "$@" > "$place/output" 2>&1; }
trained() { interop "$program" --steps 50 "$@"; }  # as many as the checks look at, and a probe pass
row() { grep -qE -- "^$1 +$2 +[0-9]+ *${3:-}" "$place/output"; }

# -c CODE NAME...: the names that are missing; otherwise a check and its arguments.
stand_in 'if [[ $1 == -c ]]; then shift 2; out=$(printf "%s, " "$@"); echo "${out%, }"; fi'
trained && fail "a Python without packages is refused"
for model in gpt2 llama qwen2 qwen3 gpt_neox; do
  for what in train export dump; do row "$model: $what" ok || fail "$model: $what runs without them"; done
  row "$model: transformers" FAIL ".*lacks torch, transformers" || fail "$model: the row says what is missing"
done
row "llama: tensorboard" FAIL ".*lacks tensorboard, numpy" || fail "TensorBoard's row says what is missing"
grep -q "^missing: torch, transformers, tensorboard, numpy;" "$place/output" || fail "and so does the last line"

# The checks get an export with its dump, what a probe pass measured on it, and a run.
stand_in 'case $1 in
  -c) ;;
  */check_probe.py) test -f "$2/model.safetensors" -a -f "$3/probe.json" -a -f "$3/sets.json" &&
    echo "ok   probe: relative difference 2.5e-06, at most 1e-04; 39 fields of 6 sets, largest in loss" ;;
  */check_checkpoint.py) test -f "$2/model.safetensors" -a -f "$3" && echo "ok   logits: relative difference 1.5e-07, at most 1e-04" ;;
  */compare_training.py) test -f "$2/training.json" -a -f "$3/metrics.jsonl" &&
    echo "$3: 40 steps against PyTorch 2 (fp32, cpu): losses within 1.20e-06 (at most 0.001), sink scores within 0.01 % (at most 1 %)" ;;
  */check_tensorboard.py) test -d "$2/tensorboard" && echo "$2: 12 scalars of 3 tags equal the JSON logs" ;;
esac'
trained --output "$place/kept" || fail "checks that pass make a pass"
for model in gpt2 llama qwen2 qwen3 gpt_neox; do row "$model: transformers" ok "logits 1.5e-07" || fail "$model: the row has the figures"; done
row "llama: probe fields" ok "2.5e-06; 39 fields of 6 sets, largest in loss" || fail "the row of a probe pass too"
row "llama: training" ok "losses 1.20e-06, sink scores 0.01 %" || fail "that of the training too"
row "llama: tensorboard" ok "12 scalars" || fail "TensorBoard's row too"
[[ -f $place/kept/export/qwen3/config.json ]] || fail "the output stays"
[[ $(tail -n 1 "$place/kept/runs/llama/metrics.jsonl") == *'"step":50,'* ]] || fail "--steps is how many there are"
for steps in 39 x ""; do interop "$program" --steps "$steps" && fail "--steps $steps is refused"; done
trained --output "$place/kept" && fail "an output that is there is refused"

# The README's line as it stands there, in a folder like the repository with its build and its virtual environment. The
# program trains for 50 of the 300 steps that it is told.
line=$(grep -m 1 '^PYTHON=.* tests/interop/run' "$source_dir/README.md") || fail "the README has no line of the check"
mkdir -p "$place/repository/build/cpu/tools" "$place/repository/.cache/interop/bin"
ln -s "$source_dir/README.md" "$source_dir/tests" "$place/repository"
cat > "$place/repository/build/cpu/tools/sinkscope" <<END
#!/usr/bin/env bash
[[ \$1 != train ]] || sed -i 's/"steps": 300/"steps": 50/' "\$2"
exec "$program" "\${@/step_00000300/step_00000050}"
END
chmod +x "$place/repository/build/cpu/tools/sinkscope"
mv "$place/python" "$place/repository/.cache/interop/bin/python"
(cd "$place/repository" && bash -c "$line" > "$place/output" 2>&1) || fail "$line"
for model in gpt2 llama qwen2 qwen3 gpt_neox; do
  row "$model: transformers" ok "logits 1.5e-07" || fail "$line: has a row of $model"
done

stand_in 'case $1 in
  -c) ;;
  */check_checkpoint.py) [[ $2 != *gpt2 ]] || { echo "FAIL logits: 0.1"; exit 1; } ;;
  */check_probe.py) [[ $2 != *llama ]] || { echo "FAIL probe: 0.2"; exit 1; } ;;
  */compare_training.py) echo "losses within 0.3"; exit 1 ;;
esac'
trained && fail "a check that fails makes a failure"
row "gpt2: transformers" FAIL "FAIL logits: 0.1" || fail "and is the one in the table"
row "llama: probe fields" FAIL "FAIL probe: 0.2" || fail "as is that of a probe pass"
row "llama: training" FAIL "losses within 0.3" || fail "as is a training"
row "qwen3: transformers" ok || fail "beside those that pass"
interop "$place/none" && fail "a program that is not there is refused"
echo "passed"
