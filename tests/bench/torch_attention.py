#!/usr/bin/env python3
"""PyTorch's causal attention, forward and backward, in TFLOP/s: what our attention kernels must beat.

usage: torch_attention.py [--shapes B,H,T,D ...] [--backends cudnn flash] [--errors] [--json]

bf16, random data, queries, keys and values as (B, T, H, D) in one array, as a model has them. FLOPs:
forward 2 B H T^2 D (causal half), backward 2.5 times that. Medians by CUDA events. With --errors not times but
relative errors against float64, ||x - ref|| / ||ref||, of small shapes. Needs torch with a GPU.
"""
import argparse
import json
import statistics
import sys

try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    sys.exit(f"torch_attention.py: needs the package torch, 2.5 or later: {error}")

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
# GPT-2 124M's, then 16384 tokens of 2048 channels from 1k to 16k, head dims 64 and 128.
LENGTHS = (1024, 2048, 4096, 8192, 16384)
SHAPES = [(64, 12, 1024, 64)] + [(16384 // t, 2048 // d, t, d) for d in (64, 128) for t in LENGTHS]


def median_ms(work, windows=7, window_ms=20.0):
    def timed(count):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(count):
            work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / count

    timed(2)
    count = max(1, min(100, int(window_ms / max(timed(1), 1e-3))))
    return statistics.median(timed(count) for _ in range(windows))


def measure(backend, B, H, T, D):
    """TFLOP/s of forward and of backward."""
    qkv = torch.randn(B, T, 3 * H, D, device="cuda", dtype=torch.bfloat16)
    q, k, v = (part.transpose(1, 2).detach().requires_grad_() for part in qkv.split(H, dim=2))
    flops = 2.0 * B * H * T * T * D
    with sdpa_kernel(BACKENDS[backend]):
        with torch.no_grad():
            forward = median_ms(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        dout = torch.randn(B, T, H, D, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        backward = median_ms(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))
    return flops / forward / 1e9, 2.5 * flops / backward / 1e9


def errors(backend, B, H, T, D):
    """Relative errors of the output and of the gradients of queries, keys and values."""
    q, k, v = (torch.randn(B, H, T, D, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(3))
    dout = torch.randn_like(q)
    with sdpa_kernel(BACKENDS[backend]):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        results = out, *torch.autograd.grad(out, (q, k, v), dout)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    scores = exact[0] @ exact[1].transpose(-1, -2) / D**0.5
    mask = torch.ones(T, T, dtype=torch.bool, device="cuda").triu(1)
    reference = scores.masked_fill(mask, -torch.inf).softmax(-1) @ exact[2]
    expected = reference, *torch.autograd.grad(reference, exact, dout.double())
    return [float((x.double() - y).norm() / y.norm()) for x, y in zip(results, expected)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", metavar="B,H,T,D",
                        help="default: GPT-2 124M's, and 1k to 16k for D 64 and 128")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--errors", action="store_true", help="relative errors against float64 of small shapes")
    parser.add_argument("--json", action="store_true", help="one JSON line after the table")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch_attention.py: torch sees no GPU")
    if arguments.errors:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, ||x - ref|| / ||ref|| of out, dq, dk, dv")
        for D in (64, 128):
            for backend in arguments.backends:
                figures = " ".join(f"{error:9.2e}" for error in errors(backend, 2, 4, 1000, D))
                print(f"{backend:>6}  B 2, H 4, T 1000, D {D:3}  {figures}")
        return
    shapes = [tuple(int(n) for n in text.split(",")) for text in arguments.shapes] if arguments.shapes else SHAPES
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, TFLOP/s forward / backward")
    print(f"{'B':>4} {'H':>4} {'T':>6} {'D':>4}" + "".join(f" {name:>15}" for name in arguments.backends))
    rows = []
    for B, H, T, D in shapes:
        line = f"{B:4} {H:4} {T:6} {D:4}"
        for backend in arguments.backends:
            try:
                forward, backward = measure(backend, B, H, T, D)
                line += f" {forward:7.1f}/{backward:7.1f}"
                rows.append({"backend": backend, "shape": [B, H, T, D], "forward": forward, "backward": backward})
            except RuntimeError as error:
                line += f" {'-':>15}"
                print(f"torch_attention.py: {backend}: {str(error).splitlines()[0]}", file=sys.stderr)
        print(line, flush=True)
    if arguments.json:
        print(json.dumps({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "teraflops": rows}))


if __name__ == "__main__":
    main()
