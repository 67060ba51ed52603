"use strict";
// Blocks of time in rows: a row per stage, or blocks as high as their number of GPUs, a panel at a time.

// A finger on a chart scrolls the page.
const touched = window.matchMedia("(pointer: coarse)");

vtrain.draw.gantt = (spec, rows, label) => {
  const panels = spec.panel ? [...new Set(rows.places.map((row) => rows.text(spec.panel, row)))] : [null];
  const state = { panel: panels[0], from: 0, to: 100 };
  const zoomed = () => {
    const zoom = chart.drawn.getOption().dataZoom[0];
    Object.assign(state, { from: zoom.start, to: zoom.end });
  };
  const chart = vtrain.mountChart(label, (width) => vtrain.ganttOption(spec, rows, state, width), { datazoom: zoomed });
  const zoom = (from, to) => {
    Object.assign(state, { from, to });
    chart.drawn.dispatchAction({ type: "dataZoom", start: from, end: to });
  };
  const { element } = vtrain;
  const button = (text, from, to) => element("button", { type: "button", class: "small", onclick: () => zoom(from, to) }, text);
  const controls = [element("div", { class: "buttons" }, button("Whole", 0, 100), button("Beginning", 0, 12), button("Middle", 44, 56), button("End", 88, 100))];
  if (panels.length > 1) {
    controls.push(
      vtrain.segments("Show", panels.map((value) => ({ value, title: value })), state.panel, (value) => {
        state.panel = value;
        chart.update();
      }),
    );
  }
  return { nodes: [element("div", { class: "controls" }, controls), chart.node], chart };
};

vtrain.ganttOption = (spec, rows, state, width) => {
  const places = rows.places.filter((row) => state.panel === null || rows.text(spec.panel, row) === state.panel);
  const lanes = spec.row ? [...new Set(places.map((row) => rows.text(spec.row, row)))] : [];
  const lane = new Map(lanes.map((name, place) => [name, place]));
  const kinds = [...new Set(places.map((row) => rows.text(spec.what, row)))];
  const tones = new Map(kinds.map((kind, place) => [kind, spec.tones ? vtrain.tone(spec.tones[kind]) : vtrain.palette(place)]));
  const grouped = spec.tones ? kinds : [""];
  const start = rows.column(spec.start);
  const edge = vtrain.colour("surface");
  const block = (row) => {
    const [from, to] = [rows.value(spec.start, row), rows.value(spec.end, row)];
    if (!spec.row) return [from, to, rows.value(spec.floor, row), rows.value(spec.floor, row) + rows.value(spec.height, row)];
    const at = lane.get(rows.text(spec.row, row));
    const thin = rows.text(spec.what, row) === spec.thin;
    return thin ? [from, to, at + 0.84, at + 0.98] : [from, to, at + 0.1, at + 0.8];
  };
  const renderItem = (parameters, api) => {
    const [x1, y1] = api.coord([api.value(0), api.value(2)]);
    const [x2, y2] = api.coord([api.value(1), api.value(3)]);
    const area = parameters.coordSys;
    const [left, right] = [Math.max(x1, area.x), Math.min(x2, area.x + area.width)];
    if (right <= left) return null;
    const wide = right - left > 4;
    return {
      type: "rect",
      shape: { x: left, y: Math.min(y1, y2), width: Math.max(right - left, 0.6), height: Math.abs(y2 - y1) },
      style: { ...api.style(), stroke: wide ? edge : null, lineWidth: wide ? 0.5 : 0 },
    };
  };
  const series = grouped.map((kind) => {
    const own = kind === "" ? places : places.filter((row) => rows.text(spec.what, row) === kind);
    const colour = (row) => {
      const chunk = rows.value("chunk", row);
      return { color: tones.get(rows.text(spec.what, row)), opacity: chunk ? 1 / (1 + 0.45 * chunk) : 1 };
    };
    return {
      type: "custom",
      name: kind,
      renderItem,
      progressive: 0,
      animation: false,
      encode: { x: [0, 1], y: [2, 3] },
      itemStyle: { color: tones.get(kind) },
      data: own.map((row) => ({ value: block(row), row, itemStyle: colour(row) })),
    };
  });
  const items = series.flatMap((one, seriesIndex) => one.data.map((data, dataIndex) => ({ seriesIndex, dataIndex, row: data.row })));
  items.sort((a, b) => rows.value(spec.start, a.row) - rows.value(spec.start, b.row) || a.row - b.row);
  const narrow = width < 520;
  const legend = spec.tones ? vtrain.legendHeight(kinds, width) : 0;
  const inner = spec.row ? Math.max(90, lanes.length * (narrow ? 18 : 24)) : 260;
  const end = Math.max(...places.map((row) => rows.value(spec.end, row)), 0);
  const up = vtrain.axis("value", spec.row ? "" : spec.rows, {
    min: 0,
    max: spec.row ? lanes.length : spec.top,
    inverse: Boolean(spec.row),
    nameGap: 40,
    interval: spec.row ? 1 : undefined,
    splitLine: { show: !spec.row, lineStyle: { color: vtrain.colour("grid") } },
    axisTick: { show: false },
    axisLabel: spec.row ? { show: false } : {},
  });
  const base = vtrain.baseOption();
  // Labels stand in the middle of their rows.
  const names = vtrain.axis("category", spec.rows, { data: lanes, inverse: true, position: "left", nameGap: 34, axisTick: { show: false }, splitLine: { show: false } });
  return {
    height: inner + legend + 96,
    items,
    describe: (at) => rows.said(rows.text(spec.what, items[at].row), spec.hover, items[at].row),
    option: {
      ...base,
      tooltip: { ...base.tooltip, trigger: "item", formatter: (hit) => vtrain.tooltip(rows.text(spec.what, hit.data.row), rows.details(spec.hover, hit.data.row)) },
      legend: { ...base.legend, show: Boolean(spec.tones) },
      grid: { left: 56, right: 16, top: legend + 8, bottom: 84 },
      xAxis: vtrain.axis("value", `time (${start.unit})`, { min: 0, max: end, nameGap: 26, splitLine: { show: false } }),
      yAxis: spec.row ? [up, names] : up,
      dataZoom: [
        { type: "slider", start: state.from, end: state.to, bottom: 8, height: 22, filterMode: "none", borderColor: vtrain.colour("line"), textStyle: { color: vtrain.colour("muted") }, labelFormatter: (value) => `${vtrain.number(Number(value.toPrecision(3)))} ${start.unit}` },
        ...(touched.matches ? [] : [{ type: "inside", start: state.from, end: state.to, filterMode: "none", zoomOnMouseWheel: "ctrl", moveOnMouseMove: true }]),
      ],
      series,
    },
  };
};
