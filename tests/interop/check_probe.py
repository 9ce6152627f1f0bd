#!/usr/bin/env python3
"""Computes every field of a probe pass with transformers and compares it with the engine's.

usage: check_probe.py HF_FOLDER DIR [--tolerance X] [--precision auto|float64|float32] [--batch N]
                      [--sink-threshold X] [--from-layer M]

DIR is what `sinkscope probe CHECKPOINT --output DIR` wrote of the model in HF_FOLDER:
  probe.json  {"sink_threshold": eps, "from_layer": m, "sets": [RECORD, ...], ...}, a record as a line of probes.jsonl
  sets.json   {"NAME": {"length": T, "sequences": B, "inputs": [B][T], "targets": [B][T]}, ...}
LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, GPT2LMHeadModel and GPTNeoXForCausalLM. The
weights, queries, keys and values are those of transformers' eager attention as it runs; what follows from them is
computed in float64. eps and m of the sink rates are those of probe.json ("sink_threshold", "from_layer") unless given
here.

A difference is relative to the value, or to a hundredth of the largest of the field in the same layer where that is more
(of cosines, of 1). What rounding decides is not held against either side: a share counts between its values without and with the
cases within 1e-6 of a tie or a threshold, a position or layer when its value is that close to the largest.
One line a field; the exit status is 1 when a difference is beyond the tolerance. Needs torch and transformers.
"""

import argparse
import json
import math
import pathlib
import sys

import torch

SMALL = 0.01  # of the largest: smaller values are compared as if they were this large
TIE = 1e-6  # relative, of what float32 decides by rounding
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel",
                 "GPTNeoXForCausalLM")
IGNORED = ("step", "tokens", "set", "with_bos",  # of the record, what no model decides: its place, and the run's series
           "phase", "excess_slope", "dominant_share", "validation_loss_slope")


def read_json(path):
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")


def load_model(folder, precision):
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", torch_dtype=torch.float32).eval()
    name = type(model).__name__
    if name not in ARCHITECTURES:
        sys.exit(f"{folder}: {name} is not among {', '.join(ARCHITECTURES)}")
    if precision == "float32":
        return model
    try:
        return model.double()
    except (MemoryError, RuntimeError) as error:
        if precision == "float64":
            sys.exit(f"{folder}: {error}")
        print(f"{folder}: computed in float32 ({error})", file=sys.stderr)
        return model.float()


def first_of(value):
    return value[0] if isinstance(value, tuple) else value


def part(module, names):
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    sys.exit(f"{type(module).__name__}: has none of {', '.join(names)}")


class Watched:
    """The model with hooks that keep, of the last forward pass and for each block, what METRICS.md is about."""

    def __init__(self, model):
        self.model = model
        base = model.base_model
        self.blocks = list(base.h if hasattr(base, "h") else base.layers)
        self.seen = [{} for _ in self.blocks]
        self.at = 0  # the block that runs
        for index, block in enumerate(self.blocks):
            block.register_forward_pre_hook(self.entering(index), with_kwargs=True)
            block.register_forward_hook(self.keep(index, "output"))
            part(block, ("self_attn", "attn", "attention")).register_forward_hook(self.keep(index, "attention_output"))
            block.mlp.register_forward_hook(self.keep(index, "mlp_output"))
        self.wrap_attention(part(self.blocks[0], ("self_attn", "attn", "attention")))

    def entering(self, index):
        def hook(module, arguments, keywords):
            self.at = index
            self.seen[index] = {"input": (arguments[0] if arguments else keywords["hidden_states"]).double()}
        return hook

    def keep(self, index, name):
        def hook(module, arguments, output):
            self.seen[index][name] = first_of(output).double()
        return hook

    def wrap_attention(self, attention):
        """Eager attention is a function of the model's own file, looked up there at every call."""
        file = sys.modules[type(attention).__module__]
        eager = getattr(file, "eager_attention_forward", None)
        if eager is None:
            sys.exit(f"{file.__name__}: has no eager_attention_forward; transformers 4.48 or newer is needed")

        def recorded(module, query, key, value, *arguments, **keywords):
            output, weights = eager(module, query, key, value, *arguments, **keywords)
            self.seen[self.at] |= {"q": query.double(), "k": key.double(), "v": value.double(), "A": weights.double()}
            return output, weights
        file.eager_attention_forward = recorded

    @torch.no_grad()
    def run(self, inputs):
        """Logits (B, T, V) of tokens (B, T); what the blocks did is in `seen`."""
        logits = self.model(inputs, use_cache=False).logits.double()
        for index, seen in enumerate(self.seen):
            missing = [name for name in ("output", "attention_output", "mlp_output", "A") if name not in seen]
            if missing:
                sys.exit(f"block {index}: transformers showed no {', '.join(missing)}")
        return logits


def norms(x):
    return x.norm(dim=-1)


def over_rest(x):
    """x[b,0] / mean_{t>=1} x[b,t], summed over b."""
    return (x[:, 0] / x[:, 1:].mean(dim=1)).sum()


def unit(x):
    length = norms(x).unsqueeze(-1)
    return torch.where(length > 0, x / length, torch.zeros_like(x))


def stability(vectors):
    """Mean cosine over the pairs of vectors (n, C); a vector of length 0 has cosine 0."""
    n = vectors.shape[0]
    if n < 2:
        return math.nan
    u = unit(vectors)
    return float((u.sum(dim=0).square().sum() - u.square().sum()) / (n * (n - 1)))


class Sums:
    """Sums over sequences of every per-sequence quantity, each under its field's name."""

    def __init__(self):
        self.values = {}

    def add(self, name, value):
        self.values[name] = self.values.get(name, 0) + value

    def mean(self, name, count):
        return (self.values[name] / count).flatten().tolist()


def first_and_rest(sums, name, x, K):
    """Adds norms (b, T) at p < K, and their mean over t >= K (NaN when there is none)."""
    sums.add(name, x[:, :K].sum(dim=0))
    sums.add(name + "_rest", x[:, K:].mean(dim=1).sum())


def measure_attention(sums, seen, K, eps):
    """Section 1 of one layer, for (b, H) heads; and the cosines."""
    A, q, k = seen["A"], seen["q"], seen["k"]
    length, heads = A.shape[-1], A.shape[1]
    alpha = A.sum(dim=2)[..., :K] / (length - torch.arange(K, dtype=torch.float64))  # (b, H, K); A[t,k] = 0 for t < k
    sums.add("alpha", alpha.sum(dim=0))
    sums.add("above_low", (alpha > eps + TIE).double().sum(dim=(0, 1)))
    sums.add("above_high", (alpha > eps - TIE).double().sum(dim=(0, 1)))
    later = A[:, :, 1:]
    sums.add("first_token_mass", later[..., 0].mean(dim=2).sum(dim=0))
    lead = later[..., 0] - later[..., 1:].amax(dim=-1)
    sums.add("argmax_low", (lead >= TIE).double().mean(dim=2).sum(dim=0))
    sums.add("argmax_high", (lead >= -TIE).double().mean(dim=2).sum(dim=0))
    sums.add("entropy", -torch.where(A > 0, A * A.clamp_min(1e-300).log(), torch.zeros_like(A)).sum(dim=3).mean(dim=2).sum(dim=0))
    sums.add("key_mass", A.sum(dim=2).mean(dim=1).sum(dim=0))
    cosines = unit(q) @ unit(k).repeat_interleave(heads // k.shape[1], dim=1).transpose(2, 3)  # (b, H, T, T)
    sums.add("cosine_first", cosines[:, :, 1:, 0].mean(dim=2).sum(dim=0))
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    causal[:, 0] = False  # 1 <= j <= t
    sums.add("cosine_rest", cosines[:, :, causal].mean(dim=2).sum(dim=0))


def measure_norms(sums, seen, K):
    """Section 2 of one layer but for what needs the whole set at once."""
    first_and_rest(sums, "attention_output_norm", norms(seen["attention_output"]), K)
    first_and_rest(sums, "mlp_output_norm", norms(seen["mlp_output"]), K)
    middle = seen["input"] + seen["attention_output"]
    sums.add("mlp_amplification", over_rest(norms(middle + seen["mlp_output"]) / norms(middle)))
    for name, x in (("key", norms(seen["k"])), ("value", norms(seen["v"]))):  # (b, G, T)
        sums.add(name + "_norm_first", x[..., 0].sum(dim=0))
        sums.add(name + "_norm_rest", x[..., 1:].mean(dim=2).sum(dim=0))


class Index:
    """An argmax: the values it was taken over, of which the index must have the largest."""

    def __init__(self, values):
        self.values = values


class Share:
    """A share of cases, between those without and with what rounding decides."""

    def __init__(self, low, high):
        self.low, self.high = low, high


def circuit(ratios):
    """Section 3 from R of h^-1, h^0, ...: l* as an Index or None, C2 or None; and whether rounding decides if they are."""
    highest = max(ratios[1:])
    decided = abs(highest - 2) > 10 * TIE * 2
    if not highest > 2 or not all(math.isfinite(r) and r > 0 for r in ratios):
        return None, None, decided
    logs = [math.log(r) for r in ratios]
    steps = [b - a for a, b in zip(logs, logs[1:])]
    return Index(steps), max(*logs[1:3], 0.0) / max(logs[1:]), decided


def measure(watched, record, given, options):
    """Every field of the record of one set, from the model: {field: [rows]}, a row a layer where there are layers."""
    K, T, B = record["positions"], given["length"], given["sequences"]
    inputs, targets = torch.tensor(given["inputs"]).view(B, T), torch.tensor(given["targets"]).view(B, T)
    L = len(watched.blocks)
    layers, rows = [Sums() for _ in range(L)], [Sums() for _ in range(L + 1)]  # blocks; residual rows h^-1..h^(L-1)
    outputs = [[] for _ in range(L)]
    loss, counted = 0.0, 0
    for begin in range(0, B, options.batch):
        chunk = slice(begin, begin + options.batch)
        logits = watched.run(inputs[chunk])
        known = targets[chunk] >= 0
        losses = torch.nn.functional.cross_entropy(logits[known], targets[chunk][known], reduction="sum")
        loss, counted = loss + float(losses), counted + int(known.sum())
        stream = [watched.seen[0]["input"]] + [seen["output"] for seen in watched.seen]
        for sums, h in zip(rows, stream):
            first_and_rest(sums, "residual_norm", norms(h), K)
            sums.add("norm_ratio", over_rest(norms(h)))
        for l, seen in enumerate(watched.seen):
            measure_attention(layers[l], seen, K, options.sink_threshold)
            measure_norms(layers[l], seen, K)
            outputs[l].append(seen["output"])

    H, G = watched.seen[0]["A"].shape[1], watched.seen[0]["k"].shape[1]
    uniform = [sum(1 / (t + 1) for t in range(k, T)) / (T - k) for k in range(K)]
    alpha = torch.stack([sums.values["alpha"] for sums in layers]) / B  # (L, H, K)

    def each(name):
        return [sums.mean(name, B) for sums in layers]

    def share(chosen):
        cases = len(chosen) * B * H
        return [Share(low / cases, high / cases) for low, high in zip(
            *(sum(sums.values[name] for sums in chosen).tolist() for name in ("above_low", "above_high")))]

    found = {"length": [[T]], "sequences": [[B]], "layers": [[L]], "heads": [[H]], "kv_heads": [[G]], "positions": [[K]]}
    found["loss"] = [[loss / counted if counted else math.nan]]
    found["sink_score"] = alpha.flatten(1).tolist()
    found["sink_rate"] = [share(layers)]
    found["sink_rate_layer"] = [share([sums]) for sums in layers]
    found["sink_rate_from"] = [share(layers[options.from_layer:])] if options.from_layer < L else []
    scores = alpha.mean(dim=(0, 1)).tolist()
    found["sink_excess"] = [[score / u for score, u in zip(scores, uniform)]]
    found["dominant_position"] = [[Index(scores)]]
    found["dominant_position_layer"] = [[Index(row)] for row in alpha.mean(dim=1).tolist()]
    found["first_token_argmax"] = [[Share(low, high) for low, high in zip(sums.mean("argmax_low", B), sums.mean("argmax_high", B))]
                                   for sums in layers]
    for name in ("first_token_mass", "entropy", "key_mass", "attention_output_norm", "attention_output_norm_rest",
                 "mlp_output_norm", "mlp_output_norm_rest", "mlp_amplification", "key_norm_first", "key_norm_rest",
                 "value_norm_first", "value_norm_rest", "cosine_first", "cosine_rest"):
        found[name] = each(name)
    for name in ("residual_norm", "residual_norm_rest", "norm_ratio"):
        found[name] = [sums.mean(name, B) for sums in rows]
    for name in ("massive_ratio", "massive_position", "massive_channel", "direction_stability", "direction_stability_middle"):
        found[name] = []
    for parts in outputs:
        h = torch.cat(parts)  # (B, T, C)
        magnitudes = h.abs()
        found["massive_ratio"].append([float(magnitudes.max() / magnitudes.median())])  # the lower of two medians
        found["massive_position"].append([Index(magnitudes.amax(dim=(0, 2)).tolist())])
        found["massive_channel"].append([Index(magnitudes.amax(dim=(0, 1)).tolist())])
        found["direction_stability"].append([stability(h[:, 0])])
        found["direction_stability_middle"].append([stability(h[:, T // 2])])
    step_up, concentration, decided = circuit([row[0] for row in found["norm_ratio"]])
    if decided or (step_up is None) == (record.get("step_up_layer") is None):
        found["step_up_layer"] = [[]] if step_up is None else [[step_up]]
        found["concentration"] = [[]] if concentration is None else [[concentration]]
    return found


def number(value):
    """A number of a record: what JSON has no numbers for is a string."""
    return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[value] if isinstance(value, str) else float(value)


def difference(ours, theirs, scale):
    if isinstance(theirs, Share):
        return max(theirs.low - ours, ours - theirs.high, 0.0) / scale
    if isinstance(theirs, Index):
        if all(math.isnan(value) for value in theirs.values):
            return 0.0 if ours == -1 else math.inf
        largest = max(theirs.values)
        if not 0 <= ours < len(theirs.values):
            return math.inf
        behind = (largest - theirs.values[int(ours)]) / max(abs(largest), 1e-30)
        return 0.0 if behind <= 10 * TIE else math.inf
    if math.isnan(ours) and math.isnan(theirs):
        return 0.0
    if ours == theirs:
        return 0.0
    gap = abs(ours - theirs) / scale
    return gap if math.isfinite(gap) else math.inf


def compare(field, ours, theirs):
    """The largest difference of a field, and its row (layer); `ours` flat, `theirs` in rows."""
    if sum(map(len, theirs)) != len(ours):
        return math.inf, f"{len(ours)} values, transformers has {sum(map(len, theirs))}"
    unit_scale = field.startswith(("cosine", "direction"))
    worst, place, at = 0.0, "", 0
    for row, values in enumerate(theirs):
        sizes = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v)]
        least = SMALL * (1.0 if unit_scale else max(sizes, default=1.0))
        for value in values:
            own = abs(value) if isinstance(value, float) and math.isfinite(value) else 0.0
            scale = max(own, least, 1e-30) if sizes else 1.0
            gap = difference(number(ours[at]), value, scale)
            at += 1
            if gap > worst:
                worst, place = gap, f"row {row}" if len(theirs) > 1 else ""
    return worst, place


def as_list(value):
    return [] if value is None else value if isinstance(value, list) else [value]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--precision", choices=("auto", "float64", "float32"), default="auto")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sink-threshold", type=float)
    parser.add_argument("--from-layer", type=int)
    options = parser.parse_args()
    probe, sets = read_json(options.dir / "probe.json"), read_json(options.dir / "sets.json")
    watched = Watched(load_model(options.folder, options.precision))
    for setting in ("sink_threshold", "from_layer"):
        if getattr(options, setting) is None:
            if setting not in probe:
                sys.exit(f"{options.dir / 'probe.json'}: {setting} is missing; give it with --{setting.replace('_', '-')}")
            setattr(options, setting, probe[setting])
    if not probe.get("sets"):
        sys.exit(f"{options.dir / 'probe.json'}: holds no sets")

    worst, unknown = {}, set()
    for record in probe["sets"]:
        name = record["set"]
        if name not in sets:
            sys.exit(f"{options.dir / 'sets.json'}: the set {name} is missing")
        found = measure(watched, record, sets[name], options)
        for field, theirs in found.items():
            gap, place = compare(field, as_list(record.get(field)), theirs)
            if field not in worst or gap > worst[field][0]:
                worst[field] = (gap, f"{name} {place}".strip())
        unknown |= {field for field in record if field not in found and field not in IGNORED + ("step_up_layer", "concentration")}

    passed = True
    print(f"{'field':<30} {'difference':>10}  worst in")
    for field, (gap, place) in worst.items():
        good = gap <= options.tolerance
        passed = passed and good
        print(f"{field:<30} {gap:>10.2e}  {place if gap > 0 else '':<40} {'' if good else 'FAIL'}".rstrip())
    if unknown:
        passed = False
        print(f"FAIL fields that are not computed here: {', '.join(sorted(unknown))}")
    largest = max(worst.items(), key=lambda item: item[1][0])
    print(f"{'ok  ' if passed else 'FAIL'} probe: relative difference {largest[1][0]:.3e}, at most {options.tolerance:.0e}; "
          f"{len(worst)} fields of {len(probe['sets'])} sets, largest in {largest[0]}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
