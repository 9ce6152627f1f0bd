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
    if (value === null || value === undefined) return "-";
    const size = Math.abs(value);
    if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(2);
    return String(+value.toPrecision(4));
  }

  // Logarithmic axes have no place for what is not positive.
  function usable(data, log) {
    if (!log) return data;
    return data.map((ys, i) => i === 0 ? ys : ys.map((y) => (typeof y === "number" && y <= 0 ? null : y)));
  }

  // Places of the marks on a logarithmic axis: round numbers in a short range, else 1, 2, 5 or powers of ten.
  function logTicks(low, high) {
    const ticks = [];
    const round = (value) => Number(value.toPrecision(12));
    if (high / low < 20) {
      const size = 10 ** Math.floor(Math.log10((high - low) / 8));
      const step = [1, 2, 5, 10].map((f) => f * size).find((s) => (high - low) / s <= 9);
      for (let i = Math.ceil(low / step); i * step <= high; ++i) ticks.push(round(i * step));
      return ticks;
    }
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; ++power)
      for (const factor of high / low < 1e4 ? [1, 2, 5] : [1]) {
        const tick = round(factor * 10 ** power);
        if (tick >= low && tick <= high) ticks.push(tick);
      }
    return ticks;
  }

  root.SinkscopePage = {align, select, intervals, nearest, format, usable, logTicks};
  if (typeof document === "undefined") return;

  const exporting = root.SinkscopeExport;
  let payload = {arms: [], last_step: 0, charts: [], heatmaps: [], events: []};
  let lastStep = 1;
  const shown = [];               // by arm
  const charts = new Map();       // id -> {update, draw, zoom, box}
  const heatmaps = new Map();
  const tooltip = document.getElementById("tooltip");

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Runs that differ in their seed alone have shades of one colour: how much of it, the rest being paper.
  const shade = (arm) => {
    const before = payload.arms.slice(0, arm).filter((other) => other.colour === payload.arms[arm].colour).length;
    return 1 / (1 + 0.6 * before);
  };
  const armColour = (arm) => {
    const channels = (name) => {  // of #rgb or #rrggbb
      const digits = css(name).slice(1), each = digits.length / 3;
      return [0, 1, 2].map((i) => parseInt(digits.slice(i * each, (i + 1) * each).repeat(3 - each), 16));
    };
    const paper = channels("--paper"), part = shade(arm);
    return "rgb(" + channels("--a" + payload.arms[arm].colour % 8)
      .map((channel, i) => Math.round(part * channel + (1 - part) * paper[i])).join(",") + ")";
  };
  const redraw = () => {
    drawPhases();
    drawEvents();
    for (const view of [...charts.values(), ...heatmaps.values()]) view.draw();
  };

  function element(tag, parent, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  }

  function swatch(parent, arm) {
    const node = element("span", parent, "swatch");
    node.style.background = "color-mix(in srgb, var(--a" + payload.arms[arm].colour % 8 + ") " + 100 * shade(arm) + "%, var(--paper))";
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
  function drawArms() {
    const box = document.getElementById("arms");
    box.textContent = "";
    payload.arms.forEach((arm, i) => {
      if (shown[i] === undefined) shown[i] = true;
      const button = element("button", box);
      button.type = "button";
      button.setAttribute("aria-pressed", String(shown[i]));
      button.title = "BOS " + arm.bos + "; click to hide or show";
      swatch(button, i);
      element("span", button, "", arm.label);
      button.onclick = () => {
        shown[i] = !shown[i];
        button.setAttribute("aria-pressed", String(shown[i]));
        redraw();
      };
    });
  }
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
    document.getElementById("phases").hidden = !payload.arms.some((arm) => arm.phases.length || arm.low_rate.length);
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
  // ---- events -----------------------------------------------------------------------------------
  function drawEvents() {
    const rows = document.getElementById("event_rows");
    rows.textContent = "";
    document.getElementById("events").hidden = !payload.events.length;
    for (const event of payload.events) {
      if (!shown[event.arm]) continue;
      const row = element("tr", rows, "event_" + event.kind);
      element("td", row, "", String(event.step));
      swatch(element("td", row), event.arm);
      row.lastChild.append(payload.arms[event.arm].label);
      element("td", row, "", event.kind);
      element("td", row, "", event.message);
    }
  }

  // ---- curves -----------------------------------------------------------------------------------
  // The intervals of the series shown, one bar a value, and the lines and steps that are marked.
  function marks(chart, seriesOf) {
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
      for (const s of seriesOf()) {
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

  function toolButton(parent, text, title, action) {
    const button = element("button", parent, "", text);
    button.type = "button";
    button.title = title;
    button.onclick = action;
    return button;
  }

  function xRange(u, low, high) {
    if (low === null) return [0, lastStep];
    return (low === 0 && high === lastStep) || low === high ? [0, lastStep] : [low, high];
  }

  // Logarithmic axes end near the data, not at the next powers of ten.
  function logRange(margin) {
    return (u, low, high) => low === null || !(low > 0) ? [1, 10] : low === high ? [low / 2, high * 2] : [low / margin, high * margin];
  }

  // One chart of the page. `update` takes its newer data, and leaves the group, the zoom and the axes as they were chosen.
  function addChart(first) {
    let chart = first;
    const box = element("div", document.getElementById("charts"), "chart");
    box.id = "chart_" + chart.id;
    element("h2", box, "", chart.title);
    element("p", box, "note", chart.note);
    const groups = element("div", box, "groups");
    const tools = element("div", box, "tools");
    const plotBox = element("div", box, "plot");
    let group = null, plot = null, drawn = "", series = [], data = [[]];
    const logs = {x: false, y: null};  // y null: as the chart says
    const logY = () => logs.y === null ? chart.log : logs.y;
    const groupTitle = () => chart.groups.length > 1 && !chart.y ? chart.groups[group] : chart.y;

    for (const axis of ["x", "y"]) {
      const button = toolButton(tools, "log " + axis, "logarithmic " + axis + " axis", () => {
        logs[axis] = axis === "x" ? !logs.x : !logY();
        view.draw();
      });
      button.className = "log_" + axis;
    }
    const resetButton = toolButton(tools, "reset zoom", "show all steps again; a double click does so too", () => {
      for (const other of charts.values()) other.resetZoom();
    });
    resetButton.className = "reset";
    toolButton(tools, "PNG", "save the chart as an image", () => {
      const legend = series.filter((s) => s.style !== "faint")
        .map((s) => [armColour(s.arm), payload.arms[s.arm].label + ", " + s.name]);
      exporting.savePng("sinkscope-" + chart.id, {title: chart.title + (chart.groups.length > 1 ? ", " + chart.groups[group] : ""),
        paper: css("--paper"), ink: css("--ink"), legend, rows: plot ? [{canvas: plot.ctx.canvas}] : []});
    }).className = "png";
    toolButton(tools, "CSV", "save the curves that are shown as a table", () => {
      const columns = series.flatMap((s) => !s.low ? [s] :
        [s, {...s, name: s.name + ", low", y: s.low}, {...s, name: s.name + ", high", y: s.high}]);
      exporting.saveCsv("sinkscope-" + chart.id, [chart.x, ...columns.map((s) => payload.arms[s.arm].label + ", " + s.name)],
        exporting.columnsToRows(align(columns)));
    }).className = "csv";

    // Logarithmic steps have no place for step 0.
    function plotted() {
      let result = usable(align(series), logY());
      if (logs.x) {
        const begin = result[0].findIndex((x) => x > 0);
        result = result.map((column) => begin < 0 ? [] : column.slice(begin));
      }
      return result;
    }

    function drawGroups() {
      const used = chart.groups.map((_, g) => chart.series.some((s) => s.group === g));
      if (group === null || !used[group]) group = Math.max(0, used.indexOf(true));
      const named = used.filter(Boolean).length > 1 ? chart.groups.filter((_, g) => used[g]) : [];
      if ([...groups.children].map((b) => b.textContent).join("\n") !== named.join("\n")) {
        groups.textContent = "";
        for (const name of named) {
          toolButton(groups, name, "", () => {
            group = chart.groups.indexOf(name);
            view.draw();
          });
        }
      }
      for (const button of groups.children) button.setAttribute("aria-pressed", String(button.textContent === chart.groups[group]));
    }

    // What a plot is made for; with the same, newer data go into the plot that is there.
    function signature() {
      return JSON.stringify([group, logs.x, logY(), series.map((s) => [s.arm, s.name, s.style, s.x.length < 2]), chart.lines,
        css("--ink"), plotBox.clientWidth]);
    }

    function makePlot() {
      const axis = {stroke: css("--ink"), grid: {stroke: css("--line"), width: 1}, ticks: {stroke: css("--line"), width: 1}};
      const layers = chart.x === "layer" ? {incrs: [1, 2, 5, 10, 20, 50]} : {};
      const log = logY();
      plot = new uPlot({
        width: Math.max(260, plotBox.clientWidth), height: 280,
        scales: {
          x: {time: false, distr: logs.x ? 3 : 1, range: logs.x ? logRange(1) : chart.x === "step" ? xRange : undefined},
          y: {distr: log ? 3 : 1, range: log ? logRange(1.1) : (u, low, high) => {
            if (low === null) return [0, 1];
            for (const line of chart.lines) { low = Math.min(low, line); high = Math.max(high, line); }
            for (const s of series) for (const [, from, to] of intervals(s)) { low = Math.min(low, from); high = Math.max(high, to); }
            const pad = (high - low || Math.abs(high) || 1) * 0.06;
            return [low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
          }},
        },
        axes: [{...axis, ...layers, label: chart.x, labelSize: 22},
               {...axis, size: 64, label: groupTitle(), labelSize: 22,
                ...(log ? {splits: (u, _, low, high) => logTicks(low, high), filter: (u, ticks) => ticks} : {}),
                values: (u, ticks) => ticks.map((t) => t === null ? "" : format(t))}],
        series: [{}, ...series.map(seriesOptions)],
        legend: {show: false},
        cursor: {sync: chart.x === "step" ? {key: "steps", scales: ["x", null]} : undefined, points: {show: false}},
        hooks: {draw: [marks(chart, () => series)], setScale: [(u, key) => {
          if (key !== "x" || !u.data[0].length) return;
          const {min, max} = u.scales.x, xs = u.data[0];
          view.zoom = min > xs[0] || max < xs[xs.length - 1] ? [min, max] : null;
          resetButton.hidden = view.zoom === null;
        }]},
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

    const view = {
      box,
      zoom: null,
      update(newer) {
        chart = newer;
        view.draw();
      },
      draw() {
        drawGroups();
        tools.querySelector(".log_x").hidden = chart.x !== "step";
        tools.querySelector(".log_x").setAttribute("aria-pressed", String(logs.x));
        tools.querySelector(".log_y").setAttribute("aria-pressed", String(logY()));
        series = select(chart, group, shown);
        data = plotted();
        const zoom = view.zoom;
        resetButton.hidden = zoom === null;
        if (!series.length || !data[0].length) {
          if (plot) plot.destroy();
          plot = null;
          return;
        }
        if (plot && drawn === signature()) {
          plot.setData(data, zoom === null);
        } else {
          if (plot) plot.destroy();
          makePlot();
          drawn = signature();
        }
        if (zoom !== null) plot.setScale("x", {min: zoom[0], max: zoom[1]});
      },
      resetZoom() {
        view.zoom = null;
        if (plot) plot.setScale("x", {min: data[0][0], max: data[0][data[0].length - 1]});
        resetButton.hidden = true;
      },
      remove() {
        if (plot) plot.destroy();
        box.remove();
      },
    };
    return view;
  }

  // ---- maps -------------------------------------------------------------------------------------
  function addHeatmap(first) {
    let heatmap = first;
    const heat = root.SinkscopeHeatmap;
    const section = element("section", document.getElementById("heatmaps"));
    section.id = "map_" + heatmap.id;
    element("h2", section, "", heatmap.title);
    element("p", section, "note", heatmap.note + " Layer 0 is the lowest row.");
    const tools = element("div", section, "tools");
    const scale = element("div", section, "scale");
    const low = element("span", scale);
    const stops = [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1];
    element("i", scale).style.background = "linear-gradient(90deg," + stops.map(heat.colour).join(",") + ")";
    const high = element("span", scale);
    const rows = element("div", section);
    let painted = [];  // {canvas, label} as shown
    toolButton(tools, "PNG", "save the maps as an image", () => exporting.savePng("sinkscope-" + heatmap.id, {
      title: heatmap.title + ", " + low.textContent + " to " + high.textContent + ", steps 0 to " + lastStep,
      paper: css("--paper"), ink: css("--ink"), legend: [], rows: painted})).className = "png";
    toolButton(tools, "CSV", "save the maps that are shown as a table", () => exporting.saveCsv("sinkscope-" + heatmap.id,
      ["run", "from step", "to step", "layer", heatmap.unit],
      exporting.mapRows(heatmap.maps.filter((map) => shown[map.arm]), payload.arms))).className = "csv";
    return {
      update(newer) {
        heatmap = newer;
        this.draw();
      },
      draw() {
        low.textContent = format(heatmap.low);
        high.textContent = format(heatmap.high) + " " + heatmap.unit;
        rows.textContent = "";
        painted = [];
        for (const map of heatmap.maps) {
          if (!shown[map.arm]) continue;
          const row = element("div", rows, "row");
          armName(row, map.arm);
          const canvas = element("canvas", row);
          canvas.style.height = Math.min(320, Math.max(48, 18 * map.values.length)) + "px";
          heat.paint(canvas, heatmap, map, lastStep);
          painted.push({canvas, label: payload.arms[map.arm].label});
          canvas.onmousemove = (event) => {
            const box = canvas.getBoundingClientRect();
            const found = heat.cell(map, lastStep, event.clientX - box.left, event.clientY - box.top, box.width, box.height);
            if (!found) return hideTooltip();
            showTooltip(event, "step " + found.step + ", layer " + found.row, [[map.arm, heatmap.unit + " " + format(found.value)]]);
          };
          canvas.onmouseleave = hideTooltip;
        }
        stepAxis(rows);
      },
      remove() { section.remove(); },
    };
  }

  // Views of `list` by id: new ones are added, in order, those without data go, the others take theirs.
  function reconcile(views, list, add) {
    const ids = list.map((entry) => entry.id);
    for (const [id, view] of [...views])
      if (!ids.includes(id)) {
        view.remove();
        views.delete(id);
      }
    const kept = [...views.keys()];
    if (kept.some((id, i) => id !== ids[i])) {  // one that belongs before others: build all anew
      for (const view of views.values()) view.remove();
      views.clear();
    }
    for (const entry of list) {
      if (!views.has(entry.id)) views.set(entry.id, add(entry));
      views.get(entry.id).update(entry);
    }
  }

  // Shows a payload, the first or a newer one.
  root.SinkscopePage.show = (newer) => {
    const labels = (p) => JSON.stringify(p.arms.map((arm) => [arm.label, arm.bos, arm.colour]));
    const armsChanged = labels(payload) !== labels(newer);
    payload = newer;
    lastStep = Math.max(1, payload.last_step);
    if (armsChanged) drawArms();
    drawPhases();
    drawEvents();
    reconcile(charts, payload.charts, addChart);
    reconcile(heatmaps, payload.heatmaps, addHeatmap);
  };

  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  root.SinkscopePage.show(JSON.parse(document.getElementById("payload").textContent));
})(typeof window === "undefined" ? globalThis : window);
