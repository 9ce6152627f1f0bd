#!/usr/bin/env python3
"""How training scales over the GPUs of this machine, at constant tokens a GPU.

usage: ranks_speed.py SINKSCOPE [--ranks N ...] [--model gpt2-124m|gpt2-350m|llama-1.3b] [--ways WAY ...]
                      [--steps N] [--torch]

Trains a config of the repository on random bytes of its own texts: on one GPU, on as many at once each for itself, then on each number of ranks with everything on
each, with the optimizer's state sharded, with gradients too, with parameters too, with gradients in bf16 on their way, and by NCCL's kernels instead of copy engines; tokens/s are
medians of the last half of the steps. --torch also times torch_step.py on as many, under torchrun, with DistributedDataParallel and FSDP2. One table last; exit status 1 where a number of ranks has less than 95 % of
that many times one GPU's tokens/s.
"""
import argparse
import concurrent.futures
import itertools
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Sequences a GPU, their length, and the model's part of a config.
MODELS = {
    "gpt2-124m": (64, 1024, {"preset": "gpt2", "layers": 12, "channels": 768, "heads": 12, "vocab_size": 50304,
                             "max_sequence_length": 1024}),
    "gpt2-350m": (32, 1024, {"preset": "gpt2", "layers": 24, "channels": 1024, "heads": 16, "vocab_size": 50304,
                             "max_sequence_length": 1024}),
    "llama-1.3b": (8, 2048, {"preset": "llama", "layers": 24, "channels": 2048, "heads": 16, "hidden": 5504,
                             "vocab_size": 32000}),
}

RUNS = itertools.count()  # of this call: each has a folder of its own
# Settings of the config's `ranks`.
WAYS = {"none": {"shard": "none"}, "optimizer": {"shard": "optimizer"}, "gradients": {"shard": "gradients"}, "parameters": {"shard": "parameters"},
        "bf16": {"shard": "none", "reduce_dtype": "bf16"}, "optimizer-bf16": {"shard": "optimizer", "reduce_dtype": "bf16"},
        "parameters-bf16": {"shard": "parameters", "reduce_dtype": "bf16"},
        "optimizer-kernels": {"shard": "optimizer", "copy_engines": False}, "parameters-kernels": {"shard": "parameters", "copy_engines": False}}


def tokenize(program, folder):
    text = folder / "text.txt"
    text.write_text("".join((ROOT / name).read_text() for name in ("README.md", "configs/REFERENCE.md", "tests/bench/NOTES.md")))
    subprocess.run([program, "tokenize", str(text), "--tokenizer", "byte", "--output", str(folder / "data")], check=True,
                   stdout=subprocess.DEVNULL)


def train(program, folder, model, ranks, steps, gpu=None, **settings):
    """Tokens a second; settings of the config's `ranks`; on that GPU alone where one is given."""
    sequences, length, shape = MODELS[model]
    name = f"{model}-{next(RUNS)}"
    config = folder / f"{name}.json"
    config.write_text(json.dumps({
        "name": name, "output": str(folder / "runs"), "model": shape,
        "data": {"path": str(folder / "data"), "bos": "none"},
        "train": {"steps": steps, "micro_batch": sequences, "gradient_accumulation": ranks, "sequence_length": length,
                  "schedule": {"warmup_steps": steps // 2}},
        "ranks": settings,
        "evaluation": {"every": 0}, "probes": {"every": 0}, "checkpoint": {"every": 0}, "log": {"tensorboard": False},
    }))
    environment = os.environ if gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu)}
    log, errors = folder / "runs" / name / "metrics.jsonl", folder / f"{name}.errors"
    with errors.open("w") as stream:
        run = subprocess.Popen([program, "train", str(config), "--gpus", str(ranks)], stdout=subprocess.DEVNULL, stderr=stream,
                               start_new_session=True, env=environment)
    lines = []
    while len(lines) < steps - 1:  # the last step evaluates and saves, which is not waited for
        ended = run.poll() is not None
        lines = log.read_text().split("\n")[:-1] if log.exists() else []  # of the last one a part may be there
        if ended and len(lines) < steps - 1:
            sys.exit(f"ranks_speed.py: {ranks} of {model}, {settings}: ended with {run.returncode}:\n{errors.read_text()[-3000:]}")
        time.sleep(0.2)
    try:
        os.killpg(run.pid, signal.SIGKILL)
    except ProcessLookupError:  # all of them have ended
        pass
    run.wait()
    return statistics.median(json.loads(line)["tokens_per_second"] for line in lines[steps // 2 : steps - 1])


def apart(program, folder, model, ranks, steps):
    """Tokens a second of the slowest GPU, each training for itself at the same time: what communication can only take from."""
    with concurrent.futures.ThreadPoolExecutor(ranks) as pool:
        return min(pool.map(lambda gpu: train(program, folder, model, 1, steps, gpu=gpu), range(ranks)))


def torch_step(model, ranks, *more):
    words = [str(ROOT / "tests/bench/torch_step.py"), "--model", model, "--steps", "20", *more]
    launcher = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(launcher + words, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"ranks_speed.py: torch_step.py on {ranks} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])["tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", metavar="SINKSCOPE")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2])
    parser.add_argument("--model", choices=sorted(MODELS), default="gpt2-124m")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS), help="of sharding and summing, default all")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--torch", action="store_true")
    arguments = parser.parse_args()
    found = shutil.which(arguments.program)  # a path, or a name in PATH
    if found is None:
        parser.error(f"SINKSCOPE: there is no program {arguments.program}")
    program = str(pathlib.Path(found).resolve())
    rows, passed = [], True

    def row(name, ranks, rate, one):
        rows.append(f"{name:28s} {ranks:5d} {rate / 1e3:10.1f} k {100 * rate / ranks / one:7.1f} %")
        print(rows[-1], flush=True)

    with tempfile.TemporaryDirectory(prefix="ranks_speed.") as place:
        folder = pathlib.Path(place)
        tokenize(program, folder)
        one = train(program, folder, arguments.model, 1, arguments.steps)
        row("sinkscope", 1, one, one)
        for ranks in arguments.ranks:
            row("sinkscope, apart, the slowest", ranks, ranks * apart(program, folder, arguments.model, ranks, arguments.steps), one)
            for way in arguments.ways:
                rate = train(program, folder, arguments.model, ranks, arguments.steps, **WAYS[way])
                row(f"sinkscope, {way}", ranks, rate, one)
                passed = passed and rate >= 0.95 * ranks * one
        if arguments.torch:
            alone = torch_step(arguments.model, 1)
            row("torch.compile", 1, alone, alone)
            for ranks in arguments.ranks:
                row("torch.compile, DDP", ranks, torch_step(arguments.model, ranks), alone)
                row("torch.compile, FSDP2", ranks, torch_step(arguments.model, ranks, "--fsdp"), alone)
    print("\n" + "\n".join([f"{arguments.model:28s} {'GPUs':>5s} {'tokens/s':>12s} {'of N times one':>15s}", *rows]))
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
