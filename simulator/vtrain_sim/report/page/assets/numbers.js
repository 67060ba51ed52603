"use strict";
// Values of a table's columns, written out. Numbers come in the unit of their column.

vtrain.number = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value)) return size < 10000 ? String(value) : value.toLocaleString("en-US");
  if (size >= 1000) return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
  const digits = size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.1 ? 3 : size >= 0.001 ? 5 : 7;
  return String(Number(value.toFixed(digits)));
};

// Smaller units, for what is little of its own.
const SMALLER = { h: [60, "min"], min: [60, "s"], s: [1e3, "ms"], ms: [1e3, "µs"], GiB: [1024, "MiB"], MiB: [1024, "KiB"] };

vtrain.withUnit = (value, unit) => {
  const text = vtrain.number(value);
  if (text === "–" || !unit) return text;
  if (unit === "US$") return `$${value >= 100 ? Math.round(value).toLocaleString("en-US") : text}`;
  if (unit === "%") return `${text}%`;
  if (value !== 0 && Math.abs(value) < 0.1 && unit in SMALLER) return vtrain.withUnit(value * SMALLER[unit][0], SMALLER[unit][1]);
  return `${text} ${unit}`;
};

vtrain.columnTitle = (column) => (column.unit && column.unit !== column.title ? `${column.title} (${column.unit})` : column.title);

// Decimals that all numbers of a column have: three digits of the smallest, no more than five of the largest.
const decimals = (values) => {
  let [smallest, largest, whole] = [Infinity, 0, true];
  for (const value of values) {
    if (!value) continue;
    smallest = Math.min(smallest, Math.abs(value));
    largest = Math.max(largest, Math.abs(value));
    whole &&= Number.isInteger(value);
  }
  if (whole) return 0;
  return Math.max(0, Math.min(2 - Math.floor(Math.log10(smallest)), 4 - Math.floor(Math.log10(largest)), 8));
};

vtrain.counted = (count, thing) => `${vtrain.number(count)} ${thing}${count === 1 ? "" : "s"}`;

// A table as the page has it, with ways to read it.
vtrain.Rows = class {
  constructor(table) {
    this.count = table.count;
    this.columns = table.columns;
    this.byName = new Map(table.columns.map((column) => [column.name, column]));
    for (const column of table.columns) {
      if (column.kind !== "number") continue;
      const digits = decimals(column.values);
      const { format } = new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
      // Years and sizes of layers are not grouped.
      column.write = (value) => (!digits && Math.abs(value) < 10000 ? String(Math.round(value)) : format(value));
    }
  }

  has(name) {
    return this.byName.has(name);
  }

  column(name) {
    return this.byName.get(name);
  }

  // A number, a text or true, false or null.
  value(name, row) {
    const column = this.byName.get(name);
    if (!column) return null;
    const value = column.values[row];
    if (value === null || value === undefined) return null;
    if (column.kind === "text") return column.words[value];
    if (column.kind === "flags") return value.map((place) => column.words[place]).join(" ");
    return value;
  }

  // The value as it is shown; unit: also its unit.
  text(name, row, unit = false) {
    const value = this.value(name, row);
    if (value === null || value === "") return "–";
    if (value === true) return "yes";
    if (value === false) return "no";
    if (typeof value !== "number") return value;
    const column = this.column(name);
    return unit ? vtrain.withUnit(value, column.unit) : column.write(value);
  }

  // A name and the columns named of a row, to be read out.
  said(name, names, row) {
    return [name, ...this.details(names, row).map((pair) => pair.join(" "))].join(", ");
  }

  // All that a row shows, in small letters: what words of a filter are looked for in.
  words(row) {
    this.shown ??= [];
    this.shown[row] ??= this.columns.filter((c) => c.kind !== "flags").map((c) => this.text(c.name, row)).join("\n").toLowerCase();
    return this.shown[row];
  }

  // [title, text] of the columns named, without what is empty.
  details(names, row) {
    return names
      .filter((name) => this.has(name) && this.value(name, row) !== null)
      .map((name) => [this.column(name).title, this.text(name, row, true)]);
  }

  // The number of each row.
  get places() {
    return Array.from({ length: this.count }, (_, row) => row);
  }

  get flags() {
    return this.columns.find((column) => column.kind === "flags") ?? null;
  }
};
