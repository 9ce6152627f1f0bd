#!/usr/bin/env bash
# The README's lines that start several ranks, as they stand there but for CONFIG: that of mpirun for real; those of srun
# and torchrun by stand-ins that check their options, give every rank the launcher's variables, and ask the program for a
# dry run, since eight GPUs would have to be here.
#   test_readme_launchers.sh SOURCE_DIR SINKSCOPE
# Exit status 77 where the stand-ins passed and there is no mpirun, or a program without MPI.
set -euo pipefail

readme=$(realpath "$1")/README.md
program=$(realpath "$2")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
fail() { echo "FAILED: $1" >&2; tail -n 20 "$place"/*.log >&2; exit 1; }
cd "$place"
mkdir bin
ln -s "$program" bin/sinkscope
export PATH=$place/bin:$PATH
for variable in RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT ${!OMPI_*} ${!SLURM_*} ${!PMIX_*}; do unset "$variable"; done

seq -f 'the line with the number %g of a text to train on' 4000 > text.txt
sinkscope tokenize text.txt --tokenizer byte --output data > tokenize.log 2>&1 || fail "tokenize"
cat > CONFIG <<END
{"name": "launched", "model": {"preset": "llama", "layers": 1, "channels": 16, "heads": 2, "hidden": 32},
 "data": {"path": "data"}, "train": {"steps": 4, "micro_batch": 8, "sequence_length": 64, "schedule": {"warmup_steps": 1}},
 "probes": {"every": 0}}
END
line_of() { grep -m 1 "^$1 .* sinkscope train CONFIG" "$readme" || fail "the README has no line of $1"; }

# stand_in NAME OPTIONS...: expects these options, then runs what follows as 8 ranks with the variables of `variables`.
stand_in() {
  local name=$1
  shift
  cat > "bin/$name" <<END
#!/usr/bin/env bash
set -euo pipefail
for option in $*; do
  [[ \$1 == "\$option" ]] || { echo "$name: expected \$option, got \$1" >&2; exit 1; }
  shift
done
for rank in 0 1 2 3 4 5 6 7; do
  env $variables "\$@" --dry-run
done
END
  chmod +x "bin/$name"
}
variables='RANK=$rank WORLD_SIZE=8 LOCAL_RANK=$rank MASTER_ADDR=127.0.0.1 MASTER_PORT=29500'
stand_in torchrun --nproc-per-node=8 --no-python
variables='SLURM_STEP_ID=0 SLURM_PROCID=$rank SLURM_NTASKS=8 SLURM_LOCALID=$rank PMIX_RANK=$rank'
stand_in srun --mpi=pmix --ntasks-per-node=8 --gpus-per-node=8
for launcher in torchrun srun; do
  bash -c "$(line_of $launcher)" > $launcher.log 2>&1 || fail "$(line_of $launcher)"
  (( $(grep -c '^ranks  *8, ' $launcher.log) == 1 )) || fail "$launcher: not one rank alone tells the plan of 8 ranks"
done

command -v mpirun > /dev/null && sinkscope doctor | grep -q 'Open MPI' ||
  { echo "skipped: the line of mpirun (Debian: openmpi-bin, libopenmpi-dev)"; exit 77; }
# Few cores, perhaps as root, perhaps in a container.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
  OMPI_MCA_btl=self,vader OMPI_MCA_btl_vader_single_copy_mechanism=none ASAN_OPTIONS=detect_leaks=0
bash -c "$(line_of mpirun)" > mpirun.log 2>&1 || fail "$(line_of mpirun)"
grep -q '4 ranks, Open MPI' runs/launched/config.json || fail "the run does not know of 4 ranks"
(( $(wc -l < runs/launched/metrics.jsonl) == 4 )) || fail "the run has not 4 steps"
echo "passed"
