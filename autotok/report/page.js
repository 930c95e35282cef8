"use strict";
// The front over any two metrics: points and metrics come from the page, nothing from outside.
(() => {
  const data = JSON.parse(document.getElementById("points").textContent);
  const home = document.getElementById("front");
  if (!data.points.length || data.metrics.length < 2) return;
  home.hidden = false;
  const NS = "http://www.w3.org/2000/svg";
  const COLOUR = { trial: "#b8b8b8", front: "#0b6e4f", best: "#c1121f",
    uncompressed: "#2b59c3", "random control": "#d1720a", "smaller image": "#d1720a",
    "other backbone": "#d1720a", published: "#7b2d8b" };
  const HIGH = 440, PAD = { left: 62, right: 18, top: 14, bottom: 46 };
  const choose = (id, chosen) => {
    const box = document.getElementById(id);
    data.metrics.forEach((metric, i) => box.append(new Option(metric.axis, i, false, i === chosen)));
    box.addEventListener("change", draw);
    return box;
  };
  const all = document.getElementById("all"), elsewhere = document.getElementById("published");
  const some = data.points.some((p) => p.kind === "published");
  ["others", "cross"].forEach((id) => { document.getElementById(id).hidden = !some; });
  elsewhere.checked = Boolean(data.published);
  const said = document.getElementById("said");
  const svg = document.createElementNS(NS, "svg");
  document.getElementById("plot").append(svg);
  let across, up;

  const put = (name, attributes, text) => {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    svg.append(made);
    return made;
  };
  const written = (metric, value) => value == null ? "-" : `${+value.toPrecision(4)} ${metric.unit}`.trim();
  const shownOf = (x, y) => data.points.filter((p) => p.values[x.column] != null && p.values[y.column] != null
    && (p.kind !== "trial" || all.checked) && (p.kind !== "published" || elsewhere.checked));
  const better = (metric, a, b) => metric.higher ? a >= b : a <= b;
  // Over the run's own axes the front is the one that the final evaluation judged, as in the notes.
  const frontOf = (points, x, y) => {
    const own = x.own && y.own;
    const able = points.filter((p) => p.able && (p.kind === "best" || p.kind === "front"
      || (p.kind === "trial" && !own)));
    const value = (p, metric) => p.values[metric.column];
    const beats = (q, p) => better(x, value(q, x), value(p, x)) && better(y, value(q, y), value(p, y))
      && (value(q, x) !== value(p, x) || value(q, y) !== value(p, y));
    return able.filter((p) => !able.some((q) => beats(q, p))).sort((p, q) => value(p, x) - value(q, x));
  };

  const scale = (values, from, to) => {
    let low = Math.min(...values), high = Math.max(...values);
    const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    low = low >= 0 ? Math.max(0, low - room) : low - room;
    high += room;
    const raw = (high - low) / 6, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const ticks = [];
    for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) ticks.push(+t.toPrecision(12));
    return { at: (v) => from + (to - from) * (v - low) / (high - low), ticks };
  };

  const mark = (p, cx, cy, hollow) => {
    const colour = COLOUR[p.kind], r = p.kind === "trial" ? 4 : 5.5;
    const style = { fill: hollow ? "#fff" : colour, stroke: colour, "stroke-width": 1.5, tabindex: 0 };
    const shapes = {
      best: () => put("path", { ...style, d: star(cx, cy, 10) }),
      uncompressed: () => put("path", { ...style, d: `M${cx} ${cy - 7}l7 7-7 7-7-7z` }),
      published: () => put("path", { ...style, fill: "none", "stroke-width": 2, "pointer-events": "all",
        d: `M${cx - 4} ${cy - 4}l8 8m0-8l-8 8` }),
      "smaller image": () => put("path", { ...style, d: `M${cx - 7} ${cy - 5}h14l-7 12z` }),
      "random control": () => put("rect", { ...style, x: cx - 5, y: cy - 5, width: 10, height: 10 }),
    };
    const tuned = () => put("path", { ...style, d: `M${cx} ${cy - 7}l7 12h-14z` });
    const shape = (shapes[p.kind] || (p.tuned ? tuned : () => put("circle", { ...style, cx, cy, r })))();
    const say = () => { said.textContent = describe(p); };
    ["mouseenter", "focus", "click"].forEach((event) => shape.addEventListener(event, say));
  };
  const star = (cx, cy, r) => "M" + Array.from({ length: 10 }, (_, i) => {
    const angle = Math.PI * i / 5 - Math.PI / 2, far = i % 2 ? r * 0.42 : r;
    return `${cx + far * Math.cos(angle)} ${cy + far * Math.sin(angle)}`;
  }).join("L") + "z";
  const describe = (p) => {
    const name = p.number == null ? p.kind : `${p.kind}, trial ${p.number}`;
    const figures = data.metrics.map((m) => p.values[m.column] == null ? "" :
      `${m.label} ${written(m, p.values[m.column])}${m.judged && p.low != null ?
        ` [${+p.low.toPrecision(4)}, ${+p.high.toPrecision(4)}] over ${p.images} images` : ""}`);
    return [`${name}: ${p.method}, ${p.mode}, ${p.schedule}`, ...figures.filter(Boolean)].join("; ");
  };

  const name = (points, x, y, place, width) => {
    const taken = points.map((p) => { const [cx, cy] = place(p); return [cx - 7, cy - 7, cx + 7, cy + 7]; });
    const meets = (a) => taken.some((b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]);
    for (const p of points.filter((q) => q.kind !== "published" && (q.kind !== "trial" || q.leading))) {
      const named = { "random control": "random", uncompressed: p.kind, "smaller image": p.kind };
      const text = named[p.kind] || p.method;
      const label = put("text", { fill: "#222", "pointer-events": "none" }, text);
      const [cx, cy] = place(p), w = label.getComputedTextLength(), h = 13;
      let free = false;
      search: for (const far of [10, 18, 28, 40, 54]) {
        for (let i = 0; i < 12; i += 1) {
          const angle = Math.PI * (0.15 + i / 6), dx = far * Math.cos(angle), dy = far * Math.sin(angle);
          const left = dx >= 0 ? cx + dx : cx + dx - w, top = cy + dy - h / 2;
          const box = [left, top, left + w, top + h];
          if (left < PAD.left || left + w > width - 4 || top < 2 || top + h > HIGH - PAD.bottom || meets(box)) continue;
          taken.push(box);
          if (far > 10) put("line", { x1: cx, y1: cy, x2: dx >= 0 ? left : left + w, y2: cy + dy, stroke: "#999", "stroke-width": 0.7 });
          label.setAttribute("x", left);
          label.setAttribute("y", top + 10);
          free = true;
          break search;
        }
      }
      if (!free) label.remove();
    }
  };

  function draw() {
    const x = data.metrics[across.value], y = data.metrics[up.value], width = Math.max(300, home.clientWidth);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${HIGH}`);
    svg.setAttribute("height", HIGH);
    const points = shownOf(x, y), limits = [x, y].map((m) => m.limit);
    if (!points.length) { said.textContent = "no point has both figures"; return; }
    const xs = points.map((p) => p.values[x.column]).concat(limits[0] ?? []);
    const ends = y.judged ? points.flatMap((p) => [p.low, p.high]).filter((v) => v != null) : [];
    const ys = points.map((p) => p.values[y.column]).concat(limits[1] ?? [], ends);
    const h = scale(xs, PAD.left, width - PAD.right), v = scale(ys, HIGH - PAD.bottom, PAD.top);
    const place = (p) => [h.at(p.values[x.column]), v.at(p.values[y.column])];
    const bottom = HIGH - PAD.bottom, thin = { stroke: "#e6e6e6", "stroke-width": 1 };
    const every = Math.ceil(h.ticks.length * 46 / width);
    h.ticks.forEach((t, i) => { put("line", { x1: h.at(t), x2: h.at(t), y1: PAD.top, y2: bottom, ...thin });
      if (i % every === 0) put("text", { x: h.at(t), y: bottom + 16, "text-anchor": "middle", fill: "#444" }, t); });
    v.ticks.forEach((t) => { put("line", { x1: PAD.left, x2: width - PAD.right, y1: v.at(t), y2: v.at(t), ...thin });
      put("text", { x: PAD.left - 6, y: v.at(t) + 4, "text-anchor": "end", fill: "#444" }, t); });
    const fitting = (metric, room) => 7 * metric.axis.length < room ? metric.axis : metric.label;
    put("text", { x: (PAD.left + width) / 2, y: HIGH - 8, "text-anchor": "middle", fill: "#222" },
      fitting(x, width - PAD.left));
    put("text", { transform: `translate(14 ${bottom / 2}) rotate(-90)`, "text-anchor": "middle", fill: "#222" },
      fitting(y, bottom));
    const dashed = { stroke: "#666", "stroke-dasharray": "5 4" };
    if (limits[0] != null) put("line", { x1: h.at(limits[0]), x2: h.at(limits[0]), y1: PAD.top, y2: bottom, ...dashed });
    if (limits[1] != null) put("line", { x1: PAD.left, x2: width - PAD.right, y1: v.at(limits[1]), y2: v.at(limits[1]), ...dashed });
    const front = frontOf(points, x, y);
    points.forEach((p) => { p.leading = front.includes(p); });
    put("polyline", { points: front.map((p) => place(p).join(",")).join(" "), fill: "none", stroke: COLOUR.front, "stroke-width": 1.5 });
    if (y.judged) points.filter((p) => p.low != null && p.kind !== "trial").forEach((p) => {
      const cx = h.at(p.values[x.column]);
      put("line", { x1: cx, x2: cx, y1: v.at(p.low), y2: v.at(p.high), stroke: COLOUR[p.kind], "stroke-opacity": 0.5 });
    });
    const order = ["published", "trial", "random control", "smaller image", "other backbone", "front", "uncompressed", "best"];
    const most = Math.max(...points.map((p) => p.images || 0));
    [...points].sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind))
      .forEach((p) => mark(p, ...place(p), (p.images || 0) < most / 3));
    name(points, x, y, place, width);
  }

  across = choose("across", data.x);
  up = choose("up", data.y);
  [all, elsewhere].forEach((box) => box.addEventListener("change", draw));
  window.addEventListener("resize", () => window.requestAnimationFrame(draw));
  draw();
})();
