// Figures and moments as people read them.

import { element } from "../element.js";

export const NANO = 1_000_000_000;

export const count = (number) => (number ?? 0).toLocaleString("en");

export function dollars(nano) {
  const amount = (nano ?? 0) / NANO;
  if (amount === 0) return "$0";
  return amount < 0.01 ? `$${amount.toPrecision(2)}` : `$${amount.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

export const moment = (at) => new Date(at * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

export const ago = (at) => element("time", { dateTime: new Date(at * 1000).toISOString(), title: moment(at) }, `${span(Math.max(0, Date.now() / 1000 - at))} ago`);

const MOODS = {
  leased: ["being answered", "good"], waiting: ["waiting", ""], retry: ["tries again", "hold"], held: ["wants a decision", "hold"], paused: ["paused", "hold"], idle: ["idle", ""],
  completed: ["completed", "good"], failed: ["failed", "bad"], cancelled: ["cancelled", ""], incomplete: ["incomplete", "hold"], in_progress: ["in progress", "good"],
  requires_action: ["wants a decision", "hold"], queued: ["waits", "hold"],
};

export function state(name) {
  const [words, mood] = MOODS[name] ?? [name, ""];
  return element("span", { class: `state ${mood}` }, words);
}

export const textOf = (content) => content.map((part) => part.text ?? `[${part.type}]`).join("\n");

export function table(heads, rows, empty) {
  if (!rows.length) return element("p", { class: "none" }, empty);
  const head = element("tr", {}, ...heads.map(([words, kind]) => element("th", { class: kind, scope: "col" }, words)));
  const cells = (row) => element("tr", {}, ...row.map((cell, place) => element("td", { class: heads[place][1] }, cell)));
  return element("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": "Table" },
    element("table", { class: "list" }, element("thead", {}, head), element("tbody", {}, ...rows.map(cells))));
}

export const facts = (pairs, kind = "facts") => element("dl", { class: kind },
  ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value))));

export const threadLink = (channel) => element("a", { href: `#/thread/${encodeURIComponent(channel)}` }, channel);
export const runLink = (channel, id, words) => element("a", { href: `#/run/${encodeURIComponent(channel)}/${encodeURIComponent(id)}` }, words ?? id);
