"use strict";
// Building of elements. Text goes in as text, never as markup.
const vtrain = {};

// element("p", { class: "lead", onclick: f }, "text", child, ...)
vtrain.element = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
};

// A button that copies a text and says so.
vtrain.copyButton = (text, label = "Copy") => {
  const { element } = vtrain;
  const button = element("button", { type: "button", class: "small" }, label);
  button.addEventListener("click", async () => {
    button.textContent = (await vtrain.copy(text)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
};

vtrain.copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // A page from a file may not have a clipboard: select a copy of the text and ask the browser.
    const area = vtrain.element("textarea", { class: "hidden", "aria-hidden": "true" }, text);
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
};

// A line of shell on dark ground, with a button to copy it.
vtrain.commandLine = (label, text) => {
  const { element } = vtrain;
  const code = element("code", { tabindex: "0" }, text);
  return element(
    "div",
    { class: "command" },
    element("div", { class: "command-head" }, element("span", {}, label), vtrain.copyButton(text)),
    element("pre", {}, code),
  );
};

// Buttons of which one is chosen. choices: [{ value, title }]
vtrain.segments = (label, choices, chosen, onChoose) => {
  const { element } = vtrain;
  const group = element("div", { class: "segments", role: "group", "aria-label": label }, element("span", {}, label));
  for (const { value, title } of choices) {
    const button = element("button", { type: "button", "aria-pressed": String(value === chosen) }, title);
    button.addEventListener("click", () => {
      for (const other of group.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
      onChoose(value);
    });
    group.append(button);
  }
  return group;
};
