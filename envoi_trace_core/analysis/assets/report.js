"use strict";
// The report of one trajectory: summary, curves, and all parts as a list of which only the visible rows exist.

const ROW_HEIGHT = 28;
const KEPT_BLOCKS = 24;
const $ = (id) => document.getElementById(id);

ET.start(async () => {
  const index = await ET.unpack($("index"));
  const { head, graph, rows } = index;
  const blockElements = [...document.querySelectorAll("script.block")];
  const state = { axis: "parts", view: "overall", picked: 0, kinds: new Set(), tool: "", only: "", text: "", found: null };
  document.body.querySelector("header").append(ET.themeButton());

  // -- summary ---------------------------------------------------------------------------------------
  const kind = head.reason === "solved" ? "good" : head.reason.endsWith("error") ? "bad" : "";
  const done = graph.evaluations.filter((each) => each.status === "completed");
  const best = done.reduce((one, other) => (one && one.passed >= other.passed ? one : other), null);
  const tests = (each) => (each ? `${ET.count(each.passed)} of ${ET.count(graph.total_tests)}` : null);
  ET.facts($("facts"), [
    ["ended", head.reason.replaceAll("_", " "), kind],
    ["best", best && `${tests(best)} at part ${ET.count(best.part)}`],
    ["at the end", tests(done.at(-1)), best && done.at(-1).passed < best.passed ? "middling" : ""],
    ["test paths solved", graph.total_paths ? `${head.solved_paths} of ${graph.total_paths}` : null],
    ["parts", `${ET.count(rows.type.length)} in ${head.turns} turn${head.turns === 1 ? "" : "s"}`],
    ["commits", ET.count(graph.checkpoints.length)],
    ["time", ET.span(graph.end.elapsed_s)],
    ["tokens", head.tokens ? `${ET.count(head.tokens)} (${ET.short(head.tokens_cached)} cached)` : null],
    ["cost", head.cost_usd === null ? null : ET.usd(head.cost_usd)],
    ["sessions", head.sessions > 1 ? head.sessions : null],
    ["unparsed events", head.unparsed_events || null, "middling"],
  ]);
  if (head.message) $("facts").after(ET.el("div", { class: "failure" }, head.message));

  // -- curves ----------------------------------------------------------------------------------------
  const tipOf = (each) => () => [
    `part ${ET.count(each.part)} · ${each.commit.slice(0, 8)}`,
    each.status === "completed" ? `${each.passed} of ${each.total} tests passed` : each.status.replaceAll("_", " "),
    each.status === "completed" ? `${each.passed_paths} of ${graph.total_paths} test paths` : (each.error || "").slice(0, 200),
    `${ET.span(each.elapsed_s)} · ${ET.count(each.calls)} calls · ${ET.short(each.tokens)} tokens` +
      (each.cost_usd === null ? "" : ` · ${ET.usd(each.cost_usd)}`),
  ];
  const drawCurves = () => {
    const key = ET.AXES[state.axis].key;
    const pick = (point) => show(point.part, true);
    const point = (each, y) => ({ x: each[key], y, part: each.part, tip: tipOf(each) });
    const verticals = graph.session_restarts.map((each, number) => ({
      x: each[key], color: "var(--purple)", isDashed: true, anchor: "start",
      label: number ? "" : graph.session_restarts.length > 1 ? `new sessions (${graph.session_restarts.length})` : "new session",
    }));
    const ended = kind === "good" ? "var(--green)" : kind === "bad" ? "var(--vermillion)" : "var(--ink)";
    const isGoingOn = head.reason === "in progress";
    if (rows.type.length) verticals.push({ x: graph.end[key], color: ended, isDashed: isGoingOn, label: head.reason.replaceAll("_", " ") });
    const shared = { axis: state.axis, longest: graph.end[key] || 1, verticals, pick };
    const marks = (name, list, color, marker) => ({ name, color, marker, points: list.map((each) => point(each, 0)) });
    const failed = (test) => graph.evaluations.filter((each) => each.status !== "completed" && test(each.status === "build_failed"));
    const lanes = [
      { name: "checkpoints", color: "var(--soft)", marker: "tick", points: graph.checkpoints.map((each) => ({
        x: each[key], part: each.part, tip: () => [`part ${ET.count(each.part)} · ${each.commit.slice(0, 8)}`, "changed files"],
      })) },
      marks("build failed", failed((isBuild) => isBuild), "var(--vermillion)", "cross"),
      marks("evaluation error", failed((isBuild) => !isBuild), "var(--orange)", "cross"),
    ].filter((lane) => lane.points.length);
    const overall = ET.el("div", { class: "chart", id: "chart", hidden: state.view !== "overall" });
    const panels = ET.el("div", { class: "panels", id: "panels", hidden: state.view !== "suites" });
    $("chart").replaceWith(overall);
    $("panels").replaceWith(panels);
    if (state.view === "overall") {
      ET.stepChart(overall, { ...shared, lanes, total: graph.total_tests, label: "passed tests", empty: head.nothing,
        series: [{ color: "var(--series-1)", points: done.map((each) => point(each, each.passed)), end: graph.end[key] }] });
      return;
    }
    if (!graph.suites.length) panels.append(ET.el("p", { class: "soft" }, head.nothing || "no suite"));
    for (const [name, suites] of head.panels) {
      const total = suites.reduce((sum, suite) => sum + graph.suites[suite].total, 0);
      const names = suites.map((suite) => graph.suites[suite].suite);
      const passed = (each) => names.reduce((sum, suite) => sum + (each.suites[suite]?.passed ?? 0), 0);
      const points = done.filter((each) => names.some((suite) => suite in each.suites)).map((each) => ({
        ...point(each, passed(each)),
        tip: () => [name, `${passed(each)} of ${total} at part ${ET.count(each.part)}`, each.commit.slice(0, 8)],
      }));
      const last = points.at(-1)?.y;
      const color = last === total ? "var(--green)" : "var(--series-1)";
      const host = ET.el("div", { class: "chart" });
      const result = ET.el("b", { class: last === total ? "good" : "" }, last === undefined ? "–" : `${last}/${total}`);
      panels.append(ET.el("div", {}, ET.el("div", { class: "panel-title" }, ET.el("span", { title: name }, name), result), host));
      ET.stepChart(host, { ...shared, isSmall: true, total, label: name, series: [{ color, points, end: graph.end[key] }] });
    }
  };
  const axes = ["parts", "time", "calls", "tokens", "cost"].filter((axis) => graph.end[ET.AXES[axis].key]);
  $("curves").querySelector(".bar").append(
    ET.toggle([["overall", "overall"], ["suites", "by suite"]], state.view, (view) => { state.view = view; drawCurves(); }),
    ET.toggle(axes.map((axis) => [axis, ET.AXES[axis].title]), state.axis, (axis) => { state.axis = axis; drawCurves(); }),
  );

  // -- parts: contents are unpacked when they are looked at ------------------------------------------
  const kept = new Map();
  const block = async (number) => {
    if (!kept.has(number)) {
      kept.set(number, ET.unpack(blockElements[number]));
      if (kept.size > KEPT_BLOCKS) kept.delete(kept.keys().next().value);
    }
    return kept.get(number);
  };
  const contents = async (part) => {
    const at = part - 1;
    return (await block(Math.floor(at / index.block_parts)))[at % index.block_parts];
  };

  const detail = $("detail");
  let asked = 0;
  const show = async (part, scroll) => {
    if (!(part >= 1 && part <= rows.type.length)) return;
    state.picked = part;
    history.replaceState(null, "", `#part=${part}`);
    if (scroll) {
      reveal(part);
      $("parts").scrollIntoView({ block: "nearest" });
    }
    drawRows();
    const mine = ++asked;
    const nodes = ET.partDetail(index, part, await contents(part), (other) => show(other, true));
    if (mine !== asked) return;
    detail.replaceChildren(...nodes);
    detail.scrollTop = 0;
    detail.dataset.part = part;
  };

  const list = $("list");
  const room = ET.el("div", { class: "room" });
  list.append(room);
  let items = [];  // a part as its number, the heading of a turn as the turn's number, negative
  const passes = (at) =>
    (!state.kinds.size || state.kinds.has(rows.type[at])) &&
    (!state.tool || rows.tool[at] === state.tool) &&
    (!state.only ||
      (state.only === "commits" && rows.commit[at]) ||
      (state.only === "tests" && rows.tests[at]) ||
      (state.only === "failures" && rows.bad[at])) &&
    (!state.text || state.found?.has(at + 1));
  const filter = () => {
    items = [];
    let shown = 0, turn = null;
    for (let at = 0; at < rows.type.length; at++) {
      if (!passes(at)) continue;
      if (rows.turn[at] !== turn) items.push(-(turn = rows.turn[at]));
      items.push(at + 1);
      shown++;
    }
    room.style.height = `${items.length * ROW_HEIGHT}px`;
    $("shown").textContent = `${ET.count(shown)} of ${ET.count(rows.type.length)} parts`;
    document.documentElement.dataset.shown = shown;
    drawRows();
  };
  const rowOf = (item) => {
    if (item < 0) {
      const prompt = index.prompts[-item] || "";
      return ET.el("div", { class: "row turn" }, ET.el("span", { class: "summary", title: prompt }, `turn ${-item}  ${prompt}`));
    }
    const at = item - 1;
    const tests = rows.tests[at];
    return ET.el("div", { class: `row${item === state.picked ? " picked" : ""}`, "data-part": item, role: "option" },
      ET.el("span", { class: "number" }, String(item)),
      ET.el("span", { class: `kind kind-${rows.type[at]}` }, rows.type[at]),
      ET.el("span", { class: "summary" }, rows.tool[at] ? ET.el("span", { class: "tool" }, rows.tool[at]) : null, rows.summary[at]),
      ET.el("span", { class: `tests ${rows.bad[at] ? "bad" : rows.passed[at] ? "good" : "middling"}` }, tests || rows.status[at] || ""),
      ET.el("span", { class: "commit" }, rows.commit[at] || ""));
  };
  const drawRows = () => {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 8);
    const last = Math.min(items.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + 8);
    const nodes = [];
    for (let at = first; at < last; at++) {
      const node = rowOf(items[at]);
      node.style.top = `${at * ROW_HEIGHT}px`;
      nodes.push(node);
    }
    room.replaceChildren(...nodes);
  };
  const reveal = (part) => {
    let at = items.indexOf(part);
    if (at < 0) {
      clearFilters();
      at = items.indexOf(part);
    }
    const top = at * ROW_HEIGHT;
    if (top < list.scrollTop || top + ROW_HEIGHT > list.scrollTop + list.clientHeight) {
      list.scrollTop = top - list.clientHeight / 2;
    }
  };
  list.addEventListener("scroll", () => drawRows());
  new ResizeObserver(() => drawRows()).observe(list);
  list.addEventListener("click", (event) => {
    const row = event.target.closest("[data-part]");
    if (row) show(+row.dataset.part, false);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
    if (!move || !items.length) return;
    let at = items.indexOf(state.picked) + move;
    while (items[at] < 0) at += move;
    if (items[at]) { event.preventDefault(); show(items[at], true); }
  });

  // -- filters ---------------------------------------------------------------------------------------
  const counted = (values) => {
    const counts = new Map();
    for (const value of values) if (value) counts.set(value, (counts.get(value) || 0) + 1);
    return [...counts].sort((one, other) => other[1] - one[1]);
  };
  const bar = $("filters");
  for (const [name, count] of counted(rows.type)) {
    const button = ET.el("button", { type: "button", "aria-pressed": "false", "data-kind": name }, `${name} ${ET.count(count)}`);
    button.addEventListener("click", () => {
      if (!state.kinds.delete(name)) state.kinds.add(name);
      button.setAttribute("aria-pressed", String(state.kinds.has(name)));
      filter();
    });
    bar.append(button);
  }
  const tool = ET.el("select", { id: "tool", "aria-label": "tool" }, ET.el("option", { value: "" }, "any tool"),
    ...counted(rows.tool).slice(0, 200).map(([name, count]) => ET.el("option", { value: name }, `${name} (${ET.count(count)})`)));
  tool.addEventListener("change", () => { state.tool = tool.value; filter(); });
  const only = ET.el("select", { id: "only", "aria-label": "which parts" }, ...[["", "all parts"], ["commits", "with commits"],
    ["tests", "with tests"], ["failures", "that failed"]].map(([value, title]) => ET.el("option", { value }, title)));
  only.addEventListener("change", () => { state.only = only.value; filter(); });
  const search = ET.el("input", { id: "search", type: "search", placeholder: "search all texts", "aria-label": "search" });
  let round = 0;
  const lookFor = async () => {
    const text = search.value.trim().toLowerCase();
    const mine = ++round;
    state.text = text;
    state.found = new Set();
    if (text) {
      rows.summary.forEach((summary, at) => { if (summary.toLowerCase().includes(text)) state.found.add(at + 1); });
      filter();
      for (let number = 0; number < blockElements.length; number++) {
        const parts = kept.has(number) ? await kept.get(number) : await ET.unpack(blockElements[number]);
        if (mine !== round) return;
        parts.forEach((each, at) => {
          const texts = [...each.texts.map((one) => one[1]), ...each.files.map((file) => file[0]),
            each.evaluation?.error, ...each.calls.map((call) => call.error)];
          if (texts.some((one) => one && one.toLowerCase().includes(text))) state.found.add(number * index.block_parts + at + 1);
        });
        if (number % 40 === 39) filter();
      }
    }
    filter();
    document.documentElement.dataset.searched = text;
  };
  let pause = 0;
  search.addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(lookFor, 150); });
  const clearFilters = () => {
    round++;
    Object.assign(state, { tool: "", only: "", text: "", found: null });
    state.kinds.clear();
    tool.value = only.value = search.value = "";
    for (const button of bar.querySelectorAll("[data-kind]")) button.setAttribute("aria-pressed", "false");
    filter();
  };
  bar.append(tool, only, search, ET.el("button", { type: "button", onclick: clearFilters }, "clear"), ET.el("span", { id: "shown", class: "soft" }));

  drawCurves();
  filter();
  const asks = () => +(location.hash.match(/part=(\d+)/) || [])[1] || 0;
  addEventListener("hashchange", () => { if (asks() && asks() !== state.picked) show(asks(), true); });
  if (rows.type.length) await show(Math.min(asks() || 1, rows.type.length), Boolean(asks()));
});
