// Charts, maps and their numbers as files. Pure functions first, so that they run without a document.
"use strict";
(function (root) {
  // RFC 4180; a cell that a spreadsheet would take for a formula is text.
  function csvCell(value) {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? "'" + value : value;
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  }

  function csv(header, rows) {
    return [header, ...rows].map((row) => row.map(csvCell).join(",") + "\r\n").join("");
  }

  function columnsToRows(columns) {
    return columns[0].map((_, i) => columns.map((column) => column[i]));
  }

  // One row a cell of the maps: run, from step, to step, layer, value.
  function mapRows(maps, arms) {
    const rows = [];
    for (const map of maps)
      map.values.forEach((values, layer) => values.forEach((value, column) => {
        rows.push([arms[map.arm].label, map.from[column], map.to[column], layer, value]);
      }));
    return rows;
  }

  root.SinkscopeExport = {csv, columnsToRows, mapRows};
  if (typeof document === "undefined") return;

  function save(name, blob) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  root.SinkscopeExport.saveCsv = (name, header, rows) =>
    save(name + ".csv", new Blob([csv(header, rows)], {type: "text/csv"}));

  // `rows`: [{canvas, label?}] one below the other, under the title; `legend`: [[colour, text]].
  root.SinkscopeExport.savePng = (name, {title, paper, ink, legend, rows}) => {
    const ratio = devicePixelRatio || 1, line = 20 * ratio, margin = 12 * ratio;
    const width = Math.max(320 * ratio, ...rows.map((row) => row.canvas.width)) + 2 * margin;
    const labels = rows.filter((row) => row.label !== undefined).length;
    const height = 2 * margin + line * (1.5 + labels + legend.length) + rows.reduce((sum, row) => sum + row.canvas.height + margin, 0);
    const canvas = document.createElement("canvas");
    canvas.width = Math.ceil(width);
    canvas.height = Math.ceil(height);
    const c = canvas.getContext("2d");
    c.fillStyle = paper;
    c.fillRect(0, 0, canvas.width, canvas.height);
    c.fillStyle = ink;
    c.textBaseline = "top";
    c.font = "600 " + 15 * ratio + "px system-ui, sans-serif";
    let y = margin;
    c.fillText(title, margin, y, width - 2 * margin);
    y += 1.5 * line;
    c.font = 13 * ratio + "px system-ui, sans-serif";
    for (const row of rows) {
      if (row.label !== undefined) {
        c.fillText(row.label, margin, y, width - 2 * margin);
        y += line;
      }
      c.drawImage(row.canvas, margin, y);
      y += row.canvas.height + margin;
    }
    for (const [colour, text] of legend) {
      c.fillStyle = colour;
      c.fillRect(margin, y + 2 * ratio, 12 * ratio, 12 * ratio);
      c.fillStyle = ink;
      c.fillText(text, margin + 20 * ratio, y, width - 3 * margin);
      y += line;
    }
    canvas.toBlob((blob) => save(name + ".png", blob), "image/png");
  };
})(typeof window === "undefined" ? globalThis : window);
