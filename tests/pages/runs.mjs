// Run folders with known numbers, as the logs of a run have them, and the browser that opens their pages.
import fs from "node:fs";
import {createRequire} from "node:module";
import path from "node:path";
import {spawn} from "node:child_process";

export const kSkipped = 77;  // exit status that tells ctest so

/// Ends the program as skipped, saying why.
export function skip(reason) {
  console.log("skipped: " + reason);
  process.exit(kSkipped);
}

/// Launches Chromium through playwright-core; skips where one of them is missing.
export async function launchBrowser(sourceDir, profile) {
  const chromium = process.env.SINKSCOPE_CHROMIUM || "/usr/bin/chromium";
  if (!fs.existsSync(chromium)) skip("there is no " + chromium + " (Debian: apt-get install chromium)");
  const driver = path.resolve(sourceDir, ".cache/node/playwright-core");
  if (!fs.existsSync(path.join(driver, "package.json"))) skip("there is no " + driver + " (scripts/fetch_test_files fetches it)");
  const playwright = createRequire(import.meta.url)(driver);
  return playwright.chromium.launchPersistentContext(profile, {
    executablePath: chromium, headless: true, acceptDownloads: true, viewport: {width: 1400, height: 1000},
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync"],
  });
}

/// Starts `sinkscope monitor --serve`; resolves to {child, url, exited} once the page can be opened.
export function serve(program, args, environment = {}) {
  const child = spawn(program, ["monitor", "--serve", ...args], {stdio: ["ignore", "pipe", "pipe"], env: {...process.env, ...environment}});
  const exited = new Promise((done) => child.on("exit", (code, signal) => done({code, signal})));
  return new Promise((done, fail) => {
    let output = "";
    const take = (chunk) => {
      output += chunk;
      const found = /live page: (http:\S+)/.exec(output);
      if (found) done({child, url: found[1], exited});
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    exited.then(() => fail(new Error("the server ended: " + output)));
  });
}

const filled = (count, value) => new Array(count).fill(value);

/// Loss at step s is 4 - s/steps, the excess of position 0 is 1 + rise * s/steps.
export class Run {
  constructor(folder, {name = path.basename(folder), steps = 200, layers = 4, heads = 2, positions = 8, rise = 3, every = 10,
                       length = 128, planned = steps} = {}) {
    Object.assign(this, {folder, name, steps, layers, heads, positions, rise, every, length, planned});
    fs.mkdirSync(folder, {recursive: true});
    fs.writeFileSync(path.join(folder, "config.json"), JSON.stringify({
      name, data: {path: "corpus", bos: "sequence", common_targets: ["none", "sequence"]},
      train: {steps: planned, sequence_length: length, seed: 1},
      probes: {sink_threshold: 0.3, from_layer: 2, phase: {onset: 2, window: 3}}, run: {dataset_fingerprint: "abc"}}));
  }

  excess(step) { return 1 + this.rise * step / this.planned; }

  stepLine(step) {
    const score = 0.05 * this.excess(step);
    const {layers, positions} = this;
    return JSON.stringify({
      step, tokens: step * 1000, loss: 4 - step / this.planned, loss_common: 3.5 - step / this.planned,
      ...(step % 50 === 0 ? {validation_loss: 4.25 - step / this.planned, validation_loss_common: 3.75 - step / this.planned} : {}),
      learning_rate: 1e-3, gradient_norm: 1.5, step_seconds: 0.25, tokens_per_second: 4000,
      sink_score: [score, ...filled(positions - 1, 0.02)], sink_rate: filled(positions, 0.125), sink_score_layer: filled(layers, score),
      residual_norm: filled((layers + 1) * positions, 10.123456789012345), residual_norm_rest: filled(layers + 1, 10),
      norm_ratio: filled(layers + 1, 1.5), gradient_norm_attention: filled(layers, 0.25), gradient_norm_mlp: filled(layers, 0.25)}) + "\n";
  }

  probeLine(step, set) {
    const {layers, heads, positions, length} = this;
    const score = [];
    for (let l = 0; l < layers; ++l) for (let h = 0; h < heads; ++h) score.push(0.01 * (l + 1) * this.excess(step), ...filled(positions - 1, 0.02));
    return JSON.stringify({
      step, tokens: step * 1000, set, length, sequences: 4, with_bos: set === "natural_bos", loss: 4, layers, heads, kv_heads: 1, positions,
      sink_score: score, sink_rate: [0.25, ...filled(positions - 1, 0)], sink_rate_from: [0.5, ...filled(positions - 1, 0)],
      sink_excess: [this.excess(step), ...filled(positions - 1, 0.5)], dominant_position: 0,
      entropy: filled(layers * heads, 2.5), key_mass: filled(layers * length, 1),
      residual_norm: filled((layers + 1) * positions, 20), residual_norm_rest: filled(layers + 1, 10),
      norm_ratio: [1, ...filled(layers, 1).map((_, l) => 1 + (l + 1) * step / this.planned)],
      value_norm_first: filled(layers, 0.5), value_norm_rest: filled(layers, 1), step_up_layer: 1, concentration: 0.5,
      ...(set === "natural_bos" ? {phase: this.excess(step) >= 2 ? "transition" : "wandering"} : {})}) + "\n";
  }

  append(file, text) { fs.appendFileSync(path.join(this.folder, file), text); }

  /// Logs the steps after `from` up to `to`, as training does.
  log(from, to) {
    for (let step = from; step <= to; ++step) {
      if (step > 0) this.append("metrics.jsonl", this.stepLine(step));
      if (step % this.every === 0) this.append("probes.jsonl", this.probeLine(step, "natural_bos") + this.probeLine(step, "random"));
    }
  }

  event(step, kind, message, data = {}) {
    this.append("events.jsonl", JSON.stringify({step, tokens: step * 1000, kind, message, data}) + "\n");
  }

  /// Cuts the logs back to `step`, as a resume does: each file is replaced.
  cutTo(step) {
    for (const file of ["metrics.jsonl", "probes.jsonl", "events.jsonl"]) {
      const full = path.join(this.folder, file);
      if (!fs.existsSync(full)) continue;
      const kept = fs.readFileSync(full, "utf8").split("\n").filter((line) => line && JSON.parse(line).step <= step);
      fs.writeFileSync(full + ".partial", kept.map((line) => line + "\n").join(""));
      fs.renameSync(full + ".partial", full);
    }
  }
}
