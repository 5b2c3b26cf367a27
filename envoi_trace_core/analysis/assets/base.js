"use strict";
// Shared by all reports. What comes out of a trace is only ever set as text, never as markup.
const ET = {};

ET.el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};

ET.svg = (tag, attributes = {}, text = null) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
};

// A block of the page's data: base64 of gzip of JSON, so that no text of a trace can end the script element.
ET.unpack = async (element) => {
  const packed = atob(element.textContent.trim());
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
};

ET.count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
ET.short = (value) => {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (Math.abs(value) >= size) return `${+(value / (unit === "k" ? 1e3 : size)).toPrecision(3)}${unit}`;
  }
  return ET.count(+value.toPrecision(4));
};
ET.usd = (value) => (value === null || value === undefined ? "–" : `$${value.toFixed(value >= 10 ? 2 : 4)}`);
ET.span = (seconds) => {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds / 60) % 60)).padStart(2, "0")} m`;
};

ET.spanTick = (seconds) => (seconds ? ET.span(seconds).replace(/ 00 [ms]$/, "") : "0");

ET.AXES = {
  parts: { title: "part", key: "part", format: ET.short },
  time: { title: "elapsed time", key: "elapsed_s", format: ET.spanTick },
  calls: { title: "tool calls", key: "calls", format: ET.short },
  tokens: { title: "tokens", key: "tokens", format: ET.short },
  cost: { title: "cost", key: "cost_usd", format: (value) => `$${+value.toPrecision(3)}` },
};

ET.toggle = (choices, chosen, choose) => {
  const group = ET.el("span", { class: "toggle", role: "group" });
  for (const [value, title] of choices) {
    const button = ET.el("button", { type: "button", "data-value": value, "aria-pressed": String(value === chosen) }, title);
    button.addEventListener("click", () => {
      for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
      choose(value);
    });
    group.append(button);
  }
  return group;
};

ET.themeButton = () => {
  const root = document.documentElement;
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  return ET.el("button", { type: "button", class: "theme", title: "Dark or light", onclick: () => {
    root.dataset.theme = isDark() ? "light" : "dark";
  } }, "◐");
};

ET.facts = (host, facts) => {
  for (const [name, value, kind] of facts) {
    if (value === null || value === undefined || value === "") continue;
    host.append(ET.el("li", {}, ET.el("small", {}, name), ET.el("b", { class: kind || "" }, String(value))));
  }
};

ET.start = (main) => {
  main().then(
    () => { document.documentElement.dataset.ready = "yes"; },
    (error) => {
      document.documentElement.dataset.ready = "failed";
      const old = typeof DecompressionStream === "undefined" ? "This browser is too old for the report. " : "";
      document.body.prepend(ET.el("div", { class: "failure" }, `${old}The report can't be shown: ${error}`));
      console.error(error);
    },
  );
};
