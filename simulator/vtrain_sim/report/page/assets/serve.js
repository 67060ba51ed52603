"use strict";
// The page of a local server: knobs, and what their setting says.

{
  const { element } = vtrain;
  const WAIT_MS = 40;
  const status = element("p", { class: "status", role: "status" });
  const alert = element("p", { class: "alert", role: "alert", hidden: true });
  const content = element("div", { id: "content" });
  const form = element("form", { class: "knobs", "aria-label": "Knobs", onsubmit: (event) => event.preventDefault() });
  const controls = new Map();
  // On a phone the figures stay in sight while knobs are turned.
  const glance = element("dl", { class: "glance", "aria-hidden": "true" });
  let timer = 0;
  let asking = null;

  const value = (control) => (control.type === "checkbox" ? (control.checked ? "on" : "") : control.value);

  const setting = () => new URLSearchParams([...controls].map(([name, control]) => [name, value(control)]));

  // Doubles or halves a number.
  const stepper = (knob, input, factor) => {
    const button = element("button", { type: "button", class: "small", "aria-label": `${factor > 1 ? "Double" : "Halve"} ${knob.label}` }, factor > 1 ? "+" : "−");
    button.addEventListener("click", () => {
      const next = Math.round((Number(input.value) || 1) * factor);
      input.value = Math.min(Math.max(next, 1), knob.most);
      turned();
    });
    return button;
  };

  const control = (knob, given) => {
    const id = `knob-${knob.name}`;
    const label = element("label", { for: id, title: knob.title || null }, knob.label);
    if (knob.kind === "switch") {
      const box = element("input", { type: "checkbox", id, checked: given === "on" });
      controls.set(knob.name, box);
      return element("div", { class: "knob switch" }, box, label);
    }
    if (knob.kind === "choice") {
      const select = element("select", { id }, knob.choices.map((choice) => element("option", { value: choice, selected: choice === given }, choice)));
      controls.set(knob.name, select);
      return element("div", { class: "knob wide" }, label, select);
    }
    const input = element("input", { id, value: given, inputmode: knob.kind === "number" ? "numeric" : "decimal", autocomplete: "off", placeholder: knob.title || null });
    controls.set(knob.name, input);
    if (knob.kind !== "number") return element("div", { class: "knob wide" }, label, input);
    return element("div", { class: "knob" }, label, element("div", { class: "stepper" }, stepper(knob, input, 0.5), input, stepper(knob, input, 2)));
  };

  const build = (knobs) => {
    const given = new URLSearchParams(location.search);
    for (const group of new Set(knobs.map((knob) => knob.group))) {
      const own = knobs.filter((knob) => knob.group === group);
      form.append(element("fieldset", {}, element("legend", {}, group), own.map((knob) => control(knob, given.get(knob.name) ?? knob.usual))));
    }
    form.addEventListener("input", () => turned());
  };

  const turned = () => {
    clearTimeout(timer);
    timer = setTimeout(ask, WAIT_MS);
  };

  const fetched = async (path, query, signal) => (await fetch(`${path}?${query}`, { signal })).json();

  const ask = async () => {
    asking?.abort();
    asking = new AbortController();
    const query = setting();
    history.replaceState(null, "", `?${query}`);
    try {
      const page = await fetched("/project", query, asking.signal);
      show(page);
      if (page.draws_passes) showPasses(await fetched("/passes", query, asking.signal));
    } catch (error) {
      if (error.name !== "AbortError") refuse("The server does not answer: is vtrain-sim serve still running?");
    }
  };

  // What was there stays, faded, until the setting is one that can be projected.
  const refuse = (sentence) => {
    alert.textContent = sentence;
    alert.hidden = false;
    content.classList.add("stale");
    glance.replaceChildren(element("div", { class: "said" }, element("dt", {}, "No projection"), element("dd", {}, sentence)));
    status.textContent = "";
  };

  const show = (page) => {
    if (page.error) return refuse(page.error);
    alert.hidden = true;
    content.classList.remove("stale");
    const open = new Set([...content.querySelectorAll("details[open]")].map((details) => details.closest("section").id));
    const kept = content.querySelector(".passes");
    vtrain.disposeCharts();
    content.replaceChildren(
      element("p", { class: "subtitle" }, page.subtitle),
      vtrain.figures(page.figures) ?? "",
      vtrain.notes(page.notes) ?? "",
      ...page.sections.map(vtrain.section),
      element("div", { class: "passes", style: kept && page.draws_passes ? `min-height:${kept.offsetHeight}px` : "" }),
      vtrain.commands(page) ?? "",
    );
    document.querySelector("h1").textContent = page.title;
    glance.replaceChildren(...page.figures.slice(0, 3).map(({ label, text, state }) => element("div", { class: state || null }, element("dt", {}, label), element("dd", {}, text))));
    status.textContent = `Projected in ${vtrain.withUnit(page.elapsed_s, "s")}`;
    content.openSections = open;
    reopen();
    vtrain.drawAll();
  };

  const showPasses = ({ sections }) => {
    const place = content.querySelector(".passes");
    if (!place || !sections) return;
    place.style.minHeight = "";
    place.replaceChildren(...sections.map(vtrain.section));
    reopen();
    vtrain.drawAll();
  };

  const reopen = () => {
    for (const section of content.querySelectorAll("section")) {
      const details = section.querySelector("details");
      if (details && content.openSections?.has(section.id)) details.open = true;
    }
  };

  // Charts follow the knobs at once.
  vtrain.calm = true;
  document.body.append(
    element(
      "div",
      { class: "page served" },
      element("a", { class: "skip", href: "#content" }, "Skip to the answer"),
      vtrain.header({ kind: "what if", title: "Projection" }),
      glance,
      element("div", { class: "columns" }, form, element("main", {}, alert, status, content)),
    ),
  );
  fetched("/knobs", "").then(({ knobs }) => {
    build(knobs);
    ask();
  });
}
