#!/usr/bin/env python3
"""Loads an export with transformers and compares its logits, sink scores and residual norms with the engine's.

usage: check_checkpoint.py EXPORT_DIR DUMP.json

DUMP.json: {"tokens": [B][T], "logits": [B][T][V], "sink_scores": [L][B][H][K], "residual_norms": [L+1][B][T]},
residual_norms[0] being the embedding's output. One line a check; the exit status is 1 when any fails.
Needs torch and transformers.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4  # ||ours - theirs|| / ||theirs||


def check(name, ours, theirs):
    ours = torch.tensor(ours, dtype=torch.float64)
    theirs = theirs.to(torch.float64)
    if ours.shape != theirs.shape:
        print(f"FAIL {name}: shape {tuple(ours.shape)}, transformers has {tuple(theirs.shape)}")
        return False
    error = float((ours - theirs).norm() / theirs.norm())
    passed = error <= TOLERANCE  # false for NaN
    print(f"{'ok  ' if passed else 'FAIL'} {name}: relative difference {error:.3e}, at most {TOLERANCE:.0e}")
    return passed


def blocks_of(model):
    base = model.base_model
    return base.h if hasattr(base, "h") else base.layers


def run(model, tokens):
    """Logits (B, T, V), attention weights (B, H, T, T) of each layer, residual stream (B, T, C) before and after each."""
    stream = []

    def first(module, arguments, keywords):
        stream.append(arguments[0] if arguments else keywords["hidden_states"])

    def after(module, arguments, output):
        stream.append(output[0] if isinstance(output, tuple) else output)

    # hidden_states of the output end after the final norm, so the blocks themselves are watched.
    blocks = blocks_of(model)
    hooks = [blocks[0].register_forward_pre_hook(first, with_kwargs=True)]
    hooks += [block.register_forward_hook(after) for block in blocks]
    with torch.no_grad():
        output = model(tokens, output_attentions=True, use_cache=False)
    for hook in hooks:
        hook.remove()
    return output.logits, output.attentions, stream


def sink_scores(attention, positions):
    """alpha_k = 1/(T-k) sum_{t>=k} A[t,k] for k < positions: (B, H, K)."""
    length = attention.shape[-1]
    counts = length - torch.arange(positions, dtype=attention.dtype)
    return attention.sum(dim=-2)[..., :positions] / counts  # A[t,k] is 0 for t < k


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, dump_file = sys.argv[1:]
    with open(dump_file, encoding="utf-8") as file:
        dump = json.load(file)
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", torch_dtype=torch.float32, output_loading_info=True)
    model.eval()
    passed = True
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        found = sorted(str(key) for key in loading[problem])
        print(f"{'FAIL' if found else 'ok  '} {problem}: {', '.join(found) or 'none'}")
        passed = passed and not found
    logits, attentions, stream = run(model, torch.tensor(dump["tokens"]))
    passed = check("logits", dump["logits"], logits) and passed
    positions = len(dump["sink_scores"][0][0][0])
    theirs = torch.stack([sink_scores(attention.double(), positions) for attention in attentions])
    passed = check("sink scores", dump["sink_scores"], theirs) and passed
    theirs = torch.stack([h.double().norm(dim=-1) for h in stream])
    passed = check("residual norms", dump["residual_norms"], theirs) and passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
