"use strict";
// What all charts share: colours, tooltips, keys, sizes.

vtrain.draw = {};
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const still = window.matchMedia("(prefers-reduced-motion: reduce)");
const charts = new Set();

// Colours of a theme are those of the style sheet.
vtrain.colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
vtrain.tone = (name) => vtrain.colour(`tone-${name}`) || vtrain.colour("tone-other");
vtrain.palette = (place) => vtrain.colour(`series-${place % 10}`);

vtrain.tooltip = (title, details) => {
  const { element } = vtrain;
  const lines = details.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]);
  return element("div", { class: "tooltip" }, element("strong", {}, title), element("dl", {}, lines));
};

vtrain.baseOption = () => ({
  animation: !still.matches && !vtrain.calm,
  animationDuration: 250,
  textStyle: { fontFamily: getComputedStyle(document.body).fontFamily, color: vtrain.colour("ink") },
  tooltip: {
    confine: true,
    backgroundColor: vtrain.colour("raised"),
    borderColor: vtrain.colour("line"),
    padding: 0,
    textStyle: { color: vtrain.colour("ink"), fontSize: 13 },
  },
  legend: {
    type: "plain",
    top: 0,
    left: 0,
    itemWidth: 14,
    itemHeight: 10,
    itemGap: 14,
    textStyle: { color: vtrain.colour("ink") },
    inactiveColor: vtrain.colour("faint"),
  },
  aria: { enabled: false },
});

// Pixels that a legend of these names takes.
vtrain.legendHeight = (names, width) => {
  let [lines, used] = [1, 0];
  for (const name of names) {
    const takes = 36 + 7.4 * name.length;
    if (used && used + takes > width) [lines, used] = [lines + 1, 0];
    used += takes;
  }
  return 24 * lines + 8;
};

vtrain.axis = (type, name, extra = {}) => ({
  type,
  name,
  nameLocation: "middle",
  nameTextStyle: { color: vtrain.colour("muted"), fontSize: 12 },
  axisLine: { lineStyle: { color: vtrain.colour("line") } },
  axisTick: { lineStyle: { color: vtrain.colour("line") } },
  splitLine: { lineStyle: { color: vtrain.colour("grid") } },
  ...extra,
  axisLabel: { color: vtrain.colour("muted"), hideOverlap: true, ...(type === "value" || type === "log" ? { formatter: vtrain.short } : {}), ...extra.axisLabel },
});

// What several columns of one unit are.
vtrain.unitTitle = (unit) => {
  const what = ["h", "s", "ms", "µs"].includes(unit) ? "time" : ["GiB", "MiB", "KiB"].includes(unit) ? "memory" : "";
  return what ? `${what} (${unit})` : unit;
};

// Axis labels: 20k, 1.5M.
vtrain.short = (value) => {
  const size = Math.abs(value);
  for (const [least, sign] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= least) return `${vtrain.number(value / { G: 1e9, M: 1e6, k: 1e3 }[sign])}${sign}`;
  }
  return vtrain.number(value);
};

// The next number that an axis may well end at.
vtrain.roundUp = (value) => {
  const step = 10 ** Math.floor(Math.log10(value || 1)) / 5;
  return Math.ceil(value / step) * step;
};

// The ends and ticks of a logarithmic axis over some values: 1, 2 and 5 times powers of ten.
vtrain.logarithmic = (values) => {
  const positive = values.filter((value) => value > 0);
  if (!positive.length) return {};
  const [low, high] = positive.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, 0]);
  const [min, max] = [low / 1.25, high * 1.25];
  const digits = max / min > 1e4 ? [1] : max / min > 12 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
  const ticks = [];
  for (let power = Math.floor(Math.log10(min)); power <= Math.ceil(Math.log10(max)); power++) {
    for (const digit of digits) ticks.push(Number((digit * 10 ** power).toPrecision(3)));
  }
  const customValues = ticks.filter((tick) => tick >= min && tick <= max);
  return { type: "log", min, max, axisTick: { customValues }, axisLabel: { customValues } };
};

// A limit as a dashed line with its label.
vtrain.limitLine = (label, position, axis) => ({
  silent: true,
  symbol: "none",
  animation: false,
  data: [{ [axis]: position }],
  lineStyle: { color: vtrain.colour("bad"), type: "dashed", width: 1.5 },
  label: { formatter: label, position: axis === "yAxis" ? "insideEndTop" : "end", color: vtrain.colour("bad"), fontWeight: 600 },
});

// A chart with its controls. make(width): { option, height, items, describe(place), choose(place) }, made anew when the
// width or the colours change. items: [{ seriesIndex, dataIndex }] in the order in which the arrow keys visit them.
// events: handlers of what happens on the chart, by name.
vtrain.mountChart = (label, make, events = {}) => {
  const { element } = vtrain;
  const canvas = element("div", { class: "canvas", role: "img", tabindex: "0", "aria-label": `${label} The arrow keys visit the values; the table has them all.` });
  const live = element("div", { class: "hidden", "aria-live": "polite" });
  const node = element("div", { class: "chart" }, canvas, live);
  const chart = { node, canvas, place: -1, width: 0 };

  chart.update = () => {
    const width = canvas.clientWidth;
    if (!width) return;
    const made = make(width);
    chart.made = made;
    canvas.style.height = `${made.height}px`;
    if (!chart.drawn) {
      chart.drawn = echarts.init(canvas, null, { renderer: "canvas" });
      for (const [name, handler] of Object.entries(events)) chart.drawn.on(name, handler);
    }
    chart.drawn.resize({ width, height: made.height });
    chart.drawn.setOption(made.option, { notMerge: true });
    chart.width = width;
  };

  const visit = (place) => {
    const { items, describe } = chart.made;
    if (!items.length) return;
    chart.place = (place + items.length) % items.length;
    chart.drawn.dispatchAction({ type: "showTip", ...items[chart.place] });
    live.textContent = describe(chart.place);
  };
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) visit(chart.place < 0 && step < 0 ? -1 : chart.place + step);
    else if (event.key === "Home") visit(0);
    else if (event.key === "End") visit(-1);
    else if (event.key === "Enter" && chart.place >= 0 && chart.made.choose) chart.made.choose(chart.place);
    else if (event.key === "Escape") chart.drawn.dispatchAction({ type: "hideTip" });
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("blur", () => chart.drawn?.dispatchAction({ type: "hideTip" }));
  new ResizeObserver(() => canvas.clientWidth !== chart.width && chart.update()).observe(canvas);
  charts.add(chart);
  return chart;
};

// Charts that are no longer on the page are let go.
vtrain.disposeCharts = () => {
  for (const chart of charts) chart.drawn?.dispose();
  charts.clear();
};

dark.addEventListener("change", () => charts.forEach((chart) => chart.update()));
// On paper, charts are as wide as the page.
window.addEventListener("beforeprint", () => charts.forEach((chart) => chart.update()));
