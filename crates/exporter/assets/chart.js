// One panel: its chart, drawn by uPlot, and the table of its numbers, which is also its
// legend.

import { count, time, time_short } from "./format.js";

const MIN_SECONDS = 60;
const cursor = { sync: { key: "recent" }, points: { size: 6 }, drag: { x: false, y: false } };

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Chart {
  constructor(panel, parent) {
    this.panel = panel;
    this.rows = panel.series.map((series) => this.row(series));
    this.nothing = element("div", { className: "nothing", textContent: panel.nothing, hidden: true });
    this.plane = element("div", { className: "chart" }, this.nothing);
    this.plane.setAttribute("role", "img");
    this.plane.setAttribute("aria-label", `Chart of ${panel.title}; the table below has the numbers`);
    this.when = element("th", { scope: "col", textContent: "now" });
    const totals = panel.series.some((series) => series.total)
      ? [element("th", { scope: "col", textContent: "total" })]
      : [];
    const head = element("tr", {}, element("th", { scope: "col" }), this.when, ...totals);
    const heading = element("h2", { id: `${panel.id}-title`, textContent: panel.title });
    const section = element(
      "section",
      { id: panel.id, className: panel.wide ? "wide" : "" },
      heading,
      element("p", { textContent: panel.about }),
      this.plane,
      element(
        "table",
        {},
        element("caption", { textContent: `${panel.title}, ${panel.about}` }),
        element("thead", {}, head),
        element("tbody", {}, ...this.rows.map((row) => row.line)),
      ),
    );
    section.setAttribute("aria-labelledby", heading.id);
    parent.append(section);
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.plane);
  }

  row(series) {
    const key = element("span", { className: "key" });
    key.style.setProperty("--colour", `var(${series.colour})`);
    const now = element("td");
    const total = element("td");
    const name = element("th", { scope: "row" }, key, series.name);
    const line = element("tr", {}, name, now, ...(series.total ? [total] : []));
    line.dataset.series = series.name;
    return { series, line, now, total };
  }

  size() {
    return { width: this.plane.clientWidth, height: this.plane.clientHeight };
  }

  show(recent) {
    this.recent = recent;
    this.values = this.panel.series.map((one) => one.values(recent));
    this.nothing.hidden = !this.values.flat().every(this.panel.is_nothing);
    for (const row of this.rows) {
      if (!row.series.total) continue;
      const total = row.series.total(recent);
      row.total.textContent = count(total);
      row.total.dataset.value = total ?? "";
    }
    if (this.plot) this.plot.setData(this.data());
    else this.draw();
    this.show_numbers(null);
  }

  // Among several lines, one that is always 0 would only cover the others.
  data() {
    const drawn = this.values.map((values) =>
      this.values.length === 1 || values.some(Boolean) ? values : values.map(() => null),
    );
    return [this.recent.times, ...drawn];
  }

  // The numbers at an index, or the newest.
  show_numbers(at) {
    const moment = at ?? this.recent.times.length - 1;
    this.when.textContent = at === null ? "now" : time(this.recent.times[at]);
    this.rows.forEach((row, n) => {
      const value = this.values[n][moment] ?? null;
      row.now.textContent = this.panel.format(value);
      row.now.dataset.value = value ?? "";
    });
  }

  // Also redraws after a change of colours.
  draw() {
    this.plot?.destroy();
    const axis = {
      stroke: css("--quiet"),
      font: `11px ${css("--sans")}`,
      grid: { stroke: css("--grid"), width: 1 },
      ticks: { show: false },
    };
    const single = this.panel.series.length === 1;
    const options = {
      ...this.size(),
      legend: { show: false },
      padding: [6, 24, 0, 0],
      cursor,
      scales: {
        x: { range: (_, from, to) => [Math.min(from, to - MIN_SECONDS), to] },
        y: { range: (_, __, most) => [0, most > 0 ? most * 1.08 : 1] },
      },
      axes: [
        {
          ...axis,
          size: 22,
          gap: 4,
          space: 70,
          values: (_, ticks, __, ___, step) => ticks.map(step < 60 ? time : time_short),
        },
        {
          ...axis,
          size: 62,
          space: 34,
          gap: 6,
          values: (_, ticks) => ticks.map((tick) => this.panel.format(tick)),
        },
      ],
      series: [
        {},
        ...this.panel.series.map(({ name, colour }) => ({
          label: name,
          stroke: css(colour),
          width: 1.75,
          fill: single ? `color-mix(in srgb, ${css(colour)} 14%, transparent)` : undefined,
          points: { show: (_, __, from, to) => to === from },
        })),
      ],
      hooks: { setCursor: [(plot) => this.show_numbers(plot.cursor.idx ?? null)] },
    };
    this.plot = new uPlot(options, this.data(), this.plane);
  }
}
