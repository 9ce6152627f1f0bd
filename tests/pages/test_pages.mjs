// The pages in a browser: the live one while its runs grow, and the report.
//   node test_pages.mjs SOURCE_DIR PROGRAM [SCREENSHOT_DIR]
import assert from "node:assert/strict";
import {execFileSync} from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import {launchBrowser, Run, serve, skip} from "./runs.mjs";

const [sourceDir, program, screenshots] = process.argv.slice(2);
if (!fs.existsSync(path.join(sourceDir, ".cache/assets/uplot/uPlot.iife.min.js"))) skip("the chart library is missing: run scripts/fetch_assets");
const place = fs.mkdtempSync(path.join(os.tmpdir(), "sinkscope-pages-"));
const context = await launchBrowser(sourceDir, path.join(place, "profile"));
let server = null;
let step = "";
const tell = (text) => { step = text; console.log(text); };

const wait = (ms) => new Promise((done) => setTimeout(done, ms));
/// Waits until `check` gives something true; fails with `what` after ten seconds.
async function until(what, check) {
  const end = Date.now() + 60000;
  for (;;) {
    const result = await check();
    if (result) return result;
    if (Date.now() > end) throw new Error("never: " + what);
    await wait(50);
  }
}

/// A page whose requests, errors and answers are kept.
async function openPage(url) {
  const page = await context.newPage();
  const seen = {requests: [], errors: [], statuses: []};
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("response", (response) => { if (new URL(response.url()).pathname === "/data") seen.statuses.push(response.status()); });
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) seen.errors.push(message.text()); });
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  await page.goto(url);
  return {page, seen};
}

async function shot(page, name) {
  if (screenshots) await page.screenshot({path: path.join(screenshots, name + ".png"), fullPage: true});
}

/// A chart's plot, where the pointer can be put: once the scrolling is over that charts take their place from.
async function plotBox(page, chart) {
  const plot = page.locator("#chart_" + chart + " .u-over");
  await plot.scrollIntoViewIfNeeded();
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  return plot.boundingBox();
}

/// Moves the pointer to a share of a chart's plot and returns what the tooltip says.
async function hover(page, chart, x, y = 0.5) {
  const box = await plotBox(page, chart);
  await page.mouse.move(box.x + box.width * x, box.y + box.height * y);
  await until("a tooltip", () => page.locator("#tooltip").isVisible());
  return page.locator("#tooltip").innerText();
}

async function drag(page, chart, from, to) {
  const box = await plotBox(page, chart);
  await page.mouse.move(box.x + box.width * from, box.y + box.height / 2);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * to, box.y + box.height / 2, {steps: 5});
  await page.mouse.up();
}

async function download(page, selector) {
  const waiting = page.waitForEvent("download");
  await page.click(selector);
  const file = await waiting;
  return {name: file.suggestedFilename(), bytes: fs.readFileSync(await file.path())};
}

const picture = (page, chart) => page.evaluate((id) => document.querySelector("#chart_" + id + " canvas").toDataURL(), chart);
const rowsOf = (file) => file.bytes.toString().trim().split("\r\n").map((line) => line.split(","));
const stepIn = (text) => Number(/step (\d+)/.exec(text)[1]);

/// One request, with whatever headers; resolves to {status, headers, body}.
function request(url, options = {}) {
  return new Promise((done, fail) => {
    const sent = http.request(url, options, (answer) => {
      let body = "";
      answer.on("data", (chunk) => { body += chunk; });
      answer.on("end", () => done({status: answer.statusCode, headers: answer.headers, body}));
    });
    sent.on("error", fail);
    sent.end(options.body);
  });
}

async function checkRules(url) {
  const {port} = new URL(url);
  for (const host of ["localhost:" + port, "127.0.0.1", "[::1]:9", "LOCALHOST"])
    assert.equal((await request(url, {headers: {Host: host}})).status, 200, host);
  for (const host of ["evil.example", "evil.example:" + port, "127.0.0.1.evil.example"]) {
    const refused = await request(url + "data", {headers: {Host: host}});
    assert.equal(refused.status, 403, host);
    assert.ok(!refused.body.includes("payload"), "nothing of the runs is told");
  }
  for (const method of ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"]) {
    const refused = await request(url, {method, body: method === "POST" ? "x".repeat(1000) : undefined});
    assert.equal(refused.status, 405, method);
    assert.equal(refused.headers.allow, "GET, HEAD");
  }
  assert.equal((await request(url + "config.json")).status, 404);
  assert.equal((await request(url + "%2e%2e/etc/passwd")).status, 404);
  const head = await request(url + "data", {method: "HEAD"});
  assert.equal(head.status, 200);
  assert.equal(head.body, "");
  const first = await request(url + "data");
  assert.equal(first.headers["cache-control"], "no-store");
  assert.equal(first.headers["x-content-type-options"], "nosniff");
  assert.equal(first.headers["access-control-allow-origin"], undefined);
  const same = await request(url + "data", {headers: {"If-None-Match": first.headers.etag}});
  assert.equal(same.status, 304);
  assert.equal(same.body, "");
  assert.equal((await request(url + "data", {headers: {"If-None-Match": '"other"'}})).status, 200);
  const beside = JSON.parse((await request(url + "data?shown=" + encodeURIComponent(first.headers.etag))).body);
  assert.deepEqual(Object.keys(beside), ["title", "status", "problem"]);
  assert.ok(JSON.parse((await request(url + "data?shown=other")).body).payload);
  // What is too long is refused, and the server lives on.
  const long = await request(url + "x".repeat(20000)).catch((error) => ({status: error.code}));
  assert.ok(![200, 404].includes(long.status), "a long address: " + long.status);
  // Headers without end are not taken without end, and a client that sends a byte now and then is dropped.
  const endless = net.connect(port, "127.0.0.1");
  endless.on("error", () => {});
  endless.write("GET / HTTP/1.1\r\nHost: localhost\r\n");
  let sent = 0;
  const pour = setInterval(() => { sent += 1000; endless.write("X-Header: " + "x".repeat(988) + "\r\n"); }, 5);
  await new Promise((done) => endless.on("close", done));
  clearInterval(pour);
  assert.ok(sent < 500000, "taken of endless headers: " + sent);
  const slow = net.connect(port, "127.0.0.1");
  slow.on("error", () => {});
  slow.write("GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ");
  const drip = setInterval(() => slow.write("x"), 500), began = Date.now();
  await new Promise((done) => { slow.on("close", done); slow.resume(); });
  clearInterval(drip);
  assert.ok(Date.now() - began < 9000, "a slow client is dropped after a while: " + (Date.now() - began));
  // Connections that say nothing are dropped, and do not keep others from being answered.
  const silent = [];
  for (let i = 0; i < 8; ++i) silent.push(net.connect(port, "127.0.0.1"));
  assert.equal((await request(url + "data")).status, 200);
  await Promise.all(silent.map((socket) => new Promise((done) => { socket.on("close", done); socket.resume(); })));
}

async function checkLive() {
  const one = new Run(path.join(place, "runs/one"), {planned: 400});
  one.log(0, 200);
  one.event(0, "start", "training of 1 parameters begins");
  one.event(140, "phase", "the sink is in transition", {from: "wandering", to: "transition"});
  const two = new Run(path.join(place, "runs/two"), {planned: 400, rise: 0.2});
  two.log(0, 200);
  two.event(60, "warning", "<b>the loss rises</b>");
  const late = path.join(place, "runs/late");
  server = await serve(program, [one.folder, two.folder, late], {SINKSCOPE_ASSETS: path.join(sourceDir, ".cache/assets")});

  tell("the server's rules");
  await checkRules(server.url);

  tell("the page opens with every chart, map, band and event");
  const {page, seen} = await openPage(server.url);
  await until("charts", async () => (await page.locator("#charts canvas").count()) >= 8);
  assert.equal(await page.locator("#heatmaps canvas").count(), 4);
  assert.equal(await page.locator("#arms button").count(), 3);
  assert.equal(await page.title(), "sinkscope: one · two · late");
  assert.match(await page.locator("#live").innerText(), /one: no process trains here, step 200 of 400 · two: .* · late: not there yet/);
  assert.ok((await page.locator("#phase_rows .transition").count()) >= 1);
  assert.equal(await page.locator("#event_rows tr").count(), 3);
  assert.ok((await page.locator("#event_rows").innerText()).includes("<b>the loss rises</b>"), "a message is text");
  assert.equal(await page.locator("#summary th.arm").count(), 3);
  assert.ok(!(await page.locator("main").innerText()).includes("May the arms be compared?"), "not before all are there");
  await shot(page, "live");

  tell("hovering tells the values of both runs, hiding one leaves the other");
  const both = await hover(page, "loss", 0.5);
  const at = stepIn(both);
  assert.ok(at > 90 && at < 112, both);
  assert.ok(both.includes("one, train, mean: ") && both.includes("two, train, mean: "), both);
  assert.ok(Math.abs(Number(/one, train, mean: ([\d.]+)/.exec(both)[1]) - (3.5 - at / 400)) < 0.002, both);
  await page.locator("#arms button").nth(1).click();
  assert.ok(!(await hover(page, "loss", 0.45)).includes("two"));
  await page.locator("#arms button").nth(1).click();
  assert.ok((await hover(page, "loss", 0.5)).includes("two"));
  await page.mouse.move(5, 300);
  assert.ok(!(await page.locator("#tooltip").isVisible()));

  tell("a map tells the value of a cell");
  const map = page.locator("#map_score_map canvas").first();
  await map.scrollIntoViewIfNeeded();
  const box = await map.boundingBox();
  await page.mouse.move(box.x + box.width * 0.49, box.y + 3);
  assert.match(await page.locator("#tooltip").innerText(), /step 100, layer 3\s+sink score 0\.07/);

  tell("groups, logarithmic axes and the theme change the picture");
  const before = await picture(page, "score");
  await page.locator("#chart_score .groups button", {hasText: "P1"}).click();
  assert.notEqual(await picture(page, "score"), before);
  await page.locator("#chart_score .groups button", {hasText: "P0"}).click();
  for (const axis of ["log_y", "log_x"]) {
    const linear = await picture(page, "loss");
    await page.click("#chart_loss ." + axis);
    assert.equal(await page.getAttribute("#chart_loss ." + axis, "aria-pressed"), "true");
    assert.notEqual(await picture(page, "loss"), linear, axis);
  }
  const middle = await hover(page, "loss", 0.5);
  assert.ok(stepIn(middle) > 10 && stepIn(middle) < 20, "the middle of a logarithmic axis: " + middle);
  await page.click("#chart_loss .log_x");
  await page.click("#chart_loss .log_y");
  const colour = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.equal(await colour(), "rgb(255, 255, 255)");
  await page.click("#theme");
  assert.equal(await colour(), "rgb(20, 22, 26)");
  await shot(page, "dark");
  await page.click("#theme");

  tell("a drag zooms, new data leave the zoom alone, reset ends it");
  assert.ok(!(await page.locator("#chart_loss .reset").isVisible()));
  await drag(page, "loss", 0.25, 0.5);
  await until("a zoom", () => page.locator("#chart_loss .reset").isVisible());
  const left = stepIn(await hover(page, "loss", 0.02)), right = stepIn(await hover(page, "loss", 0.98));
  assert.ok(left > 45 && left < 56 && right > 94 && right < 106, left + " to " + right);
  await shot(page, "zoomed");

  tell("what is appended appears by itself; a torn line waits for its end");
  const torn = one.stepLine(231);
  one.log(201, 230);
  one.append("metrics.jsonl", torn.slice(0, 300));
  await until("step 230", async () => (await page.locator("#live").innerText()).includes("step 230 of 400"));
  await wait(1500);
  assert.ok((await page.locator("#live").innerText()).includes("one: no process trains here, step 230"));
  assert.equal(stepIn(await hover(page, "loss", 0.02)), left, "the zoom stays");
  one.append("metrics.jsonl", torn.slice(300));
  await until("step 231", async () => (await page.locator("#live").innerText()).includes("step 231"));
  await page.click("#chart_loss .reset");
  assert.ok(stepIn(await hover(page, "loss", 0.995)) >= 230);
  assert.ok(!(await page.locator("#chart_loss .reset").isVisible()));

  tell("CSV and PNG");
  const csv = await download(page, "#chart_loss .csv");
  assert.equal(csv.name, "sinkscope-loss.csv");
  const rows = rowsOf(csv);
  assert.equal(rows[0][0], "step");
  const column = rows[0].findIndex((name) => name.includes("one") && name.includes("train") || name === '"one');
  assert.ok(column > 0, rows[0].join("|"));
  const last = rows[rows.length - 1];
  assert.equal(last[0], "231");
  assert.ok(last.some((cell) => Math.abs(Number(cell) - (3.5 - 231 / 400)) < 1e-4), last.join("|"));
  const maps = rowsOf(await download(page, "#map_ratio_map .csv"));
  assert.deepEqual(maps[0], ["run", "from step", "to step", "layer", "P0 / others"]);
  assert.equal(maps.length, 1 + 4 * (24 + 21));
  for (const selector of ["#chart_loss .png", "#map_score_map .png"]) {
    const png = await download(page, selector);
    assert.equal(png.bytes.subarray(1, 4).toString(), "PNG");
    assert.ok(png.bytes.readUInt32BE(16) > 400 && png.bytes.readUInt32BE(20) > 100, "its size");
    assert.ok(png.bytes.length > 3000, "not blank");
    if (screenshots) fs.writeFileSync(path.join(screenshots, png.name), png.bytes);
  }

  tell("a run that appears is picked up; a resume that cuts logs back is followed");
  const three = new Run(late, {name: "late", planned: 400, rise: 1});
  three.log(0, 50);
  await until("late", async () => /late: no process trains here, step 50/.test(await page.locator("#live").innerText()));
  await until("its map", async () => (await page.locator("#heatmaps canvas").count()) === 6);
  const swatches = await page.evaluate(() => [...document.querySelectorAll("#arms .swatch")].map((node) => getComputedStyle(node).backgroundColor));
  assert.equal(swatches.length, 3);
  assert.equal(new Set(swatches).size, 3, "runs of one arm have shades of their own: " + swatches);
  const comparability = await page.locator("#comparability").innerText();
  assert.ok(comparability.includes("Runs of one seed repeat one another"), comparability);
  one.cutTo(100);
  await until("step 100", async () => (await page.locator("#live").innerText()).includes("one: no process trains here, step 100 "));
  one.log(101, 110);
  one.event(400, "end", "training ends");
  await until("the end", async () => (await page.locator("#live").innerText()).includes("one: finished, step 110"));

  tell("nothing new costs nothing");
  await wait(1200);
  seen.statuses.length = 0;
  await wait(3200);
  assert.ok(seen.statuses.length >= 2, "it asks");
  assert.ok(seen.statuses.every((status) => status === 304), seen.statuses.join());

  tell("no request leaves the server, and nothing is wrong");
  assert.deepEqual(seen.errors, []);
  assert.deepEqual(seen.requests.filter((url) => !url.startsWith(server.url) && !/^(blob|data):/.test(url)), []);

  tell("Ctrl-C ends the server, and the page says so");
  server.child.kill("SIGINT");
  assert.deepEqual(await server.exited, {code: 0, signal: null});
  server = null;
  await until("the loss", async () => (await page.locator("#live").innerText()).includes("does not answer"));
  await page.close();
}

async function checkReport() {
  tell("the report page alone");
  const report = path.join(place, "report.html");
  execFileSync(program, ["compare", path.join(place, "runs/one"), path.join(place, "runs/two"), "--html", report],
    {env: {...process.env, SINKSCOPE_ASSETS: path.join(sourceDir, ".cache/assets")}});
  const {page, seen} = await openPage("file://" + report);
  await until("charts", async () => (await page.locator("#charts canvas").count()) >= 8);
  assert.ok((await hover(page, "excess", 0.5)).includes("two, P0"));
  await drag(page, "loss", 0.2, 0.4);
  await until("a zoom", () => page.locator("#chart_loss .reset").isVisible());
  await page.locator("#arms button").nth(0).click();
  assert.ok(await page.locator("#chart_loss .reset").isVisible(), "the zoom outlives other changes");
  const csv = await download(page, "#chart_excess .csv");
  assert.ok(csv.bytes.toString().startsWith('step,"two, P0"\r\n0,1\r\n'), csv.bytes.toString().slice(0, 80));
  await wait(1500);
  assert.deepEqual(seen.errors, []);
  assert.deepEqual(seen.requests.filter((url) => !/^(file|blob|data):/.test(url)), []);
  await page.close();
}

let failed = false;
try {
  await checkLive();
  await checkReport();
} catch (error) {
  failed = true;
  console.error("FAILED in: " + step + "\n" + (error.stack || error));
  for (const page of context.pages()) await shot(page, "failed").catch(() => {});
}
if (server) server.child.kill("SIGKILL");
await context.close();
fs.rmSync(place, {recursive: true, force: true});
if (!failed) console.log("passed");
process.exit(failed ? 1 : 0);
