// Lines over time. The library draws them; where nothing has happened a sentence says so instead of an empty frame.

import { element } from "../element.js";

/* global uPlot */
const drawn = new Set();

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function chart(title, series, times, { unit = (value) => value, summary = "", empty = "Nothing yet.", bars = false } = {}) {
  const place = element("div");
  const panel = element("section", { class: "panel" }, element("h3", {}, title), place);
  if (!series.some((one) => one.values.some((value) => value))) {
    place.append(element("p", { class: "none" }, empty));
    return panel;
  }
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `${title}: ${summary || series.map((one) => one.label).join(", ")}`);
  requestAnimationFrame(() => put(place, series, times, { unit, bars }));
  return panel;
}

// In the words of whoever looks: hours within a day, days beyond.
function momentOf(at, whole) {
  const words = whole > 172_800 ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" };
  return new Date(at * 1000).toLocaleString(undefined, words);
}

function put(place, series, times, { unit, bars }) {
  if (!place.isConnected) return;
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, font: "11px system-ui" };
  const width = () => Math.max(200, place.clientWidth);
  const plot = new uPlot({
    width: width(), height: 170, cursor: { drag: { x: false, y: false } },
    axes: [{ ...axis, values: (_, ticks) => ticks.map((at) => momentOf(at, times.at(-1) - times[0])) }, { ...axis, size: 76, values: (_, ticks) => ticks.map(unit) }],
    scales: { x: bars ? { range: (_, first, last) => [first - 43_200, last + 43_200] } : {}, y: { range: (_, low, high) => [0, (high || 1) * 1.1] } },
    series: [{ value: (_, at) => (at === null ? "" : momentOf(at, times.at(-1) - times[0])) },
      ...series.map((one) => ({ label: one.label, paths: bars ? uPlot.paths.bars({ size: [0.7, 40] }) : undefined, stroke: colour(one.colour), width: 2, fill: one.fill ? `${colour(one.colour)}${bars ? "99" : "22"}` : undefined, spanGaps: false, points: { show: one.isSparse ?? false, size: 5 },
        value: (_, value) => (value === null ? "–" : unit(value)) }))],
  }, [times, ...series.map((one) => one.values)], place);
  const watch = new ResizeObserver(() => plot.setSize({ width: width(), height: 170 }));
  watch.observe(place);
  drawn.add({ plot, watch, place });
}

// What has left the page is let go.
export function forgetCharts() {
  for (const one of drawn) {
    if (one.place.isConnected) continue;
    one.watch.disconnect();
    one.plot.destroy();
    drawn.delete(one);
  }
}

// The end of the bucket in which this part of the waits has ended.
export function quantile(counts, bounds, part) {
  let rest = part * counts.reduce((sum, one) => sum + one, 0);
  for (const [place, number] of counts.entries()) {
    rest -= number;
    if (number && rest <= 0) return bounds[Math.min(place, bounds.length - 1)];
  }
  return null;
}

export function addLists(one, other) {
  if (!one) return other;
  return other ? one.map((value, place) => value + other[place]) : one;
}
