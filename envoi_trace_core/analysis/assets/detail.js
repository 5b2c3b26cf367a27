"use strict";
// One part whole.

const MAX_COLOURED_LINES = 3000;

ET.patchBlock = (text) => {
  const lines = text.split("\n");
  const pre = ET.el("pre", { class: "patch" });
  for (const line of lines.slice(0, MAX_COLOURED_LINES)) {
    let kind = "";
    if (/^(diff --git|index |--- |\+\+\+ |new file|deleted file|rename |similarity )/.test(line)) kind = "file";
    else if (line.startsWith("@@")) kind = "hunk";
    else if (line.startsWith("+")) kind = "plus";
    else if (line.startsWith("-")) kind = "minus";
    pre.append(ET.el("span", { class: kind }, line));
  }
  if (lines.length > MAX_COLOURED_LINES) pre.append(lines.slice(MAX_COLOURED_LINES).join("\n"));
  return pre;
};

ET.prettyInput = (text) => {
  try {
    const value = JSON.parse(text);
    const values = value && typeof value === "object" ? Object.entries(value) : [];
    if (values.length === 1 && typeof values[0][1] === "string") return `${values[0][0]}: ${values[0][1]}`;
    return JSON.stringify(value, null, 2);
  } catch {
    return text;
  }
};

ET.partDetail = (index, part, whole, go) => {
  const { rows } = index;
  const at = part - 1;
  const nodes = [];
  const step = (to, sign) => ET.el("button", { type: "button", disabled: to < 1 || to > rows.type.length, onclick: () => go(to) }, sign);
  nodes.push(ET.el("div", { class: "title" },
    ET.el("h2", {}, `part ${part}`, " ", ET.el("span", { class: `kind kind-${rows.type[at]}` }, rows.type[at]), rows.tool[at] ? ` ${rows.tool[at]}` : ""),
    step(part - 1, "‹"), step(part + 1, "›")));
  const facts = ET.el("dl");
  const fact = (name, value, kind = "") => {
    if (value === null || value === undefined || value === "") return;
    facts.append(ET.el("dt", {}, name), ET.el("dd", { class: kind }, String(value)));
  };
  fact("summary", whole.summary);
  fact("status", rows.status[at], /^(exit [^0]|failed|interrupted)/.test(rows.status[at]) ? "bad" : "");
  fact("time", `${whole.time} (${ET.span(rows.at[at])} after the start${whole.duration_s === null ? "" : `, took ${ET.span(whole.duration_s)}`})`);
  fact("session", whole.session);
  fact("commit", whole.commit, "mono");
  if (whole.usage) {
    const { total, input, cached_input: cached, output, reasoning } = whole.usage;
    fact("tokens", `${ET.count(total)}: ${ET.count(input)} in (${ET.count(cached)} cached), ${ET.count(output)} out (${ET.count(reasoning)} reasoning)`);
  }
  fact("cost", whole.cost_usd === null ? null : ET.usd(whole.cost_usd));
  fact("tests so far", whole.solved);
  nodes.push(facts);
  for (const each of whole.texts) {
    if (!each) continue;
    const [name, text, left] = each;
    nodes.push(ET.el("h3", {}, name));
    if (name === "patch") nodes.push(ET.patchBlock(text));
    else nodes.push(ET.el("pre", {}, name === "tool input" && !left ? ET.prettyInput(text) : text));
    if (left) nodes.push(ET.el("p", { class: "note" }, `${ET.count(left)} characters are left out here: envoi-trace show ${index.head.trajectory_id} --part ${part}`));
  }
  const table = (title, head, body) => {
    nodes.push(ET.el("h3", {}, title), ET.el("div", { class: "scroll" }, ET.el("table", {},
      ET.el("thead", {}, ET.el("tr", {}, ...head.map((name) => ET.el("th", {}, name)))),
      ET.el("tbody", {}, ...body.map((cells) => ET.el("tr", {}, ...cells.map((cell) => ET.el("td", {}, String(cell ?? "")))))))));
  };
  if (whole.files.length) table("changed files", ["file", "status", "+", "−"], whole.files);
  for (const call of whole.calls) {
    nodes.push(ET.el("h3", {}, `run_tests ${call.path || "(all)"}`));
    nodes.push(ET.el("p", {}, `${call.passed} of ${call.total} passed, status ${call.status_code}, ${ET.span(call.duration_s)}`));
    if (call.error) nodes.push(ET.el("pre", {}, call.error));
  }
  if (whole.evaluation) {
    const { status, error, passed, total, paths, duration_s: seconds } = whole.evaluation;
    const title = status === "completed" ? `${passed} of ${total} passed` : status.replaceAll("_", " ");
    nodes.push(ET.el("h3", {}, `evaluation of its commit: ${title} in ${ET.span(seconds)}`));
    if (error) nodes.push(ET.el("pre", {}, error));
    if (paths.length) table("", ["test path", "passed", "of"], paths);
  }
  return nodes;
};
