// Times how a run of 100,000 logged steps of 48 layers opens in the browser: logs as training writes them.
//   node open_large_run.mjs SOURCE_DIR PROGRAM [SECONDS]
// Fails when it takes longer than SECONDS, default 3, from the start of the server until the page has drawn every curve and
// map up to the last step, or to open the page of a run that is read; tells how long it takes until all is exact.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import {launchBrowser, Run, serve} from "./runs.mjs";

const [sourceDir, program, limit = "3"] = process.argv.slice(2);
const kSteps = 100000, kEvery = 50;
const place = fs.mkdtempSync(path.join(os.tmpdir(), "sinkscope-large-"));
const context = await launchBrowser(sourceDir, path.join(place, "profile"));
const run = new Run(path.join(place, "large"), {steps: kSteps, layers: 48, heads: 16, every: kEvery, length: 1024});

// One line of each log is made as training writes it; the others differ in what the page shows.
const files = Object.fromEntries(["metrics.jsonl", "probes.jsonl"].map((name) => [name, fs.openSync(path.join(run.folder, name), "a")]));
let bytes = 0;
const pattern = run.stepLine(1), passes = ["natural_bos", "natural_bos_short", "natural", "natural_short", "random", "repeated"];
const passPattern = Object.fromEntries(passes.map((set) => [set, run.probeLine(1, set)]));
let lines = "", passLines = "";
for (let step = 1; step <= kSteps; ++step) {
  const noise = 0.1 * Math.sin(step * step);
  lines += pattern.replace(/^\{"step":1,"tokens":1000,"loss":[\d.]+,"loss_common":[\d.]+/,
    `{"step":${step},"tokens":${step * 1000},"loss":${4 - step / kSteps + noise},"loss_common":${3.5 - step / kSteps + noise}`);
  if (step % kEvery === 0)
    for (const set of passes)
      passLines += passPattern[set].replace(/^\{"step":1,"tokens":1000/, `{"step":${step},"tokens":${step * 1000}`)
        .replace(/"sink_excess":\[[^,]+/, `"sink_excess":[${run.excess(step)}`);
  if (lines.length > 1 << 24 || step === kSteps) {
    bytes += fs.writeSync(files["metrics.jsonl"], lines);
    lines = "";
  }
  if (passLines.length > 1 << 24 || step === kSteps) {
    bytes += fs.writeSync(files["probes.jsonl"], passLines);
    passLines = "";
  }
}
console.log("logs: " + (bytes / 1e9).toFixed(2) + " GB");

const seconds = (since) => (Date.now() - since) / 1000;
let failed = false;
async function open(page, url, what) {
  const begin = Date.now();
  await page.goto(url, {waitUntil: "commit"});
  await page.waitForFunction(() => document.querySelectorAll("#charts canvas").length > 5 && document.querySelectorAll("#heatmaps canvas").length === 2
    && window.SinkscopePage, null, {timeout: 120000});
  console.log(what + ": " + seconds(begin).toFixed(2) + " s to charts and maps");
  return seconds(begin);
}
// Until every curve over steps and every map that the page has drawn ends with the last step. Validation losses are
// points: the last of them is where the last evaluation was.
async function drawnToTheEnd(page) {
  await page.addInitScript((steps) => {
    window.wholeRun = new Promise((done) => addEventListener("DOMContentLoaded", () => {
      const show = window.SinkscopePage.show;
      window.SinkscopePage.show = (payload) => {
        show(payload);
        const series = payload.charts.filter((chart) => chart.x === "step").flatMap((chart) => chart.series);
        const ends = series.filter((one) => one.style !== "points").map((one) => one.x[one.x.length - 1])
          .concat(payload.heatmaps.flatMap((map) => map.maps).map((map) => map.to[map.to.length - 1]));
        const drawn = document.querySelectorAll("#charts canvas").length > 5 && document.querySelectorAll("#heatmaps canvas").length === 2;
        if (drawn && ends.length > 10 && ends.every((step) => step === steps)) requestAnimationFrame(() => done(ends.length));
      };
    }));
  }, kSteps);
}
const started = Date.now();
const server = await serve(program, [run.folder], {SINKSCOPE_ASSETS: path.join(sourceDir, ".cache/assets")});
console.log("the server answers after " + seconds(started).toFixed(2) + " s");
const page = await context.newPage();
await drawnToTheEnd(page);
await open(page, server.url, "the server has just been started");
const curves = await page.evaluate(() => window.wholeRun);
const whole = seconds(started);
const line = await page.locator("#live").innerText();
console.log("from the start of the server to " + curves + " curves and maps up to step " + kSteps + ": " + whole.toFixed(2) + " s (" + line + ")");
if (whole > Number(limit)) failed = true;
await page.waitForFunction((steps) => document.getElementById("live").textContent.includes("step " + steps), kSteps, {timeout: 120000});
console.log("from the start of the server until all is exact: " + seconds(started).toFixed(2) + " s");
const again = await context.newPage();
if ((await open(again, server.url, "the run is read")) > Number(limit)) failed = true;

// How long the page is busy when it takes new data, and when the pointer moves.
const data = await (await fetch(server.url + "data")).text();
console.log("state: " + (data.length / 1e6).toFixed(2) + " MB");
const busy = await again.evaluate(async () => {
  const answer = await (await fetch("data")).json();
  const begin = performance.now();
  window.SinkscopePage.show(answer.payload);
  return performance.now() - begin;
});
const box = await again.locator("#chart_loss .u-over").boundingBox();
const moved = Date.now();
for (let i = 0; i < 20; ++i) await again.mouse.move(box.x + box.width * i / 20, box.y + 50);
console.log("busy with newer data: " + busy.toFixed(0) + " ms; a move of the pointer: " + (seconds(moved) * 50).toFixed(0) + " ms");
const memory = fs.readFileSync("/proc/" + server.child.pid + "/status", "utf8");
console.log("the server's memory: " + /VmHWM:\s*(\d+)/.exec(memory)[1] / 1000 + " MB at most");
server.child.kill("SIGINT");
await server.exited;
await context.close();
fs.rmSync(place, {recursive: true, force: true});
if (failed) console.error("FAILED: it takes more than " + limit + " s");
process.exit(failed ? 1 : 0);
