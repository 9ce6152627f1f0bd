#!/usr/bin/env python3
"""The opponent: one training step of the same model in PyTorch, as fast as its users get it.

usage: torch_step.py [--model NAME] [--batch B] [--length T] [--steps N] [--attention cudnn|flash|efficient] [--fsdp]
       torchrun --nproc-per-node N torch_step.py ...

fp32 parameters and fused AdamW under bf16 autocast with a bf16 residual stream, torch.compile, fused
attention, clipping by the global norm; random tokens, one batch for all steps. Prints one JSON line:
milliseconds a step (median by CUDA events), tokens/s, MFU, peak memory. Where the batch does not fit, it
is split into micro-batches whose gradients accumulate; where the wanted attention does not run, the next
one of the list is taken: the line says both. Under torchrun each process has a GPU and a batch of its own, DistributedDataParallel
sums the gradients, or with --fsdp each block and the rest is a module of fully_shard (FSDP2) with bf16 parameters and fp32 sums, and rank 0 prints the line, whose tokens/s are those of all. FLOPs are counted as `sinkscope bench` counts them. Needs
torch with a GPU; about a minute, most of it compilation.
"""
import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass

try:
    import torch
    import torch.nn.functional as F
    from torch import distributed, nn
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.parallel import DistributedDataParallel
except ImportError as error:
    sys.exit(f"torch_step.py: needs the package torch, 2.5 or later: {error}")


@dataclass
class Shape:
    layers: int
    channels: int
    heads: int
    hidden: int
    vocabulary: int
    batch: int
    length: int
    kv_heads: int = 0  # 0: as many as heads
    head_dim: int = 0  # 0: channels / heads
    gpt2: bool = False  # LayerNorm, learned positions, GELU and biases; else RMSNorm, rotary, SwiGLU
    tied: bool = False
    qk_norm: bool = False

    def __post_init__(self):
        self.kv_heads = self.kv_heads or self.heads
        self.head_dim = self.head_dim or self.channels // self.heads


MODELS = {
    # configs/gpt2-124m.json
    "gpt2-124m": Shape(12, 768, 12, 3072, 50304, batch=64, length=1024, gpt2=True, tied=True),
    "gpt2-350m": Shape(24, 1024, 16, 4096, 50304, batch=32, length=1024, gpt2=True, tied=True),
    "llama-162m": Shape(12, 768, 12, 2048, 50304, batch=64, length=1024),
    # configs/llama-1.3b.json, and the shape that is measured beside it elsewhere
    "llama-1.3b": Shape(24, 2048, 16, 5504, 32000, batch=8, length=2048),
    "llama-22x2048": Shape(22, 2048, 16, 5632, 50304, batch=8, length=2048),
    # configs/qwen3-0.6b.json
    "qwen3-0.6b": Shape(28, 1024, 16, 3072, 151936, batch=8, length=2048, kv_heads=8, head_dim=128, tied=True,
                        qk_norm=True),
}

# Dense bf16 peak, TFLOP/s, by the driver's name of the GPU; the engine's table is engine/metrics/gpu_peak.cpp.
PEAKS = {
    "NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H200": 989.4, "NVIDIA H100 PCIe": 756.0,
    "NVIDIA A100-SXM4-40GB": 312.0, "NVIDIA A100-SXM4-80GB": 312.0, "NVIDIA A100 80GB PCIe": 312.0,
}

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


class Norm(nn.Module):
    def __init__(self, shape, width=None):
        super().__init__()
        self.width = width or shape.channels
        self.weight = nn.Parameter(torch.ones(self.width))
        self.bias = nn.Parameter(torch.zeros(self.width)) if shape.gpt2 else None

    def forward(self, x):
        if self.bias is not None:
            return F.layer_norm(x, (self.width,), self.weight, self.bias, 1e-5)
        return F.rms_norm(x, (self.width,), self.weight, 1e-5)


def rotate(x, cosine, sine):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1).to(torch.bfloat16)


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        C, D, H, G = shape.channels, shape.head_dim, shape.heads, shape.kv_heads
        bias = shape.gpt2
        self.norm1, self.norm2 = Norm(shape), Norm(shape)
        self.qkv = nn.Linear(C, (H + 2 * G) * D, bias=bias)
        self.output = nn.Linear(H * D, C, bias=bias)
        self.up = nn.Linear(C, shape.hidden if shape.gpt2 else 2 * shape.hidden, bias=bias)
        self.down = nn.Linear(shape.hidden, C, bias=bias)
        if shape.qk_norm:
            self.q_norm, self.k_norm = Norm(shape, D), Norm(shape, D)

    def forward(self, x, rotary):
        s = self.shape
        B, T, _ = x.shape
        H, G, D = s.heads, s.kv_heads, s.head_dim
        q, k, v = self.qkv(self.norm1(x)).view(B, T, H + 2 * G, D).transpose(1, 2).split((H, G, G), dim=1)
        if s.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=G != H)
        x = x + self.output(a.transpose(1, 2).reshape(B, T, H * D))
        h = self.up(self.norm2(x))
        if s.gpt2:
            h = F.gelu(h, approximate="tanh")
        else:
            gate, up = h.chunk(2, dim=-1)
            h = F.silu(gate) * up
        return x + self.down(h)


class Decoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.channels)
        self.positions = nn.Embedding(shape.length, shape.channels) if shape.gpt2 else None
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape)
        self.head = nn.Linear(shape.channels, shape.vocabulary, bias=False)
        if shape.tied:
            self.head.weight = self.tokens.weight
        if not shape.gpt2:
            half = shape.head_dim // 2
            angles = torch.outer(torch.arange(shape.length), 10000.0 ** (-torch.arange(half) / half))
            self.register_buffer("cosine", angles.cos(), persistent=False)
            self.register_buffer("sine", angles.sin(), persistent=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, tokens, targets):
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.shape[1]]
        x = x.to(torch.bfloat16)  # the residual stream, as the engine keeps it
        rotary = None if self.shape.gpt2 else (self.cosine, self.sine)
        for block in self.blocks:
            x = block(x, rotary)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def flops_per_token(s, length):
    """6 N_matmul + 6 L H D T: the head once, causal attention at half."""
    attention = s.channels * (2 * s.heads + 2 * s.kv_heads) * s.head_dim
    mlp = (2 if s.gpt2 else 3) * s.channels * s.hidden
    return 6 * (s.layers * (attention + mlp) + s.vocabulary * s.channels) + 6 * s.layers * s.heads * s.head_dim * length


def working_attention(wanted, shape):
    """The first backend, from `wanted` on, that does forward and backward of this shape."""
    names = [wanted] + [name for name in BACKENDS if name != wanted]
    for name in names:
        try:
            q = torch.randn(1, shape.heads, 128, shape.head_dim, device="cuda", dtype=torch.bfloat16).requires_grad_()
            k = torch.randn(1, shape.kv_heads, 128, shape.head_dim, device="cuda", dtype=torch.bfloat16)
            grouped = shape.kv_heads != shape.heads
            with sdpa_kernel(BACKENDS[name]):
                F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=grouped).sum().backward()
            torch.cuda.synchronize()
            return name
        except RuntimeError as error:
            print(f"torch_step.py: {name} attention does not run: {str(error).splitlines()[0]}", file=sys.stderr)
    raise SystemExit("torch_step.py: no fused attention runs on this GPU")


def random_tokens(shape, count):
    """Log-uniform, about as often as Zipf's law has the words of a text; `sinkscope bench` draws them alike."""
    rank = torch.exp(torch.rand(count, device="cuda") * math.log(shape.vocabulary + 1)).long()
    return rank.clamp(1, shape.vocabulary) - 1


def run(shape, batch, length, steps, micro, fsdp):
    """Seconds of each step, and how long compilation took, with micro-batches of `micro` sequences."""
    torch.manual_seed(1)
    model = Decoder(shape).cuda()
    if fsdp:  # before the optimizer takes the parameters, which are shards from here on
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for block in model.blocks:
            fully_shard(block, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                                  lr=1e-4, betas=(0.9, 0.95), fused=True)
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1 and not fsdp:
        model = DistributedDataParallel(model, device_ids=[torch.cuda.current_device()], gradient_as_bucket_view=True)
    compiled = torch.compile(model)
    stream = random_tokens(shape, batch * length + 1)
    tokens, targets = stream[:-1].view(batch, length), stream[1:].reshape(batch, length)

    def step():
        for first in range(0, batch, micro):
            sums = ranks == 1 or first + micro >= batch  # gradients, over the ranks
            if fsdp:
                model.set_requires_gradient_sync(sums)
            with contextlib.nullcontext() if sums or fsdp else model.no_sync():
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    loss = compiled(tokens[first : first + micro], targets[first : first + micro])
                (loss * (micro / batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    begin = time.perf_counter()
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    compilation = time.perf_counter() - begin
    torch.cuda.reset_peak_memory_stats()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) * 1e-3 for a, b in zip(marks, marks[1:])], compilation


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="gpt2-124m")
    parser.add_argument("--batch", type=int, help="sequences a step, default the model's")
    parser.add_argument("--length", type=int, help="tokens of a sequence, default the model's")
    parser.add_argument("--steps", type=int, default=20, help="steps to time after 3")
    parser.add_argument("--attention", choices=BACKENDS, default="cudnn")
    parser.add_argument("--fsdp", action="store_true", help="shard parameters over the ranks")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch_step.py: torch sees no GPU")
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if arguments.fsdp and ranks == 1:
        sys.exit("torch_step.py: --fsdp needs several ranks, under torchrun")
    if ranks > 1:
        os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl")
    shape = MODELS[arguments.model]
    batch = arguments.batch or shape.batch
    shape.length = length = arguments.length or shape.length
    torch.set_float32_matmul_precision("high")
    attention = working_attention(arguments.attention, shape)

    micro = batch
    while True:
        try:
            with sdpa_kernel(BACKENDS[attention]):
                times, compilation = run(shape, batch, length, arguments.steps, micro, arguments.fsdp)
            break
        except torch.cuda.OutOfMemoryError:
            if micro % 2 != 0:
                raise
        # Outside of the handler, whose traceback keeps the tensors alive.
        micro //= 2
        torch._dynamo.reset()
        torch.cuda.empty_cache()

    if ranks > 1:
        leads = distributed.get_rank() == 0
        distributed.destroy_process_group()
        if not leads:
            return
    seconds = statistics.median(times)
    rate = flops_per_token(shape, length) * batch * length / seconds  # of one GPU
    gpu = torch.cuda.get_device_name()
    print(json.dumps({
        "model": arguments.model,
        "gpu": gpu,
        "gpus": ranks,
        "sharding": "fsdp2" if arguments.fsdp else "none",
        "torch": torch.__version__,
        "attention": attention,
        "batch": batch,
        "micro_batch": micro,
        "length": length,
        "milliseconds": seconds * 1e3,
        "fastest_milliseconds": min(times) * 1e3,
        "tokens_per_second": ranks * batch * length / seconds,
        "flops_per_second": rate,
        "mfu": rate / (PEAKS[gpu] * 1e12) if gpu in PEAKS else None,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(),
        "compile_seconds": compilation,
    }))


if __name__ == "__main__":
    main()
