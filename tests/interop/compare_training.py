#!/usr/bin/env python3
"""Trains a run's model in PyTorch on the run's own batches and compares losses and sink scores step by step.

usage: compare_training.py DUMP RUN [--precision fp32|bf16] [--device cuda|cpu] [--attention sdpa|eager]
                           [--steps N] [--micro-batch N] [--sink-every N] [--tolerance X] [--sink-tolerance X]
                           [--output FILE.json]

DUMP is what `sinkscope train-dump CONFIG --output DUMP` wrote, RUN the directory of a run of that config
(log.every 1, per-step probes on). Weights are fp32; --precision bf16 computes under autocast. Mean sink scores
alpha_k = 1/(T-k) sum_{t>=k} A[t,k], over sequences, layers and heads of the step's batch, come from eager
attention, at step 1 and at every N-th. Exit status 1 when a loss is off by more than --tolerance (nats) at
any step, or a sink score by more than --sink-tolerance (relative). Needs torch, transformers and numpy.
"""

import argparse
import json
import math
import pathlib
import sys

import numpy
import torch
from transformers import AutoModelForCausalLM


def read_json(path):
    with path.open(encoding="utf-8") as file:
        return json.load(file)


def check_same_run(dump, run):
    """Exits unless the run is one of the dumped config on the dumped data."""
    ours, theirs = dump["config"], read_json(run / "config.json")
    pairs = {key: (ours[key], theirs[key]) for key in ("model", "train")}
    pairs |= {f"data.{key}": (ours["data"][key], theirs["data"][key]) for key in ("bos", "bos_id", "eos_id")}
    pairs["dataset_fingerprint"] = (dump["dataset_fingerprint"], theirs["run"]["dataset_fingerprint"])
    for key, (dumped, ran) in pairs.items():
        if dumped != ran:
            sys.exit(f"{run}: {key} is {json.dumps(ran)}, the dump has {json.dumps(dumped)}")


def read_steps(run, steps):
    """The logged records of steps 1..steps; numbers that are not finite are logged as strings."""
    records = {}
    with (run / "metrics.jsonl").open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            records[record["step"]] = record
    missing = [step for step in range(1, steps + 1) if step not in records]
    if missing:
        sys.exit(f"{run / 'metrics.jsonl'}: step {missing[0]} is not there (log.every must be 1, and the run as long "
                 f"as the comparison)")
    if not records[1].get("sink_score"):
        sys.exit(f"{run / 'metrics.jsonl'}: no sink scores; set probes.enabled to true")
    return [records[step] for step in range(1, steps + 1)]


def load_model(folder, attention, device):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, torch_dtype=torch.float32)
    return model.eval().to(device)  # no dropout, whatever a config's defaults


def make_optimizer(model, dump):
    names = dict(model.named_parameters())
    decayed, others = set(dump["decay"]), set(dump["no_decay"])
    if set(names) != decayed | others:
        sys.exit(f"parameters differ from the dump's: {sorted(set(names) ^ (decayed | others))}")
    groups = [{"params": [names[name] for name in dump["decay"]], "weight_decay": dump["weight_decay"]},
              {"params": [names[name] for name in dump["no_decay"]], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=tuple(dump["betas"]), eps=dump["eps"])


class Training:
    """The dumped run in PyTorch."""

    def __init__(self, folder, dump, options):
        self.dump, self.options = dump, options
        self.device = torch.device(options.device)
        self.model = load_model(folder / dump["model"], options.attention, self.device)
        # The same parameters behind eager attention, which shows its weights.
        self.watched = load_model(folder / dump["model"], "eager", self.device)
        for theirs, ours in zip(self.watched.parameters(), self.model.parameters(), strict=True):
            theirs.requires_grad_(False)
            theirs.data = ours.data
        self.optimizer = make_optimizer(self.model, dump)
        shape = tuple(dump["shape"])
        self.inputs = numpy.memmap(folder / dump["inputs"], dtype="<i4", mode="r", shape=shape)
        self.targets = numpy.memmap(folder / dump["targets"], dtype="<i4", mode="r", shape=shape)

    def rows(self, tokens, step, begin, count):
        """Rows of a step's batch, (count, T), on the device."""
        part = numpy.array(tokens[step - 1, begin:begin + count], dtype=numpy.int64)
        return torch.from_numpy(part).to(self.device)

    def autocast(self):
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.options.precision == "bf16")

    def step(self, step):
        """One update; the mean loss over the step's targets and the norm of its gradient before clipping."""
        rows, length = self.dump["shape"][1:]
        size = self.options.micro_batch or self.dump["micro_batch"]
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for begin in range(0, rows, size):
            inputs = self.rows(self.inputs, step, begin, size)
            targets = self.rows(self.targets, step, begin, size)
            with self.autocast():
                logits = self.model(input_ids=inputs, use_cache=False).logits
            losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
            (losses / (rows * length)).backward()
            total += float(losses)
        clip = self.dump["clip_norm"]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip if clip > 0 else math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = self.dump["learning_rates"][step - 1]
        self.optimizer.step()
        return total / (rows * length), float(norm)

    @torch.no_grad()
    def sink_scores(self, step, positions):
        """Mean alpha_k, k < positions, of the step's batch under the weights before its update."""
        rows, length = self.dump["shape"][1:]
        counts = length - torch.arange(positions, dtype=torch.float64)
        sums, rounds = torch.zeros(positions, dtype=torch.float64), 0
        for begin in range(0, rows, self.options.sink_batch):
            inputs = self.rows(self.inputs, step, begin, self.options.sink_batch)
            with self.autocast():
                attentions = self.watched(input_ids=inputs, use_cache=False, output_attentions=True).attentions
            for attention in attentions:  # (b, H, T, T), A[t,k] is 0 for t < k
                sums += attention[..., :positions].double().sum(dim=(0, 1, 2)).cpu() / counts
                rounds += attention.shape[0] * attention.shape[1]
        return (sums / rounds).tolist()


def largest(values):
    """The largest value; infinity where one is not a number."""
    return max((value if math.isfinite(value) else math.inf for value in values), default=0.0)


def compare(training, records, options):
    """Prints a line a compared step; what was found, for the verdict and --output."""
    found = {"steps": [], "worst_loss": 0.0, "worst_sink": 0.0, "passed": True}
    print(f"{'step':>5} {'loss':>10} {'torch':>10} {'diff':>10} {'|grad|':>9} {'torch':>9}"
          f"   sink score of position 0, torch, largest relative difference over positions")
    for record in records:
        step = record["step"]
        watch = step == 1 or step % options.sink_every == 0
        ours = {"loss": float(record["loss"]), "gradient_norm": float(record["gradient_norm"])}
        sinks = [float(score) for score in record["sink_score"]]
        scores = training.sink_scores(step, len(sinks)) if watch else []
        loss, norm = training.step(step)
        difference = largest([abs(loss - ours["loss"])])
        relative = largest(abs(a - b) / abs(b) for a, b in zip(sinks, scores))
        passed = difference <= options.tolerance and relative <= options.sink_tolerance
        line = f"{step:5d} {ours['loss']:10.5f} {loss:10.5f} {difference:10.2e}"
        line += f" {ours['gradient_norm']:9.4f} {norm:9.4f}"
        if watch:
            line += f"   {sinks[0]:.5f} {scores[0]:.5f} {100 * relative:.2f} %"
        if watch or not passed:
            print(line + ("" if passed else "   FAIL"), flush=True)
        found["steps"].append({"step": step, **ours, "torch_loss": loss, "torch_gradient_norm": norm,
                               "sink_score": sinks if watch else None, "torch_sink_score": scores or None})
        found["worst_loss"] = max(found["worst_loss"], difference)
        found["worst_sink"] = max(found["worst_sink"], relative)
        found["passed"] = found["passed"] and passed
    return found


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dump", type=pathlib.Path)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of products; weights are fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="of the model that trains")
    parser.add_argument("--steps", type=int, help="default: all that were dumped")
    parser.add_argument("--micro-batch", type=int, default=0, help="sequences at once; default: the run's")
    parser.add_argument("--sink-every", type=int, default=10, help="steps between comparisons of sink scores")
    parser.add_argument("--sink-batch", type=int, default=8, help="sequences at once through eager attention")
    parser.add_argument("--tolerance", type=float, default=0.02, help="of the loss, nats")
    parser.add_argument("--sink-tolerance", type=float, default=0.05, help="of sink scores, relative")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the curves")
    return parser.parse_args()


def main():
    options = parse_arguments()
    torch.set_float32_matmul_precision("highest")  # fp32 means fp32, not TF32
    dump = read_json(options.dump / "training.json")
    steps = options.steps or dump["shape"][0]
    if not 1 <= steps <= dump["shape"][0]:
        sys.exit(f"--steps is {steps}, the dump has {dump['shape'][0]}")
    check_same_run(dump, options.run)
    records = read_steps(options.run, steps)
    found = compare(Training(options.dump, dump, options), records, options)
    print(f"{options.run}: {steps} steps against PyTorch {torch.__version__} ({options.precision}, {options.device}): "
          f"losses within {found['worst_loss']:.2e} (at most {options.tolerance}), "
          f"sink scores within {100 * found['worst_sink']:.2f} % (at most {100 * options.sink_tolerance:g} %)")
    if options.output:
        options.output.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
