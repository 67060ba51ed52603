"use strict";
// The page: its head, its figures, and a section for each chart and table.

vtrain.start = () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  document.body.append(vtrain.page(data));
  vtrain.drawAll();
};

let waiting = [];

// Charts need their place on the page before they can be drawn.
vtrain.drawAll = () => {
  for (const chart of waiting) chart.update();
  waiting = [];
};

vtrain.page = (data) => {
  const { element } = vtrain;
  const sections = data.sections.map(vtrain.section);
  return element(
    "div",
    { class: "page" },
    element("a", { class: "skip", href: "#content" }, "Skip to the content"),
    vtrain.header(data),
    data.sections.length > 2 ? vtrain.contents(data.sections) : null,
    element("main", { id: "content", tabindex: "-1" }, vtrain.figures(data.figures), vtrain.notes(data.notes), sections),
    vtrain.commands(data),
    element("footer", {}, `vtrain ${data.version}. Sizes are binary (GiB = 2^30 bytes); "modelled" is estimated, "measured" was timed.`),
  );
};

vtrain.header = (data) => {
  const { element } = vtrain;
  return element(
    "header",
    {},
    element("p", { class: "kind" }, element("span", { class: "brand" }, "vtrain"), data.kind),
    element("h1", {}, data.title),
    data.subtitle ? element("p", { class: "subtitle" }, data.subtitle) : null,
  );
};

vtrain.anchor = (title) => title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") || "section";

vtrain.contents = (sections) => {
  const { element } = vtrain;
  const links = sections.map(({ title }) => element("li", {}, element("a", { href: `#${vtrain.anchor(title)}` }, title)));
  return element("nav", { "aria-label": "Sections" }, element("ul", {}, links));
};

vtrain.figures = (figures) => {
  const { element } = vtrain;
  if (!figures.length) return null;
  const tiles = figures.map(({ label, text, note, state }) =>
    element(
      "div",
      { class: `figure ${state ?? ""}`.trim() },
      element("dt", {}, label),
      element("dd", {}, element("span", { class: text.length > 22 ? "value long" : "value" }, text), note ? element("span", { class: "note" }, note) : null),
    ),
  );
  return element("dl", { class: "figures" }, tiles);
};

vtrain.notes = (notes) => {
  const { element } = vtrain;
  return notes.length ? element("ul", { class: "notes" }, notes.map((note) => element("li", {}, note))) : null;
};

vtrain.commands = (data) => {
  const { element } = vtrain;
  const texts = [...(data.command ? [["Command that makes this page", data.command]] : []), ...data.texts];
  const lines = texts.map(([label, text]) => vtrain.commandLine(label, text));
  return lines.length ? element("section", { class: "card", id: "commands" }, element("h2", {}, "To run it"), lines) : null;
};

vtrain.section = (data) => {
  const { element } = vtrain;
  const rows = new vtrain.Rows(data.table);
  const drawn = data.chart && rows.count ? vtrain.draw[data.chart.draw](data.chart, rows, data.lead || data.title) : null;
  if (drawn) waiting.push(drawn.chart);
  const table = rows.count ? vtrain.table(data.title, rows, drawn?.choose ?? null) : null;
  return element(
    "section",
    { class: "card", id: vtrain.anchor(data.title) },
    element("div", { class: "section-head" }, element("h2", {}, data.title), data.provenance ? element("span", { class: "provenance" }, data.provenance) : null),
    data.lead ? element("p", { class: "lead" }, data.lead) : null,
    drawn ? element("div", { class: "drawing" }, drawn.nodes) : null,
    table && data.folded ? element("details", {}, element("summary", {}, drawn ? "The values as a table" : "Show the table"), table) : table,
  );
};
