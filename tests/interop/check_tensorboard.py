#!/usr/bin/env python3
"""Loads a run with TensorBoard's own reader and compares it with the run's JSON logs.

usage: check_tensorboard.py RUN_DIR

Needs the packages tensorboard and numpy. Checks that every step stands once, that scalars equal
those of metrics.jsonl and probes.jsonl to fp32 precision, that histograms and images are there
and readable, and that the hyperparameters are those of config.json and the layout's charts find curves. Exit status 0 when all holds.
"""
import argparse
import json
import math
import pathlib
import re
import struct
import sys

try:
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.plugins.custom_scalar import layout_pb2
    from tensorboard.plugins.hparams import plugin_data_pb2
except ImportError as error:
    sys.exit(f"check_tensorboard.py: needs the package tensorboard: {error}")


def layer(index):
    return f"layer_{index:02d}"


def residual(index):
    return "embedding" if index == 0 else layer(index - 1)


# Tag of a single value to the key of its line; tag prefix of several to their key and the names.
STEP_SINGLE = {
    "loss/train": "loss",
    "loss/train_common": "loss_common",
    "loss/validation": "validation_loss",
    "loss/validation_common": "validation_loss_common",
    "gradient/norm": "gradient_norm",
    "gradient/learning_rate": "learning_rate",
    "speed/step_seconds": "step_seconds",
    "speed/tokens_per_second": "tokens_per_second",
    "speed/mfu": "mfu",
    "speed/tokens": "tokens",
}
STEP_SEVERAL = {
    "sink/score_position_": ("sink_score", str),
    "sink/rate_position_": ("sink_rate", str),
    "sink/score_": ("sink_score_layer", layer),
    "norm/residual_rest_": ("residual_norm_rest", residual),
    "norm/ratio_": ("norm_ratio", residual),
    "gradient/attention_": ("gradient_norm_attention", layer),
    "gradient/mlp_": ("gradient_norm_mlp", layer),
}
PROBE_SINGLE = {
    "sink/excess_slope": "excess_slope",
    "sink/dominant_share": "dominant_share",
    "loss/validation_slope": "validation_loss_slope",
}
PHASES = ["wandering", "transition", "stable"]
PROBE_SEVERAL = {
    "sink/{}/excess_position_": ("sink_excess", str),
    "sink/{}/rate_position_": ("sink_rate", str),
    "sink/{}/rate_late_layers_position_": ("sink_rate_from", str),
    "sink/{}/logit_mass_": ("sink_logit_mass", layer),
    "norm/{}/ratio_": ("norm_ratio", residual),
}


def read_lines(path):
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def expected_scalars(run):
    """Tag -> {step: value}."""
    expected = {}

    def put(tag, step, value):
        if value is not None:
            expected.setdefault(tag, {})[step] = float(value)

    for line in read_lines(run / "metrics.jsonl"):
        for tag, key in STEP_SINGLE.items():
            put(tag, line["step"], line.get(key))
        for prefix, (key, name) in STEP_SEVERAL.items():
            for i, value in enumerate(line.get(key) or []):
                put(prefix + name(i), line["step"], value)
        if "entropy" in line:
            put("sink/entropy", line["step"], sum(line["entropy"]) / len(line["entropy"]))
        norms, rows = line.get("residual_norm") or [], len(line.get("residual_norm_rest") or [])
        for i in range(rows if norms else 0):  # position 0 of each row
            put("norm/residual_first_" + residual(i), line["step"], norms[i * (len(norms) // rows)])
    probes = run / "probes.jsonl"
    for line in read_lines(probes) if probes.exists() else []:
        put("loss/" + line["set"], line["step"], line["loss"])
        for tag, key in PROBE_SINGLE.items():
            put(tag, line["step"], line.get(key))
        if "phase" in line:
            put("sink/phase", line["step"], PHASES.index(line["phase"]))
        for prefix, (key, name) in PROBE_SEVERAL.items():
            for i, value in enumerate(line.get(key) or []):
                put(prefix.format(line["set"]) + name(i), line["step"], value)
    return expected


def same(a, b):
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or abs(a - b) <= 1e-6 * max(abs(a), abs(b))


def check_scalars(reader, expected):
    values = 0
    found_tags = set(reader.Tags()["scalars"])
    for tag, series in expected.items():
        if tag not in found_tags:
            raise SystemExit(f"{tag}: in the JSON logs, but not in TensorBoard's files")
        events = reader.Scalars(tag)
        steps = [event.step for event in events]
        if steps != sorted(series):
            raise SystemExit(f"{tag}: TensorBoard reads steps {steps[:5]}... ({len(steps)}), "
                             f"the JSON logs {sorted(series)[:5]}... ({len(series)})")
        for event in events:
            if not same(event.value, series[event.step]):
                raise SystemExit(f"{tag}: {event.value} at step {event.step}, expected {series[event.step]}")
            values += 1
    return values


def check_images(reader):
    count = 0
    for tag in reader.Tags()["images"]:
        for image in reader.Images(tag):
            data = image.encoded_image_string
            if data[:8] != b"\x89PNG\r\n\x1a\n":
                raise SystemExit(f"{tag}: step {image.step} holds no PNG")
            size = struct.unpack(">II", data[16:24])
            if size != (image.width, image.height):
                raise SystemExit(f"{tag}: the PNG is {size}, its summary says {(image.width, image.height)}")
            count += 1
    return count


def check_histograms(reader):
    count = 0
    for tag in reader.Tags()["histograms"]:
        for event in reader.Histograms(tag):
            value = event.histogram_value
            if not math.isclose(sum(value.bucket), value.num) or not value.min <= value.max:
                raise SystemExit(f"{tag}: step {event.step} holds no histogram")
            count += 1
    return count


def flat(section, path):
    for key, value in section.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}.{key}")
        elif isinstance(value, (bool, int, float, str)):
            yield f"{path}.{key}", value


def check_hyperparameters(run, reader):
    """The settings that TensorBoard's own messages hold are those of the run."""
    content = {tag: plugin_data_pb2.HParamsPluginData.FromString(data)
               for tag, data in reader.PluginTagToContent("hparams").items()}
    found = {}
    for name, value in content["_hparams_/session_start_info"].session_start_info.hparams.items():
        found[name] = getattr(value, value.WhichOneof("kind"))
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    expected = {name: value for section in ("model", "data", "train") for name, value in flat(config[section], section)}
    if found != expected:
        raise SystemExit(f"hyperparameters are {found}, the config's {expected}")
    named = [info.name for info in content["_hparams_/experiment"].experiment.hparam_infos]
    if sorted(named) != sorted(expected):
        raise SystemExit(f"the experiment names {named}, the config holds {sorted(expected)}")
    return len(found)


def check_layout(reader):
    """Charts of the custom layout that find a curve, of how many."""
    layout = layout_pb2.Layout.FromString(reader.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    tags = reader.Tags()["scalars"]
    charts = [chart for category in layout.category for chart in category.chart]
    drawn = sum(any(re.search(tag, name) for tag in chart.multiline.tag for name in tags) for chart in charts)
    if drawn < len(charts) // 2:
        raise SystemExit(f"only {drawn} of {len(charts)} charts of the layout find a curve in {tags}")
    return drawn, len(charts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    run = parser.parse_args().run
    # A size of 0 keeps every event.
    sizes = {event_accumulator.SCALARS: 0, event_accumulator.HISTOGRAMS: 0, event_accumulator.IMAGES: 0}
    reader = event_accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance=sizes)
    reader.Reload()
    expected = expected_scalars(run)
    if not expected:
        raise SystemExit(f"{run / 'metrics.jsonl'}: holds no steps")
    scalars = check_scalars(reader, expected)
    images = check_images(reader)
    histograms = check_histograms(reader)
    probes = run / "probes.jsonl"
    if probes.exists() and probes.stat().st_size > 0 and (images == 0 or histograms == 0):
        raise SystemExit(f"{run}: there are probe passes, but {images} images and {histograms} histograms")
    hyperparameters = check_hyperparameters(run, reader)
    drawn, charts = check_layout(reader)
    print(f"{run}: {scalars} scalars of {len(expected)} tags equal the JSON logs; "
          f"{histograms} histograms and {images} images read; {hyperparameters} hyperparameters equal the config; "
          f"{drawn} of {charts} charts of the layout have curves")


if __name__ == "__main__":
    main()
