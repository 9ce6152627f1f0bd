#!/usr/bin/env python3
"""A paper study: memory, step time and efficiency of data parallelism on many GPUs, from what one, two and four were measured at.

usage: predict_ranks.py [--mfu SHARE] [--bus GB/s] [--network GB/s] [--hidden SHARE] [--wire BYTES]
                        [--tokens N] [--memory GB]

Per GPU, with P parameters of which A multiply a token, n tokens a step and N GPUs, 8 a node:
  compute   c = 6 A n / (MFU * 989.4e12)               a third of it forward, two thirds backward
  bus       b = NVLink's rate within a node; between nodes the least of that and the node's network, 8 links of its GPUs
  sums      s = 2 (N - 1) / N * w P / b                of gradients of w = 4 bytes, 2 in bf16; half of it where anything is sharded
  sharing   g = (N - 1) / N * 2 P / b                  of new bf16 parameters, where the optimizer or gradients are sharded
  fetching  f = (N - 1) / N * (2 + 2 + w) P / b        of sharded bf16 parameters, forward and backward, and of gradients to their owners
  step      = c + s + g, with sharded parameters c + f, less what runs behind passes: a share as measured, or all that fits (s behind
              backward, g behind forward, f behind both); a node alone by copy engines, several by NCCL's kernels
Bytes a parameter: 2 bf16 weights, 4 gradient, 12 master weight and moments; ZeRO-1 shards the 12, ZeRO-2 the 16, ZeRO-3 all 18;
a rank keeps its share of gradients and weights also where it has all of them.
"""
import argparse

MODELS = [("1B", 1.2e9, 1.2e9), ("7B", 6.7e9, 6.7e9), ("30B-A3B", 30.5e9, 3.3e9)]
BYTES = {"whole": (18, 0), "ZeRO-1": (6, 18), "ZeRO-2": (2, 18), "ZeRO-3": (0, 18)}  # on each GPU, divided by their number
BUCKET = 32e6
# Of all that travels; Llama 1.3B on four H200s beside the slowest of them alone, NOTES.md.
HIDDEN = {"whole": 0.0, "ZeRO-1": 0.68, "ZeRO-2": 0.62, "ZeRO-3": 0.60}
HIDDEN_BY_KERNELS = {"whole": 0.0, "ZeRO-1": 0.0, "ZeRO-2": 0.07, "ZeRO-3": 0.26}


def step(parameters, active, gpus, sharding, a):
    """Seconds of compute, and of a step as sums are hidden today and as they could be."""
    compute = 6 * active * a.tokens / (a.mfu * 989.4e12)
    bus = 1e9 * (a.bus if gpus <= 8 else min(a.bus, 8 * a.network))
    share = (gpus - 1) / gpus
    hidden = (HIDDEN if gpus <= 8 else HIDDEN_BY_KERNELS)[sharding] if a.hidden is None else a.hidden
    if sharding == "ZeRO-3":
        fetching = share * (4 + a.wire) * parameters / bus
        return compute, compute + (1 - hidden) * fetching, max(compute, fetching)
    sums = (2 if sharding == "whole" else 1) * share * a.wire * parameters / bus
    sharing = 0 if sharding == "whole" else share * 2 * parameters / bus
    last = 2 * share * BUCKET / bus
    behind = 0 if sharding == "whole" else max(sharing - 1 / 3 * compute, last / 2)
    return compute, compute + (1 - hidden) * (sums + sharing), compute + max(sums - 2 / 3 * compute, last) + behind


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mfu", type=float, default=0.55, help="of one GPU by the datasheet's 989.4 TFLOP/s")
    parser.add_argument("--bus", type=float, default=295, help="GB/s of sums within a node (measured between two H200s)")
    parser.add_argument("--network", type=float, default=45, help="GB/s of the link of each GPU between nodes")
    parser.add_argument("--hidden", type=float, help="share of what travels behind other kernels; as measured on four H200s if not given")
    parser.add_argument("--wire", type=int, choices=(2, 4), default=4, help="bytes of a gradient on its way")
    parser.add_argument("--tokens", type=int, default=16384, help="a step and GPU")
    parser.add_argument("--memory", type=float, default=140, help="GB of a GPU")
    a = parser.parse_args()
    print(f"{'model':8s} {'GPUs':>5s} {'sharding':>9s} {'GB/GPU':>8s} {'ms/step':>8s} {'efficiency':>10s} {'all hidden':>10s}")
    for name, parameters, active in MODELS:
        for gpus in (8, 64, 512):
            for sharding, (fixed, divided) in BYTES.items():
                memory = parameters * (fixed + divided / gpus) / 1e9
                compute, today, could = step(parameters, active, gpus, sharding, a)
                fits = "" if memory < 0.8 * a.memory else "  does not fit"
                print(f"{name:8s} {gpus:5d} {sharding:>9s} {memory:8.1f} {1e3 * today:8.0f} {100 * compute / today:9.1f} % {100 * compute / could:8.1f} %{fits}")


if __name__ == "__main__":
    main()
