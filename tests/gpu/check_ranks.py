#!/usr/bin/env python3
"""Training on several GPUs of this machine against training on one.

usage: check_ranks.py SINKSCOPE [--ranks N ...] [--launcher COMMAND] [--steps N] [--speed] [--output DIR]

Trains one small model with the same config on one GPU and on each number of ranks and checks: what the logs have of
every step is the same but for rounding; a second run on as many ranks is the same to the bit, checkpoint and all;
sharding the optimizer's state changes no bit; a checkpoint of several ranks is continued on one and one of one on
several; a rank that is killed ends all ranks with its name told, and the run resumes. With --speed then GPT-2 124M at 64 x 1024 tokens a GPU,
sharded and not: tokens/s and how much of N times that of one GPU it is. `--launcher "mpirun -n {ranks}"` starts the ranks by
a command instead of by `--gpus N`, as on CPUs. One table last; exit status 1 when a line of it failed. Needs a text to train on: that is
the repository's own.
"""
import argparse
import hashlib
import json
import os
import pathlib
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMES = {"step_seconds", "tokens_per_second", "mfu", "time", "wall_time"}

rows = []


def row(name, passed, told):
    rows.append((name, passed, told))
    print(f"[{time.monotonic() - begun:4.0f} s] {name}: {'ok' if passed else 'FAIL'} ({told})", flush=True)


class Place:
    """A folder of runs, and how ranks are started."""

    def __init__(self, program, folder, launcher, precision):
        self.program, self.folder, self.launcher, self.precision = program, folder, launcher, precision
        texts = [str(ROOT / name) for name in ("README.md", "configs/REFERENCE.md", "tests/bench/NOTES.md")]
        self.sinkscope(["tokenize", *texts, "--tokenizer", "byte", "--validation-fraction", "0.1", "--output", str(folder / "data")])

    def sinkscope(self, arguments):
        subprocess.run([self.program, *arguments], check=True, stdout=subprocess.DEVNULL)

    def config(self, name, **sections):
        config = {
            "name": name,
            "output": str(self.folder / "runs"),
            "precision": self.precision,
            "model": {"preset": "llama", "layers": 3, "channels": 128, "heads": 2, "hidden": 384},
            "data": {"path": str(self.folder / "data"), "bos": "none"},
            "train": {"steps": 100, "micro_batch": 8, "gradient_accumulation": 2, "sequence_length": 128,
                      "optimizer": {"learning_rate": 2e-3}, "schedule": {"type": "cosine", "warmup_steps": 10}},
            "evaluation": {"every": 50, "batches": 4},
            "probes": {"every": 50, "sequences": 8},
            "checkpoint": {"every": 50},
            "sample": {"every": 0},
            "log": {"tensorboard": False},
        }
        for section, values in sections.items():
            config[section] = {**config.get(section, {}), **values} if isinstance(values, dict) else values
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(config))
        return path

    def command(self, ranks, config, *more):
        words = [self.program, "train", str(config), *more]
        if self.launcher and ranks > 1:
            return shlex.split(self.launcher.format(ranks=ranks)) + words
        return words if self.launcher else words + ["--gpus", str(ranks)]

    def train(self, ranks, config, *more):
        begin = time.monotonic()
        done = subprocess.run(self.command(ranks, config, *more), capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(self.command(ranks, config, *more))}\nended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return self.folder / "runs" / json.loads(config.read_text())["name"], time.monotonic() - begin


def records(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def numbers(value):
    """Every number of a record, in its order."""
    if isinstance(value, dict):
        for key in value:
            yield from numbers(value[key])
    elif isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def difference(run, other):
    """The largest relative difference of any number of any step, and the largest of the losses."""
    a, b = records(run), records(other)
    if len(a) != len(b):
        return float("inf"), float("inf")
    every = max(abs(x - y) / max(abs(x), abs(y), 1e-3) for x, y in zip(numbers(a), numbers(b)))
    return every, max(abs(x["loss"] - y["loss"]) for x, y in zip(a, b))


def digest(run):
    """Of all that is promised to be the same to the bit."""
    sha = hashlib.sha256(json.dumps(records(run)).encode())
    for path in sorted((run / "checkpoints").glob("*/*.safetensors")):
        sha.update(path.parent.name.encode() + path.read_bytes())
    return sha.hexdigest()


def check_same(place, ranks, one, tolerance):
    run, seconds = place.train(ranks, place.config(f"of-{ranks}"))
    every, loss = difference(run, one)
    steps = len(records(run))
    row(f"{ranks} ranks", every < tolerance and loss > 0, f"{steps} steps against one: losses within {loss:.1e}, every number within {every:.1e}; {seconds:.0f} s")
    again, _ = place.train(ranks, place.config(f"of-{ranks}-again"))
    row(f"{ranks} again", digest(again) == digest(run), "logs and checkpoints to the bit")
    sharded, _ = place.train(ranks, place.config(f"of-{ranks}-sharded", ranks={"shard_optimizer": True}))
    row(f"{ranks} sharded", digest(sharded) == digest(run), "ranks.shard_optimizer: logs and checkpoints to the bit")


def check_resumed(place, first, second, one, tolerance):
    """The first half on `first` ranks, the second on `second`."""
    name = f"from-{first}-to-{second}"
    config = place.config(name)
    running = subprocess.Popen(place.command(first, config), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = place.folder / "runs" / name
    wait_for(lambda: (run / "checkpoints" / "step_00000050").exists() or running.poll() is not None, 120)
    for process in ranks_of(running, first):
        os.kill(process, signal.SIGUSR1)
        break
    running.communicate(timeout=120)
    stopped = sorted((run / "checkpoints").iterdir())[-1].name
    place.train(second, config, "--resume")
    every, loss = difference(run, one)
    row(f"{first} then {second}", every < tolerance, f"stopped at {stopped}, resumed; losses within {loss:.1e}, every number within {every:.1e}")


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("check_ranks.py: waited for too long")
        time.sleep(0.05)


def ranks_of(process, count):
    """The processes of the ranks, from rank 0 on; the process itself where it is the only one."""
    if count == 1:
        return [process.pid]
    found = {}
    def look():
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                variables = dict(entry.split("=", 1) for entry in (path / "environ").read_text(errors="replace").split("\0") if "=" in entry)
                words = (path / "cmdline").read_text().split("\0")
                parent = int(re.search(r"^PPid:\s*(\d+)", (path / "status").read_text(), re.M)[1])
            except OSError:
                continue
            rank = variables.get("RANK", variables.get("OMPI_COMM_WORLD_RANK"))
            if rank is not None and parent == process.pid and "train" in words:
                found[int(rank)] = int(path.name)
        return len(found) == count or process.poll() is not None
    wait_for(look, 60)
    return [found[rank] for rank in sorted(found)]


def check_killed(place, ranks):
    config = place.config(f"killed-{ranks}", train={"steps": 100000}, checkpoint={"every": 20}, probes={"every": 1000}, evaluation={"every": 1000})
    run = place.folder / "runs" / f"killed-{ranks}"
    running = subprocess.Popen(place.command(ranks, config), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: list((run / "checkpoints").glob("step_*")) or running.poll() is not None, 180)
    last = ranks_of(running, ranks)[-1]
    os.kill(last, signal.SIGKILL)
    begin = time.monotonic()
    try:
        told, _ = running.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        running.kill()
        told, _ = running.communicate()
        row(f"{ranks} one killed", False, "the others went on waiting")
        return
    seconds = time.monotonic() - begin
    named = re.search(rf"rank {ranks - 1} on \S+ \(process {last}, its last step was \d+\)", told)
    row(f"{ranks} one killed", running.returncode != 0 and named is not None, f"all ended after {seconds:.1f} s, status {running.returncode}: {named[0] if named else told[-300:]!r}")
    reached = int(sorted((run / "checkpoints").glob("step_*"))[-1].name[5:])
    text = json.loads(config.read_text())
    text["train"]["steps"] = reached + 20
    config.write_text(json.dumps(text))
    place.train(ranks, config, "--resume")
    row(f"{ranks} resumed", records(run)[-1]["step"] == reached + 20, f"from step {reached} to {records(run)[-1]['step']}")


def speed(place, ranks, **settings):
    """Tokens a second of GPT-2 124M at 64 x 1024 tokens a GPU, median of the last steps."""
    name = f"gpt2-{ranks}" + "".join(f"-{key}" for key in settings)
    config = place.config(name, precision="bf16",
                          model={"preset": "gpt2", "layers": 12, "channels": 768, "heads": 12, "hidden": 3072, "vocab_size": 50304, "max_sequence_length": 1024},
                          train={"steps": 40, "micro_batch": 64, "gradient_accumulation": ranks, "sequence_length": 1024},
                          evaluation={"every": 0}, probes={"every": 0}, checkpoint={"every": 0}, ranks=settings)
    run, _ = place.train(ranks, config)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(step["tokens_per_second"] for step in steps[-20:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", metavar="SINKSCOPE")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2])
    parser.add_argument("--launcher", help='a command that starts {ranks} ranks, such as "mpirun -n {ranks}"')
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--output", type=pathlib.Path)
    arguments = parser.parse_args()
    folder = arguments.output or pathlib.Path(tempfile.mkdtemp(prefix="check_ranks."))
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(str(pathlib.Path(arguments.program).resolve()), folder, arguments.launcher, arguments.precision)
    # In bf16 other sums of gradients round weights differently, and runs part.
    tolerance = 5e-4 if arguments.precision == "fp32" else 5e-2
    one, seconds = place.train(1, place.config("of-1"))
    row("1 rank", len(records(one)) == 100, f"100 steps in {seconds:.0f} s")
    for ranks in arguments.ranks:
        check_same(place, ranks, one, tolerance)
    most = max(arguments.ranks)
    if arguments.speed:
        alone = speed(place, 1)
        row("speed 1", True, f"GPT-2 124M, 64 x 1024 a GPU: {alone / 1e3:.0f} k tokens/s")
        for ranks in arguments.ranks:
            for settings in ({}, {"shard_optimizer": True}):
                together = speed(place, ranks, **settings)
                row(f"speed {ranks}", together >= 0.95 * ranks * alone, f"{', '.join(settings) or 'whole optimizer'}: {together / 1e3:.0f} k tokens/s, {100 * together / ranks / alone:.1f} % of {ranks} times one")
    check_killed(place, most)
    check_resumed(place, most, 1, one, tolerance)
    check_resumed(place, 1, most, one, tolerance)
    print()
    for name, passed, told in rows:
        print(f"{name:16s} {'ok' if passed else 'FAIL':5s} {told}")
    sys.exit(0 if all(passed for _, passed, _ in rows) else 1)


begun = time.monotonic()
if __name__ == "__main__":
    main()
