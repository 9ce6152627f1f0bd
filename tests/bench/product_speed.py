#!/usr/bin/env python3
"""Our own matrix products with an activation beside cuBLASLt's product and the activation's own kernel, on this GPU.

usage: product_speed.py SINKSCOPE [--rounds N] [--json FILE]

`sinkscope bench --kernels` of one layer of each model's size, in turns with a record of algorithms that says "own-kernel" and with one
that says "apart"; medians over the rounds. The record is one in a folder of its own, whose other algorithms are timed once.
Needs a GPU of compute capability 9.0.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

MODELS = {
    "GPT-2 124M, 64 x 1024": {"model": {"preset": "gpt2", "channels": 768, "heads": 12}, "micro_batch": 64, "length": 1024},
    "GPT-2 350M, 32 x 1024": {"model": {"preset": "gpt2", "channels": 1024, "heads": 16}, "micro_batch": 32, "length": 1024},
    "Llama 1.3B, 8 x 2048": {"model": {"preset": "llama", "channels": 2048, "heads": 16, "hidden": 5504}, "micro_batch": 8, "length": 2048},
    "Llama, 768 channels, 64 x 1024": {"model": {"preset": "llama", "channels": 768, "heads": 12, "hidden": 2048}, "micro_batch": 64,
                                       "length": 1024},
}


def kernels(program, folder, name):
    """Milliseconds and FLOPs of each operation of one layer, by name."""
    of = MODELS[name]
    config, result = folder / "config.json", folder / "bench.json"
    config.write_text(json.dumps({
        "model": {**of["model"], "layers": 1, "vocab_size": 512, "max_sequence_length": of["length"]},
        "train": {"micro_batch": of["micro_batch"], "gradient_accumulation": 1, "sequence_length": of["length"]},
        "data": {"path": str(folder / "none")}, "device": "cuda",
    }))
    words = [program, "bench", str(config), "--steps", "0", "--kernels", "--json", str(result)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "SINKSCOPE_CACHE": str(folder / "cache")})
    if done.returncode != 0:
        sys.exit(f"product_speed.py: sinkscope bench ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return {row["name"]: (row["milliseconds"], row["flops"]) for row in json.loads(result.read_text())["kernels"]}


def choose(folder, word):
    """The word for every product that our own kernel takes; how many there are."""
    record = folder / "cache" / "products.json"
    words = json.loads(record.read_text())

    def change(node):
        count = 0
        for key, value in node.items():
            if isinstance(value, dict):
                count += change(value)
            elif "own kernel" in key:
                node[key], count = word, count + 1
        return count

    count = change(words)
    record.write_text(json.dumps(words))
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", metavar="SINKSCOPE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    found = shutil.which(arguments.program)  # a path, or a name in PATH
    if found is None:
        parser.error(f"SINKSCOPE: there is no program {arguments.program}")
    program = str(pathlib.Path(found).resolve())
    rows = []
    with tempfile.TemporaryDirectory(prefix="product_speed.") as place:
        folder = pathlib.Path(place)
        for model in MODELS:
            kernels(program, folder, model)  # fills the record
            times = {"own-kernel": [], "apart": []}
            for _ in range(arguments.rounds):
                for word, of in times.items():
                    if choose(folder, word) == 0:
                        sys.exit("product_speed.py: this GPU or this build has no matrix products of our own")
                    of.append(kernels(program, folder, model))
            for name in times["apart"][0]:
                if name.startswith("linear ") and ("gelu" in name or "swiglu" in name):
                    own, apart = (statistics.median(of[name][0] for of in times[word]) for word in ("own-kernel", "apart"))
                    rows.append({"model": model, "product": name, "own_ms": own, "apart_ms": apart, "flops": times["apart"][0][name][1]})
    print(f"{'model':32}{'product':46}{'apart ms':>9}{'own ms':>9}{'TFLOP/s':>9}{'faster':>8}")
    for row in rows:
        rate = row["flops"] / row["own_ms"] / 1e9
        print(f"{row['model']:32}{row['product']:46}{row['apart_ms']:9.3f}{row['own_ms']:9.3f}{rate:9.0f}{row['apart_ms'] / row['own_ms']:8.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
