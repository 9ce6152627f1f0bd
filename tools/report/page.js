// Draws the curves, bands and maps of the payload. Pure functions first, so that they run without a document.
"use strict";
(function (root) {
  // Series of one group and of the arms shown, on one axis: uPlot's aligned data. Places where a
  // series has no point are undefined (the line goes on), places without a value null (it breaks).
  function align(series) {
    const xs = [...new Set(series.flatMap((s) => s.x))].sort((a, b) => a - b);
    const place = new Map(xs.map((x, i) => [x, i]));
    const data = [xs];
    for (const s of series) {
      const ys = new Array(xs.length).fill(undefined);
      s.x.forEach((x, i) => { ys[place.get(x)] = s.y[i]; });
      data.push(ys);
    }
    return data;
  }

  function select(chart, group, shown) {
    return chart.series.filter((s) => s.group === group && shown[s.arm]);
  }

  // [x, low, high] where a series has an interval.
  function intervals(series) {
    if (!series.low) return [];
    return series.x.map((x, i) => [x, series.low[i], series.high[i]]).filter(([, low, high]) => low !== null && high !== null);
  }

  // Index of the value nearest to `index` that is there, or null.
  function nearest(values, index) {
    for (let d = 0; d < values.length; ++d)
      for (const i of [index - d, index + d])
        if (i >= 0 && i < values.length && values[i] !== undefined && values[i] !== null) return i;
    return null;
  }

  function format(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(2);
    return String(+value.toPrecision(4));
  }

  // Logarithmic axes have no place for what is not positive.
  function usable(data, log) {
    if (!log) return data;
    return data.map((ys, i) => i === 0 ? ys : ys.map((y) => (typeof y === "number" && y <= 0 ? null : y)));
  }

  root.SinkscopePage = {align, select, intervals, nearest, format, usable};
  if (typeof document === "undefined") return;

  const payload = JSON.parse(document.getElementById("payload").textContent);
  const shown = payload.arms.map(() => true);
  const lastStep = Math.max(1, payload.last_step);
  const tooltip = document.getElementById("tooltip");
  const redraws = [];

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const armColour = (arm) => css("--a" + payload.arms[arm].colour % 8);
  const redraw = () => redraws.forEach((f) => f());

  function element(tag, parent, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  }

  function swatch(parent, arm) {
    const node = element("span", parent, "swatch");
    node.style.background = "var(--a" + payload.arms[arm].colour % 8 + ")";
  }

  // `lines`: [arm or null, text]; at the pointer, kept inside the window.
  function showTooltip(event, title, lines) {
    tooltip.textContent = "";
    element("b", tooltip, "", title);
    for (const [arm, text] of lines) {
      const line = element("div", tooltip);
      if (arm !== null) swatch(line, arm);
      element("span", line, "", text);
    }
    tooltip.hidden = false;
    const box = tooltip.getBoundingClientRect();
    tooltip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8)) + "px";
    tooltip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - box.height - 8)) + "px";
  }
  const hideTooltip = () => { tooltip.hidden = true; };

  // ---- arms and theme ---------------------------------------------------------------------------
  payload.arms.forEach((arm, i) => {
    const button = element("button", document.getElementById("arms"));
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.title = "BOS " + arm.bos + "; click to hide or show";
    swatch(button, i);
    element("span", button, "", arm.label);
    button.onclick = () => {
      shown[i] = !shown[i];
      button.setAttribute("aria-pressed", String(shown[i]));
      redraw();
    };
  });
  document.getElementById("theme").onclick = () => {
    const html = document.documentElement;
    const dark = html.dataset.theme ? html.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    html.dataset.theme = dark ? "light" : "dark";
    redraw();
  };

  function armName(parent, arm) {
    const name = element("div", parent, "name");
    swatch(name, arm);
    element("span", name, "", payload.arms[arm].label);
    name.title = payload.arms[arm].label;
  }

  function stepAxis(parent) {
    const row = element("div", parent, "row");
    element("div", row);
    const axis = element("div", row, "axis");
    for (const part of [0, 0.25, 0.5, 0.75, 1]) element("span", axis, "", (part === 1 ? "step " : "") + Math.round(lastStep * part));
  }

  // ---- phases -----------------------------------------------------------------------------------
  function drawPhases() {
    const rows = document.getElementById("phase_rows");
    rows.textContent = "";
    payload.arms.forEach((arm, i) => {
      if (!shown[i]) return;
      const row = element("div", rows, "row");
      armName(row, i);
      const band = element("div", row, "band");
      const span = (from, to, className, text) => {
        const node = element("span", band, className, text);
        node.style.left = 100 * from / lastStep + "%";
        if (to !== null) node.style.width = 100 * Math.max(to - from, 0) / lastStep + "%";
        node.onmousemove = (event) => showTooltip(event, arm.label, [[i,
          to === null ? "sink onset at step " + from : (className === "low" ? "low learning rate" : text) + ", steps " + from + " to " + to]]);
        node.onmouseleave = hideTooltip;
      };
      for (const p of arm.phases) span(p.from, p.to, ["wandering", "transition", "stable"].includes(p.phase) ? p.phase : "", p.phase);
      for (const p of arm.low_rate) span(p.from, p.to, "low", "");
      if (arm.onset !== null) span(arm.onset, null, "onset", "");
    });
    stepAxis(rows);
  }
  if (payload.arms.some((arm) => arm.phases.length || arm.low_rate.length)) {
    document.getElementById("phases").hidden = false;
    redraws.push(drawPhases);
  }

  // ---- curves -----------------------------------------------------------------------------------
  // The intervals of the series shown, one bar a value, and the lines and steps that are marked.
  function marks(chart, series) {
    return (u) => {
      const c = u.ctx, {left, top, width, height} = u.bbox, ratio = devicePixelRatio || 1;
      c.save();
      c.beginPath();
      c.rect(left, top, width, height);
      c.clip();
      c.strokeStyle = css("--soft");
      c.setLineDash([6 * ratio, 4 * ratio]);
      c.lineWidth = ratio;
      for (const line of chart.lines) {
        const y = u.valToPos(line, "y", true);
        c.beginPath();
        c.moveTo(left, y);
        c.lineTo(left + width, y);
        c.stroke();
      }
      c.setLineDash([]);
      c.lineWidth = 1.5 * ratio;
      for (const s of series) {
        c.strokeStyle = armColour(s.arm);
        c.globalAlpha = 0.6;
        for (const [x, low, high] of intervals(s)) {
          const place = u.valToPos(x, "x", true);
          c.beginPath();
          c.moveTo(place, u.valToPos(low, "y", true));
          c.lineTo(place, u.valToPos(high, "y", true));
          c.stroke();
        }
      }
      c.globalAlpha = 1;
      c.lineWidth = ratio;
      if (chart.x === "step") payload.arms.forEach((arm, i) => {
        if (!shown[i]) return;
        c.strokeStyle = c.fillStyle = armColour(i);
        for (const low of arm.low_rate) {
          const x = u.valToPos(low.from, "x", true);
          c.globalAlpha = 0.06;
          c.fillRect(x, top, u.valToPos(low.to, "x", true) - x, height);
          c.globalAlpha = 0.6;
          c.setLineDash([ratio, 3 * ratio]);
          c.beginPath();
          c.moveTo(x, top);
          c.lineTo(x, top + height);
          c.stroke();
        }
        c.globalAlpha = 1;
        if (chart.id === "excess" && arm.onset !== null) {
          const x = u.valToPos(arm.onset, "x", true);
          c.setLineDash([]);
          c.beginPath();
          c.moveTo(x, top);
          c.lineTo(x, top + height);
          c.stroke();
        }
      });
      c.restore();
    };
  }

  function seriesOptions(s) {
    const stroke = armColour(s.arm);
    const options = {stroke, width: 2, points: {show: s.x.length < 2, size: 6, fill: stroke}};
    if (s.style === "faint") { options.width = 1; options.alpha = 0.25; }
    if (s.style === "dashed") options.dash = [6, 4];
    if (s.style === "points") { options.width = 1; options.dash = [2, 3]; options.points = {show: true, size: 6, fill: stroke}; }
    return options;
  }

  function addChart(chart) {
    const box = element("div", document.getElementById("charts"), "chart");
    box.id = "chart_" + chart.id;
    element("h2", box, "", chart.title);
    element("p", box, "note", chart.note);
    const groups = element("div", box, "groups");
    const used = chart.groups.map((_, g) => chart.series.some((s) => s.group === g));
    let group = Math.max(0, used.indexOf(true)), plot = null;
    const plotBox = element("div", box, "plot");
    if (used.filter(Boolean).length > 1) chart.groups.forEach((name, g) => {
      if (!used[g]) return;
      const button = element("button", groups, "", name);
      button.type = "button";
      button.setAttribute("aria-pressed", String(g === group));
      button.onclick = () => {
        group = g;
        for (const b of groups.children) b.setAttribute("aria-pressed", String(b === button));
        draw();
      };
    });
    function draw() {
      if (plot) plot.destroy();
      plot = null;
      const series = select(chart, group, shown);
      if (!series.length) return;
      const data = usable(align(series), chart.log);
      const axis = {stroke: css("--ink"), grid: {stroke: css("--line"), width: 1}, ticks: {stroke: css("--line"), width: 1}};
      const layers = chart.x === "layer" ? {incrs: [1, 2, 5, 10, 20, 50]} : {};
      plot = new uPlot({
        width: Math.max(260, plotBox.clientWidth), height: 280,
        scales: {
          x: {time: false, range: chart.x === "step" ? (u, low, high) => (low === 0 && high === lastStep) || low === high ? [0, lastStep] : [low, high] : undefined},
          y: {distr: chart.log ? 3 : 1, range: chart.log ? undefined : (u, low, high) => {
            if (low === null) return [0, 1];
            for (const line of chart.lines) { low = Math.min(low, line); high = Math.max(high, line); }
            for (const s of series) for (const [, from, to] of intervals(s)) { low = Math.min(low, from); high = Math.max(high, to); }
            const pad = (high - low || Math.abs(high) || 1) * 0.06;
            return [low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
          }},
        },
        axes: [{...axis, ...layers, label: chart.x, labelSize: 22},
               {...axis, size: 64, label: chart.groups.length > 1 && !chart.y ? chart.groups[group] : chart.y, labelSize: 22,
                values: (u, ticks) => ticks.map((t) => t === null ? "" : format(t))}],
        series: [{}, ...series.map(seriesOptions)],
        legend: {show: false},
        cursor: {sync: chart.x === "step" ? {key: "steps", scales: ["x", null]} : undefined, points: {show: false}},
        hooks: {draw: [marks(chart, series)]},
      }, data, plotBox);
      const over = plot.over;
      over.addEventListener("mousemove", (event) => {
        const index = plot.cursor.idx;
        if (index === null || index === undefined) return hideTooltip();
        const lines = [];
        series.forEach((s, i) => {
          if (s.style === "faint") return;
          const found = nearest(data[i + 1], index);
          if (found === null) return;
          const where = data[0][found] === data[0][index] ? "" : " (at " + data[0][found] + ")";
          const bar = intervals(s).find(([x]) => x === data[0][found]);
          const around = bar ? " [" + format(bar[1]) + ", " + format(bar[2]) + "]" : "";
          lines.push([s.arm, payload.arms[s.arm].label + ", " + s.name + ": " + format(data[i + 1][found]) + around + where]);
        });
        showTooltip(event, chart.x + " " + data[0][index], lines);
      });
      over.addEventListener("mouseleave", hideTooltip);
    }
    redraws.push(draw);
  }
  payload.charts.forEach(addChart);

  // ---- maps -------------------------------------------------------------------------------------
  function addHeatmap(heatmap) {
    const heat = root.SinkscopeHeatmap;
    const section = element("section", document.getElementById("heatmaps"));
    section.id = "map_" + heatmap.id;
    element("h2", section, "", heatmap.title);
    element("p", section, "note", heatmap.note + " Layer 0 is the lowest row.");
    const scale = element("div", section, "scale");
    element("span", scale, "", format(heatmap.low));
    const stops = [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1];
    element("i", scale).style.background = "linear-gradient(90deg," + stops.map(heat.colour).join(",") + ")";
    element("span", scale, "", format(heatmap.high) + " " + heatmap.unit);
    const rows = element("div", section);
    redraws.push(() => {
      rows.textContent = "";
      for (const map of heatmap.maps) {
        if (!shown[map.arm]) continue;
        const row = element("div", rows, "row");
        armName(row, map.arm);
        const canvas = element("canvas", row);
        canvas.style.height = Math.min(320, Math.max(48, 18 * map.values.length)) + "px";
        heat.paint(canvas, heatmap, map, lastStep);
        canvas.onmousemove = (event) => {
          const box = canvas.getBoundingClientRect();
          const found = heat.cell(map, lastStep, event.clientX - box.left, event.clientY - box.top, box.width, box.height);
          if (!found) return hideTooltip();
          showTooltip(event, "step " + found.step + ", layer " + found.row, [[map.arm, heatmap.unit + " " + format(found.value)]]);
        };
        canvas.onmouseleave = hideTooltip;
      }
      stepAxis(rows);
    });
  }
  payload.heatmaps.forEach(addHeatmap);

  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  redraw();
})(typeof window === "undefined" ? globalThis : window);
