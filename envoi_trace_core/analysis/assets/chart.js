"use strict";
// A step chart in SVG: counts that hold until the next point. However many points, few nodes.

ET.ticks = (longest, wanted) => {
  if (!(longest > 0)) return [0];
  const rough = longest / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const ticks = [];
  for (let at = 0; at <= longest * 1.0001; at += step) ticks.push(+at.toPrecision(12));
  return ticks;
};
ET.timeTicks = (longest, wanted) => {
  const units = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
  const step = units.find((size) => longest / size <= wanted);
  if (!step || longest < 5) return ET.ticks(longest, wanted);
  return Array.from({ length: Math.floor(longest / step) + 1 }, (_, number) => number * step);
};

/* options: series [{name, color, dash, points [{x, y, tip, part}], end}], total, isShare, axis (of ET.AXES),
   longest, lanes [{name, color, marker, points [{x, tip, part}]}], verticals [{x, label, color, anchor}],
   empty, isSmall, pick(point) */
ET.stepChart = (host, options) => {
  const { isSmall = false, lanes = [], verticals = [] } = options;
  const tip = ET.el("div", { class: "tip", hidden: true });
  let focused = null;

  const draw = () => {
    const width = Math.max(host.clientWidth, 160);
    const left = isSmall ? 34 : lanes.length ? 128 : 56;
    const right = width - 14;
    const top = isSmall ? 6 : 26;
    const plotHeight = isSmall ? 84 : 290;
    const bottom = top + plotHeight;
    const laneHeight = 20;
    const laneTop = bottom + (lanes.length ? 8 : 0);
    const axisY = laneTop + lanes.length * laneHeight;
    const height = axisY + (isSmall ? 18 : 40);
    const longest = options.longest || 1;
    const tall = (options.total || 1) * 1.04;
    const X = (x) => left + ((right - left) * x) / longest;
    const Y = (y) => bottom - (plotHeight * y) / tall;
    const svg = ET.svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: "0" });
    svg.setAttribute("aria-label", options.label || "chart");
    const add = (tag, attributes, text = null) => {
      const node = ET.svg(tag, attributes, text);
      svg.append(node);
      return node;
    };

    const total = options.total;
    const ys = isSmall || !total ? [0] : ET.ticks(total, 5).filter((tick) => tick < total - total / 12);
    for (const tick of total ? [...ys, total] : ys) {
      const isTotal = tick === total;
      add("line", { class: isTotal ? "total" : "grid", x1: left, x2: right, y1: Y(tick), y2: Y(tick) });
      const text = options.isShare ? `${Math.round(tick * 100)} %` : ET.count(tick);
      add("text", { x: left - 7, y: Y(tick) + 4, "text-anchor": "end", class: isTotal ? "strong" : "" }, text);
    }
    const axis = ET.AXES[options.axis];
    const wanted = Math.max(2, Math.floor((right - left) / (isSmall ? 80 : 95)));
    const xs = options.axis === "time" ? ET.timeTicks(longest, wanted) : ET.ticks(longest, wanted);
    for (const tick of xs) {
      if (["parts", "calls", "tokens"].includes(options.axis) && tick % 1) continue;
      add("line", { class: "grid", x1: X(tick), x2: X(tick), y1: axisY, y2: axisY + 4 });
      add("text", { x: X(tick), y: axisY + 16, "text-anchor": "middle" }, axis.format(tick));
    }
    add("line", { class: "grid", x1: left, x2: right, y1: axisY, y2: axisY });
    if (!isSmall) add("text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, axis.title);

    lanes.forEach((lane, number) => {
      const middle = laneTop + (number + 0.5) * laneHeight;
      add("rect", { class: "lane", x: left, y: laneTop + number * laneHeight, width: right - left, height: laneHeight });
      add("text", { x: left - 7, y: middle + 4, "text-anchor": "end" }, `${lane.name} (${ET.count(lane.points.length)})`);
      const mark = lane.marker === "tick" ? (x) => `M${x} ${middle - 5}v10` : (x) => `M${x - 4} ${middle - 4}l8 8m0 -8l-8 8`;
      const path = add("path", { d: lane.points.map((point) => mark(X(point.x).toFixed(1))).join(""), fill: "none" });
      path.style.stroke = lane.color;
      path.style.strokeWidth = lane.points.length > 300 ? "0.6" : "1.6";
      lane.middle = middle;
    });
    for (const line of verticals) {
      const node = add("line", { x1: X(line.x), x2: X(line.x), y1: top - 4, y2: axisY });
      node.style.stroke = line.color;
      node.style.strokeWidth = isSmall ? "1" : "1.5";
      if (line.isDashed) node.style.strokeDasharray = "3 3";
      if (!isSmall && line.label) {
        const text = add("text", { x: X(line.x), y: top - 9, "text-anchor": line.anchor || "end", class: "strong" }, line.label);
        text.style.fill = line.color;
      }
    }
    for (const series of options.series) {
      if (!series.points.length) continue;
      let d = "";
      series.points.forEach((point, at) => {
        const x = X(point.x).toFixed(1), y = Y(point.y).toFixed(1);
        d += at ? `H${x}V${y}` : `M${x} ${y}`;
      });
      const end = X(Math.max(series.end ?? 0, series.points.at(-1).x)).toFixed(1);
      d += `H${end}`;
      if (options.series.length === 1) {
        const area = add("path", { class: "area", d: `${d}V${Y(0)}H${X(series.points[0].x).toFixed(1)}Z` });
        area.style.fill = series.color;
      }
      const curve = add("path", { class: "curve", d });
      curve.style.stroke = series.color;
      if (series.dash) curve.style.strokeDasharray = series.dash;
      if (!isSmall && series.points.length <= 250) {
        const dots = add("path", { class: "dots", d: series.points.map((p) => `M${X(p.x).toFixed(1)} ${Y(p.y).toFixed(1)}h0`).join("") });
        dots.style.stroke = series.color;
      }
    }
    if (options.empty) add("text", { x: (left + right) / 2, y: (top + bottom) / 2, "text-anchor": "middle" }, options.empty);

    const cross = add("line", { class: "cross", y1: top, y2: axisY, visibility: "hidden" });
    const ring = add("circle", { class: "focus", r: isSmall ? 4 : 5.5, visibility: "hidden" });
    const hit = add("rect", { class: "hit", x: left, y: 0, width: Math.max(0, right - left), height: axisY });
    const flat = [];
    for (const series of options.series) for (const point of series.points) flat.push({ point, px: X(point.x), py: Y(point.y) });
    const marks = lanes.flatMap((lane) => lane.points.map((point) => ({ point, px: X(point.x), py: lane.middle })));
    const isSingle = options.series.length === 1;

    const nearest = (x, y) => {
      const isInLanes = lanes.length > 0 && y > laneTop;
      let best = null, distance = Infinity;
      for (const each of isInLanes ? marks : flat) {
        const far = isSingle && !isInLanes ? Math.abs(each.px - x) : Math.hypot(each.px - x, each.py - y);
        if (far < distance) [best, distance] = [each, far];
      }
      return best;
    };
    const focus = (found) => {
      focused = found;
      tip.hidden = !found;
      for (const node of [cross, ring]) node.setAttribute("visibility", found ? "visible" : "hidden");
      if (!found) return;
      cross.setAttribute("x1", found.px); cross.setAttribute("x2", found.px);
      ring.setAttribute("cx", found.px); ring.setAttribute("cy", found.py);
      const [title, ...lines] = found.point.tip();
      tip.replaceChildren(ET.el("b", {}, title), ...lines.filter(Boolean).map((line) => ET.el("div", {}, line)));
      const scale = host.clientWidth / width;
      const isRight = found.px > width / 2;
      tip.style.left = isRight ? "" : `${found.px * scale + 14}px`;
      tip.style.right = isRight ? `${host.clientWidth - found.px * scale + 14}px` : "";
      tip.style.top = `${Math.max(0, Math.min(found.py - 20, height - 90))}px`;
    };
    const at = (event) => {
      const box = svg.getBoundingClientRect();
      return nearest(((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height);
    };
    hit.addEventListener("pointermove", (event) => focus(at(event)));
    hit.addEventListener("pointerleave", () => focus(null));
    hit.addEventListener("click", (event) => { const found = at(event); if (found && options.pick) options.pick(found.point); });
    svg.addEventListener("blur", () => focus(null));
    svg.addEventListener("keydown", (event) => {
      const order = [...flat].sort((one, other) => one.px - other.px);
      const now = focused ? order.findIndex((each) => each.point === focused.point) : -1;
      if (event.key === "ArrowRight") focus(order[Math.min(now + 1, order.length - 1)] || null);
      else if (event.key === "ArrowLeft") focus(order[Math.max(now - 1, 0)] || null);
      else if (event.key === "Enter" && focused && options.pick) options.pick(focused.point);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    host.replaceChildren(svg, tip);
  };

  draw();
  let lastWidth = host.clientWidth;
  new ResizeObserver(() => {
    if (host.clientWidth && host.clientWidth !== lastWidth) { lastWidth = host.clientWidth; focused = null; tip.hidden = true; draw(); }
  }).observe(host);
};
