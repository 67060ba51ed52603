"use strict";
// Points of two columns, which buttons choose; some joined to a front, some faint. A point that is chosen shows its flags.

const POINT_STYLES = {
  faint: { size: 6, opacity: 0.35, z: 2 },
  dots: { size: 9, opacity: 0.8, z: 3 },
  strong: { size: 11, opacity: 0.95, z: 4 },
  line: { size: 11, opacity: 1, z: 5, joined: true },
  mark: { size: 18, opacity: 1, z: 6, symbol: "diamond" },
};

vtrain.draw.points = (spec, rows, label) => {
  const across = spec.across.filter((name) => rows.has(name));
  const up = spec.up.filter((name) => rows.has(name));
  if (!across.length || !up.length) return null;
  const state = { across: across[0], up: up.find((name) => name !== across[0]) ?? up[0] };
  const detail = vtrain.element("div", { class: "chosen", hidden: true, "aria-live": "polite" });
  const choose = (row) => vtrain.showChosen(detail, rows, spec.hover, row);
  const clicked = (event) => event.data?.row !== undefined && choose(event.data.row);
  const chart = vtrain.mountChart(label, (width) => vtrain.pointsOption(spec, rows, state, width, choose), { click: clicked });
  const controls = [];
  for (const [side, names, title] of [["up", up, "Up"], ["across", across, "Across"]]) {
    if (names.length < 2) continue;
    const choices = names.map((value) => ({ value, title: rows.column(value).title }));
    controls.push(
      vtrain.segments(title, choices, state[side], (name) => {
        state[side] = name;
        chart.update();
      }),
    );
  }
  return { nodes: [vtrain.element("div", { class: "controls" }, controls), chart.node, detail], chart, choose };
};

// What is known about one row, with its flags to copy.
vtrain.showChosen = (detail, rows, names, row) => {
  const { element } = vtrain;
  const lines = rows.details(names, row).map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text)));
  const flags = rows.flags ? rows.value(rows.flags.name, row) : "";
  detail.replaceChildren(element("dl", { class: "facts" }, lines), flags ? vtrain.commandLine("Megatron's flags", flags) : "");
  detail.hidden = false;
  detail.scrollIntoView({ block: "nearest" });
};

vtrain.pointsOption = (spec, rows, state, width, choose) => {
  const narrow = width < 520;
  const [x, y] = [rows.column(state.across), rows.column(state.up)];
  const logarithmic = (column) => (spec.logarithmic ?? []).includes(column.name);
  const items = [];
  const series = [];
  let place = 0;
  for (const one of spec.series) {
    // A series may have columns of its own in place of what is up, and is not shown over others.
    const own = one.up ? one.up[state.up] : state.up;
    if (!rows.has(own)) continue;
    const style = POINT_STYLES[one.style] ?? POINT_STYLES.dots;
    const points = one.places
      .filter((row) => rows.value(state.across, row) !== null && rows.value(own, row) !== null)
      .map((row) => ({ value: [rows.value(state.across, row), rows.value(own, row)], row }));
    if (style.joined) points.sort((a, b) => a.value[0] - b.value[0]);
    const colour = one.style === "faint" ? vtrain.colour("faint") : vtrain.palette(place++);
    const index = series.length;
    series.push({
      type: style.joined ? "line" : "scatter",
      name: one.name,
      data: points,
      progressive: 0,
      z: style.z,
      symbol: style.symbol ?? "circle",
      symbolSize: style.size,
      itemStyle: { color: colour, opacity: style.opacity, borderColor: vtrain.colour("surface"), borderWidth: one.style === "faint" ? 0 : 1 },
      lineStyle: { color: colour, width: 2 },
      emphasis: { scale: 1.5 },
      cursor: "pointer",
    });
    if (one.style !== "faint") points.forEach((point, dataIndex) => items.push({ seriesIndex: index, dataIndex, row: point.row, name: one.name }));
    series.push(...vtrain.besidePoints(spec, one, rows, state, colour));
  }
  if (!items.length) series[0]?.data.forEach((point, dataIndex) => items.push({ seriesIndex: 0, dataIndex, row: point.row, name: series[0].name }));
  series.push(...vtrain.referenceLines(spec, rows, state));
  const base = vtrain.baseOption();
  const legend = spec.series.length > 1 ? vtrain.legendHeight(spec.series.map((one) => one.name), width) : 0;
  const shown = (side) => series.flatMap((one) => (one.type === "custom" ? [] : one.data.map((point) => (point.value ?? point)[side])));
  const axis = (column, gap, side) => {
    const log = logarithmic(column) ? vtrain.logarithmic(shown(side)) : {};
    return vtrain.axis(log.type ?? "value", vtrain.columnTitle(column), { scale: true, ...log, nameGap: gap, splitLine: { show: true, lineStyle: { color: vtrain.colour("grid") } } });
  };
  return {
    height: (narrow ? 320 : 400) + legend,
    items,
    describe: (at) => rows.said(items[at].name, spec.hover, items[at].row),
    choose: (at) => choose(items[at].row),
    option: {
      ...base,
      tooltip: { ...base.tooltip, trigger: "item", formatter: (hit) => (hit.data?.row === undefined ? "" : vtrain.tooltip(hit.seriesName, rows.details(spec.hover, hit.data.row))) },
      legend: { ...base.legend, show: legend > 0, data: spec.series.map((one) => one.name) },
      grid: { left: 64, right: 20, top: legend + 12, bottom: 48 },
      xAxis: axis(x, 30, 0),
      yAxis: axis(y, 50, 1),
      series,
    },
  };
};

// The band of each point, or the fitted line through the points of a series.
vtrain.besidePoints = (spec, one, rows, state, colour) => {
  const beside = [];
  if (spec.band && state.up === spec.band.up) {
    const data = one.places
      .map((row) => [rows.value(state.across, row), rows.value(spec.band.low, row), rows.value(spec.band.high, row)])
      .filter((values) => values.every((value) => value !== null));
    const renderItem = (_, api) => {
      const [low, high] = [api.coord([api.value(0), api.value(1)]), api.coord([api.value(0), api.value(2)])];
      return { type: "line", shape: { x1: low[0], y1: low[1], x2: high[0], y2: high[1] }, style: { stroke: colour, opacity: 0.45, lineWidth: 1.5 } };
    };
    beside.push({ type: "custom", name: one.name, data, renderItem, encode: { x: 0, y: [1, 2] }, silent: true, z: 1 });
  }
  if (one.fit && state.up === one.fit.up && rows.has(one.fit.column)) {
    const fitted = one.fit.column;
    const factor = rows.column(state.up).factor / rows.column(fitted).factor;
    const data = one.places.map((row) => [rows.value(state.across, row), rows.value(fitted, row) * factor]).sort((a, b) => a[0] - b[0]);
    beside.push({ type: "line", name: one.name, data, showSymbol: false, silent: true, smooth: 0.2, lineStyle: { color: colour, width: 1.5, opacity: 0.6 }, z: 1 });
  }
  return beside;
};

// The diagonal, where both axes show the same thing; a limit of what is up.
vtrain.referenceLines = (spec, rows, state) => {
  const lines = [];
  if (spec.diagonal && spec.diagonal[0] === state.across && spec.diagonal[1] === state.up) {
    const all = spec.series.flatMap((one) => one.places.flatMap((row) => spec.diagonal.map((name) => rows.value(name, row)))).filter((value) => value > 0);
    const ends = all.length ? [Math.min(...all), Math.max(...all)] : [];
    lines.push({ type: "line", data: ends.map((end) => [end, end]), showSymbol: false, silent: true, animation: false, lineStyle: { color: vtrain.colour("muted"), type: "dashed", width: 1.2 }, z: 0 });
  }
  if (spec.limit && spec.limit.up === state.up) {
    const markLine = vtrain.limitLine(spec.limit.label, spec.limit.value * rows.column(state.up).factor, "yAxis");
    lines.push({ type: "line", data: [], markLine });
  }
  return lines;
};
