#!/usr/bin/env python3
"""Where a training step's time goes on the GPU, kernel by kernel: gaps, and communication beside computation.

usage: timeline.py SINKSCOPE [--ranks N] [--model gpt2-124m|gpt2-350m|llama-1.3b] [--layers L] [--steps N] [--set KEY=VALUE ...]
                   [--kernels N] [--library FILE]

Trains a config as ranks_speed.py does, with kernel_trace.cpp (built by g++ against CUDA's CUPTI, or given as a library) in every
process. Of the middle step of the last half it tells for each rank: the time, the share in which nothing runs, what communication takes and how much of
that runs beside other kernels, and by how much those are slower there. Tracing adds some microseconds a kernel.
"""
import argparse
import collections
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

from ranks_speed import MODELS, tokenize

HERE = pathlib.Path(__file__).resolve().parent
CUDA = pathlib.Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))


def build(folder):
    library = folder / "kernel_trace.so"
    lib = next((CUDA / name for name in ("lib64", "lib", "extras/CUPTI/lib64") if (CUDA / name / "libcupti.so").exists()), CUDA / "lib64")
    done = subprocess.run(["g++", "-shared", "-fPIC", "-O2", f"-I{CUDA}/include", f"-I{CUDA}/extras/CUPTI/include", "-o", str(library),
                           str(HERE / "kernel_trace.cpp"), f"-L{lib}", "-lcupti", f"-Wl,-rpath,{lib}"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"timeline.py: kernel_trace.cpp does not build against CUPTI:\n{done.stderr[-2000:]}")
    return library


def union(spans):
    """Sorted spans that do not touch."""
    joined = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return joined


def length(spans):
    return sum(end - start for start, end in spans)


def common(a, b):
    """What two unions share."""
    total, i, j = 0, 0, 0
    while i < len(a) and j < len(b):
        total += max(0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return total


def short(name):
    name = name.replace("(anonymous namespace)::", "").split("(")[0].replace("void ", "").replace("sinkscope::", "").replace("cuda::", "")
    return name[:70]


def report(rank, rows, kernels):
    rows.sort()
    ends = sorted(end for _, end, _, _, name in rows if "adamw" in name)
    # One update may be several kernels: steps end where the next one is far.
    ends = [a for a, b in zip(ends, ends[1:] + [ends[-1] + 10**12]) if b - a > 5e6]
    steps = list(zip(ends, ends[1:]))[len(ends) // 2 :]
    if not steps:
        sys.exit("timeline.py: the trace has no two steps; expected more --steps")
    begin, finish = sorted(steps, key=lambda step: step[1] - step[0])[len(steps) // 2]
    step = [row for row in rows if begin <= row[0] < finish]
    is_sum = lambda name: name.startswith("nccl")
    sums = union((s, e) for s, e, _, _, name in step if is_sum(name))
    others = union((s, e) for s, e, _, _, name in step if not is_sum(name))
    whole = finish - begin
    idle = whole - length(union([tuple(x) for x in sums + others]))
    beside = common(sums, others)
    print(f"rank {rank}: step {whole / 1e6:.2f} ms, nothing runs {100 * idle / whole:.2f} %; communication {length(sums) / 1e6:.2f} ms, "
          f"{100 * beside / max(1, length(sums)):.0f} % of it beside other kernels, which take {length(others) / 1e6:.2f} ms")
    if kernels == 0:
        return
    # Over all steps of the last half: a kernel beside communication for most of its time, against the same one without.
    last = [row for row in rows if row[0] >= steps[0][0]]
    apart = union((s, e) for s, e, _, _, name in last if is_sum(name))
    times = collections.defaultdict(lambda: ([], []))
    for s, e, _, blocks, name in last:
        if not is_sum(name):
            times[short(name), blocks][common([[s, e]], apart) > 0.5 * (e - s)].append((e - s) / 1e3)
    table = sorted(times.items(), key=lambda item: -sum(map(sum, item[1])))[:kernels]
    print(f"  {'kernel':70s} {'blocks':>7s} {'a step':>7s} {'us alone':>9s} {'us beside':>10s} {'share beside':>13s}")
    for (name, blocks), (alone, with_sums) in table:
        middle = lambda values: f"{statistics.median(values):.1f}" if values else "-"
        count = len(alone) + len(with_sums)
        print(f"  {name:70s} {blocks:7d} {count / len(steps):7.1f} {middle(alone):>9s} {middle(with_sums):>10s} {100 * len(with_sums) / count:11.0f} %")
    names = collections.Counter()
    for s, e, _, blocks, name in step:
        if is_sum(name):
            names[name.split("(")[0], blocks] += (e - s) / 1e6
    for (name, blocks), milliseconds in names.most_common(6):
        print(f"  {name:70s} {blocks:7d} blocks, {milliseconds:.2f} ms in all")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", metavar="SINKSCOPE")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--model", choices=sorted(MODELS), default="gpt2-124m")
    parser.add_argument("--layers", type=int, help="instead of the model's")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--kernels", type=int, default=20, help="rows of the table of rank 0, default 20")
    parser.add_argument("--library", help="kernel_trace.cpp, built")
    arguments = parser.parse_args()
    found = shutil.which(arguments.program)  # a path, or a name in PATH
    if found is None:
        parser.error(f"SINKSCOPE: there is no program {arguments.program}")
    program = str(pathlib.Path(found).resolve())
    sequences, tokens, shape = MODELS[arguments.model]
    if arguments.layers:
        shape = {**shape, "layers": arguments.layers}
    with tempfile.TemporaryDirectory(prefix="timeline.") as place:
        folder = pathlib.Path(place)
        library = pathlib.Path(arguments.library).resolve() if arguments.library else build(folder)
        tokenize(program, folder)
        config = folder / "config.json"
        config.write_text(json.dumps({
            "name": "run", "output": str(folder / "runs"), "model": shape, "data": {"path": str(folder / "data"), "bos": "none"},
            "train": {"steps": arguments.steps, "micro_batch": sequences, "gradient_accumulation": arguments.ranks, "sequence_length": tokens,
                      "schedule": {"warmup_steps": 1}},
            "evaluation": {"every": 0}, "probes": {"every": 0}, "checkpoint": {"every": 0}, "log": {"tensorboard": False},
        }))
        words = [program, "train", str(config), "--gpus", str(arguments.ranks)]
        for item in arguments.set:
            words += ["--set", item]
        environment = {**os.environ, "CUDA_INJECTION64_PATH": str(library), "KERNEL_TRACE": str(folder / "trace")}
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            sys.exit(f"timeline.py: training ended with {done.returncode}:\n{done.stderr[-3000:]}")
        for rank in range(arguments.ranks):
            rows = []
            for trace in folder.glob(f"trace.{rank}.*.tsv"):
                for line in trace.read_text().splitlines():
                    start, end, stream, blocks, _, name = line.split("\t", 5)
                    rows.append((int(start), int(end), int(stream), int(blocks), name))
            if not any("adamw" in row[4] for row in rows):
                sys.exit(f"timeline.py: the trace of rank {rank} holds no step; is {library} built against this driver's CUPTI?")
            report(rank, rows, arguments.kernels if rank == 0 else 0)


if __name__ == "__main__":
    main()
