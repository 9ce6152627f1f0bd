// Layer x step maps on a canvas. Pure functions first, so that they run without a document.
"use strict";
(function (root) {
  const STOPS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
                 [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];

  // Where `value` lies between low and high, 0..1; null when it has no place.
  function fraction(value, low, high, log) {
    if (value === null || value === undefined || (log && value <= 0)) return null;
    const f = log ? Math.log : Number;
    if (f(high) === f(low)) return 0.5;
    return Math.min(1, Math.max(0, (f(value) - f(low)) / (f(high) - f(low))));
  }

  function colour(part) {
    if (part === null) return "rgba(128,128,128,0.25)";
    const place = part * (STOPS.length - 1), i = Math.min(STOPS.length - 2, Math.floor(place)), t = place - i;
    return "rgb(" + STOPS[i].map((c, k) => Math.round(c + (STOPS[i + 1][k] - c) * t)).join(",") + ")";
  }

  // Column and row under a point of the map, or null; layer 0 is the lowest row.
  function cell(map, lastStep, x, y, width, height) {
    const step = x / width * lastStep, rows = map.values.length;
    const row = rows - 1 - Math.floor(y / height * rows);
    if (row < 0 || row >= rows) return null;
    for (let column = 0; column < map.from.length; ++column)
      if (step >= map.from[column] && step <= map.to[column])
        return {row, column, step: map.to[column], value: map.values[row][column]};
    return null;
  }

  function paint(canvas, heatmap, map, lastStep) {
    const ratio = root.devicePixelRatio || 1, rows = map.values.length;
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    for (let column = 0; column < map.from.length; ++column) {
      const left = Math.floor(map.from[column] / lastStep * width), right = Math.ceil(map.to[column] / lastStep * width);
      for (let row = 0; row < rows; ++row) {
        const top = Math.round((rows - 1 - row) / rows * height), bottom = Math.round((rows - row) / rows * height);
        context.fillStyle = colour(fraction(map.values[row][column], heatmap.low, heatmap.high, heatmap.log));
        context.fillRect(left, top, Math.max(1, right - left), bottom - top);
      }
    }
  }

  root.SinkscopeHeatmap = {fraction, colour, cell, paint};
})(typeof window === "undefined" ? globalThis : window);
