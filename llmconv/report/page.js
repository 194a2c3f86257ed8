"use strict";
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const $ = (selector) => document.querySelector(selector);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const PHASES = { toolchain: "--c7", checkpoint: "--c6", export: "--c8", compile: "--c1", stamp: "--c3", merge: "--c2", config: "--c7", manifest: "--c7", verify: "--c4" };
  const bytes = (n) => n >= 1e9 ? (n / 1e9).toFixed(1) + " GB" : n >= 1e6 ? (n / 1e6).toFixed(0) + " MB" : n >= 1e3 ? (n / 1e3).toFixed(0) + " kB" : n + " B";
  const seconds = (s) => s >= 5400 ? (s / 3600).toFixed(1) + " h" : s >= 90 ? (s / 60).toFixed(1) + " min" : s < 10 ? s.toFixed(2) + " s" : s.toFixed(1) + " s";
  const digits = (v) => v == null ? "–" : v === 0 ? "0" : v.toPrecision(3);
  const charts = [];

  // A plot in the element with this id: made again when the colours change, resized with the page.
  function plot(id, make) {
    const el = document.getElementById(id);
    if (!el) return;
    const chart = { el, make, u: null };
    charts.push(chart);
    draw(chart);
    new ResizeObserver(() => {
      if (chart.u && Math.abs(chart.u.width - el.clientWidth) > 1 && el.clientWidth) chart.u.setSize({ width: el.clientWidth, height: chart.u.height });
    }).observe(el);
  }
  function draw(chart) {
    if (chart.u) chart.u.destroy();
    chart.el.querySelectorAll(".tip").forEach((tip) => tip.remove());
    chart.u = chart.make(chart.el, chart.el.clientWidth || 320);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(draw));

  const axis = (more) => Object.assign({ stroke: css("--muted"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "12px system-ui, sans-serif" }, more);
  const time = (more) => axis(Object.assign({ values: (u, all) => all.map((v) => seconds(v)), space: 64, size: 32 }, more));

  let shown = D.main;
  const sync = { key: "time", setSeries: false };

  // ------------------------------------------------------------- who worked when
  function gantt(el, width) {
    const run = D.runs[shown], rows = run.rows.length, tip = document.createElement("div");
    tip.className = "tip"; tip.hidden = true;
    const side = width < 500 ? 58 : 74;
    const paint = (u) => {
      const ctx = u.ctx, px = devicePixelRatio, bars = Math.round(u.bbox.height / rows);
      ctx.save();
      ctx.beginPath(); ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height); ctx.clip();
      ctx.textBaseline = "middle"; ctx.textAlign = "left"; ctx.font = `${11 * px}px system-ui, sans-serif`;
      for (const pass of [false, true]) for (const s of run.spans) {
        if (s.critical !== pass) continue;
        const x = u.valToPos(s.begin, "x", true), w = Math.max(px, u.valToPos(s.end, "x", true) - x), y = u.bbox.top + s.row * bars + 3 * px, h = bars - 6 * px;
        ctx.fillStyle = css(s.how === "failed" || s.how === "retried" ? "--bad" : PHASES[s.phase] || "--c5");
        ctx.globalAlpha = s.how === "cached" || s.how === "stopped" ? 0.5 : 1;
        ctx.fillRect(x, y, w, h);
        ctx.globalAlpha = 1;
        if (s.critical) { ctx.fillStyle = css("--text"); ctx.fillRect(x, y + h - 3 * px, w, 3 * px); }
        if (w > 46 * px) {
          ctx.save(); ctx.beginPath(); ctx.rect(x, y, w - 4 * px, h); ctx.clip();
          ctx.fillStyle = "#fff"; ctx.fillText(s.name.replace(/^compile:/, ""), Math.max(x, u.bbox.left) + 5 * px, y + h / 2 - px); ctx.restore();
        }
      }
      ctx.restore();
    };
    const point = (u) => {
      const { left, top } = u.cursor;
      const row = Math.floor(top / (u.over.clientHeight / rows));
      const near = run.spans.filter((s) => s.row === row && left >= u.valToPos(s.begin, "x") - 3 && left <= u.valToPos(s.end, "x") + 3);
      const s = left < 0 ? null : near.sort((a, b) => (a.end - a.begin) - (b.end - b.begin))[0];
      tip.hidden = !s;
      if (!s) return;
      tip.textContent = [`${s.name}: ${s.how}`, `${seconds(s.end - s.begin)} from ${seconds(s.begin)}` + (s.peak ? `, ${bytes(s.peak)}` : ""), s.reason, s.critical ? "on the critical path" : ""].filter(Boolean).join("\n");
      const x = u.over.offsetLeft + left;
      tip.style.left = Math.max(0, Math.min(x + 12, el.clientWidth - 250)) + "px";
      tip.style.top = u.over.offsetTop + top + 14 + "px";
    };
    const u = new uPlot({
      width, height: 38 + rows * 30, legend: { show: false }, padding: [4, 12, 0, 0],
      cursor: { y: false, sync, points: { show: false }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { range: [0, rows], dir: -1 } },
      axes: [time(), axis({ side: 3, size: side, gap: 6, splits: () => run.rows.map((_, n) => n + 0.5), values: () => run.rows, grid: { show: false }, ticks: { show: false } })],
      series: [{}, { paths: () => null, points: { show: false } }],
      hooks: { draw: [paint], setCursor: [point] },
    }, [[0, Math.max(run.seconds, 0.01)], [null, null]], el);
    el.appendChild(tip);
    return u;
  }

  // ------------------------------------------------------------- memory over the same time
  function memory(el, width) {
    const run = D.runs[shown], m = run.memory, stepped = uPlot.paths.stepped({ align: 1 });
    const curves = [];
    if (m.measured) curves.push(["all processes, measured", m.measured, "--c1", true, null]);
    if (m.peaks) curves.push(["peaks of the tasks at work", m.peaks, "--c1", true, stepped]);
    curves.push(["set aside for tasks", m.reserved, "--c2", false, stepped]);
    const end = [[0, Math.max(run.seconds, 0.01)], [null, null]];
    const joined = uPlot.join([...curves.map((c) => c[1]), end]).slice(0, curves.length + 1);
    for (const values of joined.slice(1)) for (let i = 1; i < values.length; i++) if (values[i] == null) values[i] = values[i - 1];
    const top = Math.max(1, ...joined.slice(1).flat().map((v) => v || 0));
    const series = curves.map(([label, , colour, fill, paths]) => Object.assign({ label, stroke: css(colour), width: 1.5, fill: fill ? css(colour) + "33" : undefined, points: { show: false }, value: (u, v) => v == null ? "–" : bytes(v) }, paths ? { paths } : {}));
    if (m.budget && m.budget < 3 * top) {
      joined.push(joined[0].map(() => m.budget));
      series.push({ label: "budget", stroke: css("--bad"), dash: [6, 4], width: 1.5, points: { show: false }, value: (u, v) => bytes(m.budget) });
    }
    return new uPlot({
      width, height: 180, padding: [8, 12, 0, 0], cursor: { sync, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { range: (u, lo, hi) => [0, (hi || 1) * 1.08] } },
      axes: [time(), axis({ size: width < 500 ? 58 : 74, values: (u, all) => all.map(bytes) })],
      series: [{ label: "time", value: (u, v) => v == null ? "–" : seconds(v) }, ...series],
    }, joined, el);
  }

  // ------------------------------------------------------------- a bar for each net
  function bars(given, colour) {
    return (el, width) => new uPlot({
      width, height: 190, padding: [8, 12, 0, 0], cursor: { drag: { x: false, y: false } },
      scales: { x: { time: false, range: [-0.6, given.names.length - 0.4] }, y: { range: (u, lo, hi) => [0, (hi || 1) * 1.08] } },
      axes: [axis({ splits: () => given.names.map((_, n) => n).filter((n) => n % Math.ceil(given.names.length / (width / 46)) === 0), values: (u, all) => all.map((n) => given.short[n]), grid: { show: false } }),
        axis({ size: 72, values: (u, all) => all.map((v) => +v.toPrecision(6) + " ms") })],
      series: [{ label: "net", value: (u, v) => v == null ? "–" : given.names[v] }, { label: "estimate", fill: css(colour), stroke: css(colour), width: 0, paths: uPlot.paths.bars({ size: [0.7, 48] }), points: { show: false }, value: (u, v) => v == null ? "–" : v.toFixed(4) + " ms" }],
    }, [given.names.map((_, n) => n), given.ms], el);
  }

  // ------------------------------------------------------------- error of each layer
  function curves(e) { return (el, width) => {
    const colours = ["--c1", "--c2", "--c3", "--c4"];
    const series = e.series.map((s, n) => ({ label: s.label, stroke: css(s.faint ? "--c7" : colours[n % 4]), dash: s.faint ? [3, 3] : undefined, width: s.faint ? 1 : 1.75, spanGaps: false, points: { show: !s.faint, size: 6, fill: css("--card") }, value: (u, v) => digits(v) }));
    if (e.limit) series.push({ label: "limit", stroke: css("--bad"), dash: [6, 4], width: 1.25, points: { show: false }, value: (u, v) => digits(v) });
    return new uPlot({
      width, height: 230, padding: [8, 12, 0, 0], cursor: { drag: { x: false, y: false } },
      scales: { x: { time: false, range: (u, lo, hi) => [lo - 0.4, hi + 0.4] }, y: { range: (u, lo, hi) => [0, (hi || 1) * 1.1] } },
      axes: [axis({ label: "layer", labelSize: 18, labelFont: "12px system-ui, sans-serif", incrs: [1, 2, 4, 5, 8, 10, 20], grid: { show: false } }), axis({ size: 62, values: (u, all) => all.map((v) => +v.toPrecision(4)) })],
      series: [{ label: "layer", value: (u, v) => v == null ? "–" : v }, ...series],
    }, [e.layers, ...e.series.map((s) => s.values), ...(e.limit ? [e.limit] : [])], el);
  }; }

  if (D.runs.length) {
    plot("gantt", gantt);
    plot("memory", memory);
  }
  for (const [id, colour] of [["prefill", "--c1"], ["decode", "--c3"]]) if (D.latency[id]) plot(id, bars(D.latency[id], colour));
  for (const id of ["errors", "losses"]) if (D[id]) plot(id, curves(D[id]));

  const select = $("#run");
  if (select) select.addEventListener("change", () => {
    shown = +select.value;
    charts.filter((c) => c.el.id === "gantt" || c.el.id === "memory").forEach(draw);
    document.querySelectorAll("[data-run]").forEach((el) => { el.hidden = +el.dataset.run !== shown; });
  });
  const filter = $("#filter");
  if (filter) filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    document.querySelectorAll("#nets tbody tr").forEach((row) => { row.hidden = !words.every((w) => row.textContent.toLowerCase().includes(w)); });
  });
  document.documentElement.dataset.ready = charts.length;
})();
