"use strict";
// The report of a comparison: curves of trajectories, or rates of groups.

const $ = (id) => document.getElementById(id);
const DASHES = ["", "9 4", "3 3", "11 3 3 3"];

ET.start(async () => {
  const data = await ET.unpack($("index"));
  document.body.querySelector("header").append(ET.themeButton());
  for (const note of data.notes) $("notes").append(ET.el("li", {}, note));
  if (data.trajectories) compareTrajectories(data);
  else showGroups(data);
});

const table = (host, head, rows) => {
  host.append(ET.el("table", {}, ET.el("thead", {}, ET.el("tr", {}, ...head.map((name) => ET.el("th", {}, name)))),
    ET.el("tbody", {}, ...rows.map((cells) => ET.el("tr", {}, ...cells.map((cell) =>
      ET.el("td", {}, ...(Array.isArray(cell) ? cell : [cell === null || cell === undefined ? "–" : String(cell)]))))))));
};

const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`);

const compareTrajectories = (data) => {
  const state = { axis: data.axis, measure: data.measure, hidden: new Set() };
  const all = data.trajectories;
  const colorOf = (number) => `var(--series-${(number % 7) + 1})`;
  const dashOf = (number) => DASHES[(number + 2 * Math.floor(number / 7)) % DASHES.length];
  const draw = () => {
    const axis = ET.AXES[state.axis];
    const isPaths = state.measure === "paths";
    const series = [];
    all.forEach((each, number) => {
      if (state.hidden.has(number) || each.end[axis.key] === null) return;
      const of = isPaths ? each.total_paths : each.total_tests;
      series.push({
        color: colorOf(number), dash: dashOf(number), end: each.end[axis.key],
        points: each.points.map((point) => ({
          x: point[axis.key], y: (isPaths ? point.passed_paths : point.passed) / Math.max(of, 1),
          tip: () => [each.name, `${isPaths ? point.passed_paths : point.passed} of ${of} ${isPaths ? "test paths" : "tests"}`,
            `part ${ET.count(point.part)} · ${point.commit.slice(0, 8)}`,
            `${ET.span(point.elapsed_s)} · ${ET.count(point.calls)} calls · ${ET.short(point.tokens)} tokens` +
              (point.cost_usd === null ? "" : ` · ${ET.usd(point.cost_usd)}`)],
        })),
      });
    });
    const host = ET.el("div", { class: "chart", id: "chart" });
    $("chart").replaceWith(host);
    const longest = Math.max(0, ...series.map((each) => each.end || 0));
    const empty = series.some((each) => each.points.length) ? null : "No evaluation";
    ET.stepChart(host, { series, axis: state.axis, total: 1, isShare: true, longest, empty, label: "curves" });
  };
  const axes = ["parts", "calls", "tokens", "cost", "time"].filter((axis) => all.some((each) => each.end[ET.AXES[axis].key]));
  $("curves").querySelector(".bar").append(
    ET.toggle([["tests", "tests"], ["paths", "test paths"]], state.measure, (measure) => { state.measure = measure; draw(); }),
    ET.toggle(axes.map((axis) => [axis, ET.AXES[axis].title]), state.axis, (axis) => { state.axis = axis; draw(); }));

  const nameOf = (each, number) => {
    const swatch = ET.el("span", { class: "swatch" });
    swatch.style.borderTopColor = colorOf(number);
    swatch.style.borderTopStyle = dashOf(number) ? "dashed" : "solid";
    const button = ET.el("button", { type: "button", "aria-pressed": "true", title: each.trajectory_id }, swatch, each.name);
    button.addEventListener("click", () => {
      if (!state.hidden.delete(number)) state.hidden.add(number);
      button.setAttribute("aria-pressed", String(!state.hidden.has(number)));
      draw();
    });
    return [button];
  };
  const point = (at, total) => (at ? `${ET.count(at.passed)} of ${ET.count(total)}` : null);
  table($("table"), ["trajectory", "ended", "best", "at part", "at the end", "paths lost", "still failing", "tests lost", "builds failed",
    "parts", "calls", "tokens", "cost", "time"], all.map((each, number) => [
    nameOf(each, number), each.end_reason.replaceAll("_", " "), point(each.best, each.total_tests), each.best && ET.count(each.best.part),
    point(each.final, each.total_tests), each.regressions.paths, each.regressions.paths_at_end, each.regressions.tests,
    each.regressions.failed_builds, ET.count(each.end.part), ET.count(each.end.calls), ET.count(each.end.tokens),
    ET.usd(each.end.cost_usd), ET.span(each.end.elapsed_s)]));
  const shares = all[0].reached.map((each) => each.share);
  const reached = all.flatMap((each) => shares.map((share, number) => {
    const at = each.reached[number].at;
    return [number ? "" : each.name, percent(share), ...(at ? [ET.count(at.part), ET.count(at.calls), ET.count(at.tokens),
      ET.usd(at.cost_usd), ET.span(at.elapsed_s)] : ["never", null, null, null, null])];
  }));
  table($("reached"), ["trajectory", "test paths", "parts", "calls", "tokens", "cost", "time"], reached);
  draw();
};

const showGroups = (data) => {
  $("curves").hidden = true;
  $("reached-section").hidden = true;
  const ks = [...new Set(data.groups.flatMap((group) => group.pass_at.map((each) => each.k)))].sort((one, other) => one - other);
  const withInterval = (estimate) => (estimate ? `${percent(estimate.value)} (${percent(estimate.low)} – ${percent(estimate.high)})` : null);
  const bar = (estimate) => {
    if (!estimate) return "–";
    const svg = ET.svg("svg", { viewBox: "0 0 160 16", width: 160, height: 16 });
    for (const [x1, x2, width, color] of [[0, 160, 1, "var(--line)"], [estimate.low * 160, estimate.high * 160, 3, "var(--series-1)"]]) {
      const line = ET.svg("line", { x1, x2, y1: 8, y2: 8 });
      line.style.stroke = color;
      line.style.strokeWidth = width;
      svg.append(line);
    }
    const dot = ET.svg("circle", { cx: estimate.value * 160, cy: 8, r: 5 });
    dot.style.fill = "var(--series-1)";
    svg.append(dot);
    return svg;
  };
  table($("table"), [data.by.join(", "), "solved", "solve rate (95 %)", "", ...ks.map((k) => `pass@${k}`), "tasks", "left out", "going on",
    "best share", "parts", "tokens", "cost", "cost per solve"], data.groups.map((group) => [
    group.name, `${group.solved} of ${group.counted}`, withInterval(group.solve_rate), [bar(group.solve_rate)],
    ...ks.map((k) => withInterval(group.pass_at.find((each) => each.k === k)?.estimate)), group.tasks, group.left_out, group.in_progress,
    percent(group.mean_best_share), group.median_parts, ET.count(group.tokens), ET.usd(group.cost_usd), ET.usd(group.cost_per_solve_usd)]));
};
