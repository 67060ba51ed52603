"use strict";
// Bars over the categories of a column: one series per value column, stacked or side by side, or one chosen by a button.

vtrain.draw.bars = (spec, rows, label) => {
  const values = spec.values.filter((name) => rows.has(name) && rows.column(name).kind === "number");
  if (!values.length) return null;
  const state = { shown: spec.choose ? values.slice(0, 1) : values };
  const chart = vtrain.mountChart(label, (width) => vtrain.barsOption(spec, rows, state.shown, width));
  const controls = [];
  if (spec.choose && values.length > 1) {
    const choices = values.map((value) => ({ value, title: rows.column(value).title }));
    controls.push(
      vtrain.segments("Show", choices, values[0], (name) => {
        state.shown = [name];
        chart.update();
      }),
    );
  }
  return { nodes: [...controls, chart.node], chart };
};

vtrain.barsOption = (spec, rows, shown, width) => {
  const category = (row) => rows.text(spec.category, row);
  const lying = Boolean(spec.lying);
  const { places } = rows;
  const column = rows.column(shown[0]);
  const narrow = width < 520;
  const names = places.map(category);
  const single = shown.length === 1;
  const byCategory = single && spec.tones && !(shown[0] in spec.tones);
  const tooltip = (row) => vtrain.tooltip(
    lying ? category(row) : `${rows.column(spec.category).title} ${category(row)}`,
    rows.details([...new Set([...shown, ...(spec.hover ?? [])])], row),
  );
  const series = shown.map((name, place) => ({
    type: "bar",
    name: rows.column(name).title,
    stack: spec.stacked ? "all" : undefined,
    barMaxWidth: lying ? 22 : 56,
    data: places.map((row) => {
      const tone = byCategory && spec.tones[category(row)];
      return { value: rows.value(name, row), itemStyle: tone ? { color: vtrain.tone(tone) } : undefined };
    }),
    itemStyle: {
      color: spec.tones?.[name] ? vtrain.tone(spec.tones[name]) : vtrain.palette(place),
      borderRadius: spec.stacked ? 0 : lying ? [0, 3, 3, 0] : [3, 3, 0, 0],
    },
    label: single && lying ? { show: true, position: "right", color: vtrain.colour("muted"), formatter: (p) => (p.value === null ? "" : vtrain.withUnit(p.value, column.unit)) } : undefined,
    emphasis: { focus: spec.stacked ? "series" : "none" },
  }));
  const limit = spec.limit ? spec.limit.value * column.factor : null;
  if (limit !== null) series[0].markLine = vtrain.limitLine(spec.limit.label, limit, lying ? "xAxis" : "yAxis");
  const labelWidth = Math.min(narrow ? 124 : 300, 16 + 7.4 * Math.max(...names.map((name) => name.length), 1));
  const categories = vtrain.axis("category", lying ? "" : rows.column(spec.category).title, {
    data: names,
    inverse: lying,
    nameGap: 28,
    splitLine: { show: false },
    axisTick: { show: false },
    axisLabel: lying ? { width: labelWidth - 10, overflow: narrow ? "break" : "truncate", lineHeight: 13, interval: 0, hideOverlap: false, color: vtrain.colour("ink") } : {},
  });
  const top = limit === null ? undefined : (range) => vtrain.roundUp(Math.max(range.max, limit) * 1.02);
  const amounts = vtrain.axis("value", single ? vtrain.columnTitle(column) : vtrain.unitTitle(column.unit), { nameGap: lying ? 28 : 44, min: (range) => Math.min(0, range.min), max: top });
  const lines = narrow ? Math.max(...names.map((name) => Math.ceil((7.6 * name.length) / (labelWidth - 10))), 1) : 1;
  const per = Math.max(12 + 20 * (spec.stacked ? 1 : shown.length), 8 + 14 * lines);
  const base = vtrain.baseOption();
  const legend = single ? 0 : vtrain.legendHeight(series.map((one) => one.name), width);
  return {
    height: lying ? Math.max(120, rows.count * per + 52 + legend) : (narrow ? 280 : 320) + legend,
    items: places.map((row) => ({ seriesIndex: 0, dataIndex: row })),
    describe: (place) => rows.said(category(place), [...shown, ...(spec.hover ?? [])], place),
    option: {
      ...base,
      tooltip: { ...base.tooltip, trigger: "axis", axisPointer: { type: "shadow", shadowStyle: { color: vtrain.colour("hover") } }, formatter: (hits) => tooltip(hits[0].dataIndex) },
      legend: { ...base.legend, show: !single },
      grid: { left: lying ? labelWidth : 58, right: single && lying ? 84 : 16, top: legend + (limit !== null ? 10 : 6), bottom: 44 },
      xAxis: lying ? amounts : categories,
      yAxis: lying ? categories : amounts,
      series,
    },
  };
};
