#!/usr/bin/env python3
"""Our attention beside cuDNN's, forward with sink scores and backward, in the same minutes on the same GPU.

usage: attention_speed.py SINKSCOPE [--rounds N] [--tokens N] [--channels N] [--lengths T ...] [--json FILE]

For head dims 64 and 128 and each length: `sinkscope bench --kernels` of one layer of those channels and torch_attention.py's
measurement of cuDNN, in turns; TFLOP/s are medians over the rounds. One table last; exit status 1 where forward is below 0.95 of
cuDNN (1.05 at D 64, T 1024), backward below 0.9 of 0.95 (its dQ is added up in a fixed order, cuDNN's is not), or sink scores
take 1 % of the forward pass or more. Needs torch with a GPU.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import torch_attention


def ours(program, folder, tokens, channels, T, D):
    """TFLOP/s of forward with sink scores, without, and of backward."""
    config, result = folder / "config.json", folder / "bench.json"
    config.write_text(json.dumps({
        "model": {"preset": "gpt2", "layers": 1, "channels": channels, "heads": channels // D, "head_dim": D,
                  "vocab_size": 512, "max_sequence_length": T},
        "train": {"micro_batch": tokens // T, "gradient_accumulation": 1, "sequence_length": T},
        "data": {"path": str(folder / "none")}, "device": "cuda",
    }))
    words = [program, "bench", str(config), "--steps", "3", "--kernels", "--json", str(result)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"attention_speed.py: sinkscope bench ended with {done.returncode}:\n{done.stderr[-3000:]}")
    rates = {row["name"]: row["flops_per_second"] / 1e12 for row in json.loads(result.read_text())["kernels"]
             if row["name"].startswith("attention ")}
    watched = next(rate for name, rate in rates.items() if name.startswith("attention forward, sink scores"))
    return watched, rates["attention forward, no sink scores"], rates["attention backward"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", metavar="SINKSCOPE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(torch_attention.LENGTHS))
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    found = shutil.which(arguments.program)  # a path, or a name in PATH
    if found is None:
        parser.error(f"SINKSCOPE: there is no program {arguments.program}")
    program = str(pathlib.Path(found).resolve())
    lines, rows, passed = [], [], True
    with tempfile.TemporaryDirectory(prefix="attention_speed.") as place:
        for D in (64, 128):
            for T in arguments.lengths:
                mine, peer = [], []
                for _ in range(arguments.rounds):
                    mine.append(ours(program, pathlib.Path(place), arguments.tokens, arguments.channels, T, D))
                    peer.append(torch_attention.measure("cudnn", arguments.tokens // T, arguments.channels // D, T, D))
                watched, bare, backward = (statistics.median(rates) for rates in zip(*mine))
                cost = statistics.median(without / with_scores - 1 for with_scores, without, _ in mine)
                forward_peer, backward_peer = (statistics.median(rates) for rates in zip(*peer))
                goal = 1.05 if (D, T) == (64, 1024) else 0.95
                held = watched >= goal * forward_peer and backward >= 0.9 * 0.95 * backward_peer and cost < 0.01
                passed = passed and held
                rows.append({"head_dim": D, "length": T, "forward": watched, "forward_without_scores": bare,
                             "backward": backward, "cudnn_forward": forward_peer, "cudnn_backward": backward_peer,
                             "scores_cost": cost})
                lines.append(f"{D:3} {T:6} {watched:8.0f} {forward_peer:6.0f} {watched / forward_peer:6.2f} {100 * cost:8.2f} "
                             f"{backward:9.0f} {backward_peer:6.0f} {backward / backward_peer:6.2f}{'' if held else '  missed'}")
                print(lines[-1], flush=True)
    print("\n" + "\n".join([f"{'D':>3} {'T':>6} {'forward':>8} {'cuDNN':>6} {'ratio':>6} {'scores %':>8} {'backward':>9} {'cuDNN':>6} "
                            f"{'ratio':>6}   TFLOP/s", *lines]))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows) + "\n")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
