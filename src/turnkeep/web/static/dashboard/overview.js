// The first screen: is it healthy, what waits and why, what did it cost.

import { element } from "../element.js";
import { addLists, chart, quantile } from "./charts.js";
import { ago, count, dollars, NANO, span, table } from "./format.js";

export function drawOverview(view, { overview, usage }) {
  if (!overview) return view.replaceChildren(element("p", { class: "none" }, "Looking…"));
  const { queue, processes, activity } = overview;
  return view.replaceChildren(
    verdict(queue, processes),
    ...queue.details.circuits.map(circuit),
    figures(queue, usage),
    element("h2", {}, "The last hour"),
    charts(activity),
    ...errors(activity),
  );
}

function verdict(queue, processes) {
  const { circuits, dead_letters: dead, held } = queue.details;
  const silent = processes.filter((one) => one.silent);
  const answering = processes.filter((one) => !one.silent && one.slots > 0);
  const waiting = queue.waitingCount + queue.delayedCount;
  const reasons = [];
  let mood = "";
  if (circuits.length) [mood] = ["bad", reasons.push("A model cannot be asked: messages wait and are kept. See below.")];
  if (waiting && !answering.length) [mood] = ["bad", reasons.push("Threads wait and no worker runs: start `turnkeep worker`.")];
  if (silent.length) [mood] = [mood || "hold", reasons.push(`${silent.length === 1 ? "A process has" : `${silent.length} processes have`} gone silent.`)];
  if (dead) [mood] = [mood || "hold", reasons.push(`${count(dead)} ${dead === 1 ? "message" : "messages"} could not be answered.`)];
  if (held) [mood] = [mood || "hold", reasons.push(`${count(held)} ${held === 1 ? "thread wants" : "threads want"} a decision.`)];
  const words = { "": "All is well", hold: "Something wants a person", bad: "Something is wrong" }[mood];
  const calm = waiting ? `${count(waiting)} ${waiting === 1 ? "thread waits" : "threads wait"} for their turn.` : "Nothing waits.";
  return element("section", { class: `verdict ${mood}`, id: "verdict", "aria-label": "Health" },
    element("p", {}, element("strong", {}, words), element("br"), reasons.join(" ") || calm));
}

function circuit(one) {
  return element("section", { class: "card bad circuit" },
    element("h2", { title: one.endpoint ?? "" }, `Nobody is asked at ${one.endpoint?.split("#")[0] ?? "an endpoint"}`),
    element("p", {}, `${one.code}, since `, ago(one.since)),
    one.details ? element("p", {}, one.details) : null,
    one.remedy ? element("p", {}, element("b", {}, "What to do: "), one.remedy) : null);
}

function figures(queue, usage) {
  const today = usage?.days.at(-1);
  const isToday = today?.day === new Date().toISOString().slice(0, 10);
  const { usage: used } = (isToday && today.total) || {};
  const all = [
    ["Being answered", count(queue.activeCount), "threads"],
    ["Waiting", count(queue.waitingCount), "due now"],
    ["Delayed", count(queue.delayedCount), "due later"],
    ["Decisions", count(queue.details.held), "wanted"],
    ["Paused", count(queue.details.paused), "by a person"],
    ["Dead letters", count(queue.details.dead_letters), "kept"],
    ["Answered", count(queue.completedCount), "messages, ever"],
    ["Cost today", dollars(used?.cost_nano), `${count((used?.input_tokens ?? 0) + (used?.output_tokens ?? 0))} tokens`],
  ];
  return element("dl", { class: "figures", id: "counts" }, ...all.map(([term, value, more]) =>
    element("div", {}, element("dt", {}, term), element("dd", {}, value, element("small", {}, more)))));
}

// Every minute of the hour, also those in which nothing ran: a gap would look like the past went on.
function minutes(activity) {
  const now = Math.floor(Date.now() / 60_000) * 60;
  const cells = new Map(activity.series.map((one) => [one.at, one]));
  const times = Array.from({ length: 60 }, (_, place) => now - (59 - place) * 60);
  return { times, cells: times.map((at) => cells.get(at) ?? {}) };
}

function charts(activity) {
  const { times, cells } = minutes(activity);
  const ended = (...names) => cells.map((cell) => names.reduce((sum, name) => sum + (cell.ends?.[name] ?? 0), 0));
  const wait = (name, part) => cells.map((cell) => (cell.waits?.[name] ? quantile(cell.waits[name], activity.bounds, part) : null));
  const used = (name) => cells.map((cell) => cell.usage?.[name] ?? 0);
  const waited = (name) => cells.map((cell) => cell.backlog?.[name] ?? 0);
  const total = (values) => values.reduce((sum, one) => sum + (one ?? 0), 0);
  const good = ended("completed", "incomplete", "cancelled");
  const bad = ended("dead", "retry", "split", "lost");
  return element("div", { class: "panels" },
    chart("Runs per minute", [{ label: "answered", colour: "--good", fill: true, values: good }, { label: "failed", colour: "--warn", values: bad }, { label: "gave way", colour: "--hold", values: ended("waiting") }], times,
      { unit: count, summary: `${total(good)} answered, ${total(bad)} failed` }),
    chart("From message to answer", [{ label: "half within", colour: "--good", isSparse: true, values: wait("whole", 0.5) }, { label: "95 % within", colour: "--hl-name", isSparse: true, values: wait("whole", 0.95) }], times, { unit: span }),
    chart("To the first token, and waiting before", [{ label: "first token, 95 %", colour: "--hl-name", isSparse: true, values: wait("first", 0.95) }, { label: "window, 95 %", colour: "--soft", isSparse: true, values: wait("window", 0.95) }, { label: "queue, 95 %", colour: "--warn", isSparse: true, values: wait("queue", 0.95) }], times, { unit: span }),
    chart("Messages that waited", [{ label: "open messages", colour: "--hold", fill: true, values: waited("open_messages") }, { label: "threads due", colour: "--warn", values: waited("waiting") }], times, { unit: count, empty: "Nothing waited for long." }),
    chart("Longest wait of a thread that was due", [{ label: "oldest", colour: "--warn", fill: true, values: waited("oldest_wait") }], times, { unit: span, empty: "Nobody waited for a worker." }),
    chart("Tokens per minute", [{ label: "in", colour: "--hl-name", values: used("input_tokens") }, { label: "out", colour: "--good", fill: true, values: used("output_tokens") }], times, { unit: count }));
}

function errors(activity) {
  const codes = {};
  for (const cell of activity.series) for (const [code, number] of Object.entries(cell.errors ?? {})) codes[code] = (codes[code] ?? 0) + number;
  const rows = Object.entries(codes).sort(([, one], [, other]) => other - one).map(([code, number]) => [code, count(number)]);
  if (!rows.length) return [];
  return [element("h2", {}, "What went wrong in it"), table([["Cause"], ["Runs", "number"]], rows, "")];
}

export function drawWorkers(view, { overview }) {
  const rows = (overview?.processes ?? []).map((one) => [
    one.role, one.host, String(one.pid), one.slots ? `${one.active_runs} of ${one.slots}` : "answers nothing", one.queues.join(", "), one.version, ago(one.started_at),
    one.silent ? element("span", { class: "state bad" }, "silent for ", span(Date.now() / 1000 - one.renewed_at)) : element("span", { class: "state good" }, "alive"),
  ]);
  const heads = [["Role"], ["Host", "name"], ["Process"], ["Runs"], ["Queues"], ["Version"], ["Started"], ["Heard"]];
  view.replaceChildren(element("h2", {}, "Workers and gateways"), table(heads, rows, "No process says that it runs with this store."));
}

// Also the days on which nothing ran: a chart of one day would have no width.
function everyDay(days) {
  const known = new Map(days.map((one) => [one.day, one.total]));
  const today = Math.floor(Date.now() / 86_400_000) * 86_400;
  const times = Array.from({ length: 30 }, (_, place) => today - (29 - place) * 86_400);
  return { times, totals: times.map((at) => known.get(new Date(at * 1000).toISOString().slice(0, 10)) ?? {}) };
}

export function drawUsage(view, { usage, month }) {
  if (!usage || !month) return view.replaceChildren(element("p", { class: "none" }, "Looking…"));
  const { times, totals } = everyDay(usage.days);
  const tokens = (cell) => count((cell.usage?.input_tokens ?? 0) + (cell.usage?.output_tokens ?? 0));
  const days = [...usage.days].reverse().map((one) => [one.day, count(one.total.runs), count(one.total.messages), tokens(one.total), dollars(one.total.usage?.cost_nano), waitOf(one.total, month.bounds)]);
  const by = (kind) => {
    const sums = new Map();
    for (const day of usage.days) for (const [name, cell] of Object.entries(day[kind])) {
      const sum = sums.get(name) ?? { runs: 0, tokens: 0, cost: 0 };
      sums.set(name, { runs: sum.runs + (cell.runs ?? 0), tokens: sum.tokens + (cell.usage?.input_tokens ?? 0) + (cell.usage?.output_tokens ?? 0), cost: sum.cost + (cell.usage?.cost_nano ?? 0) });
    }
    return [...sums].sort(([, one], [, other]) => other.cost - one.cost || other.runs - one.runs).map(([name, sum]) => [name, count(sum.runs), count(sum.tokens), dollars(sum.cost)]);
  };
  const heads = (name) => [[name, "name"], ["Runs", "number"], ["Tokens", "number"], ["Cost", "number"]];
  return view.replaceChildren(
    element("h2", {}, `The last 30 days of tenant ${usage.tenant}`),
    element("div", { class: "panels" },
      chart("Dollars a day", [{ label: "cost", colour: "--good", fill: true, values: totals.map((one) => (one.usage?.cost_nano ?? 0) / 1e9 || null) }], times, { unit: (value) => dollars(value * 1e9), empty: "Nothing has cost anything.", bars: true }),
      chart("Runs a day", [{ label: "runs", colour: "--hl-name", fill: true, values: totals.map((one) => one.runs || null) }], times, { unit: count, bars: true })),
    element("h2", {}, "Budgets"), element("div", { id: "budgets" }, budgets(usage.budgets)),
    element("h2", {}, "By day"), table([["Day"], ["Runs", "number"], ["Messages", "number"], ["Tokens", "number"], ["Cost", "number"], ["Answer, half within", "number"]], days, "Nothing ran yet."),
    element("h2", {}, "By model"), table(heads("Model"), by("models"), "Nothing ran yet."),
    element("h2", {}, "By assistant"), table(heads("Assistant"), by("assistants"), "Nothing ran yet."));
}

const EACH = { tenant: "This tenant", user: "Each user", thread: "Each thread" };

function budgets(all) {
  const left = (one) => Math.max(0, one.dollars - one.spent - one.reserved);
  const rows = all.map((one) => [EACH[one.of], `${dollars(one.dollars * NANO)} a ${one.period}`, ...(one.spent === undefined ? ["–", "–", "–"] : [dollars(one.spent * NANO), dollars(one.reserved * NANO), balance(one, left(one))])]);
  return table([["Of", "name"], ["Limit"], ["Spent", "number"], ["Reserved", "number"], ["Left", "number"]], rows, "No budget is set here: TURNKEEP_TENANT_BUDGET, TURNKEEP_USER_BUDGET and TURNKEEP_THREAD_BUDGET set some.");
}

// Whose end is near is said in colour and in words.
function balance(one, left) {
  const mood = left === 0 ? "bad" : left < one.dollars / 5 ? "hold" : "good";
  return element("span", { class: `state ${mood}` }, left === 0 ? "nothing" : dollars(left * NANO));
}

const waitOf = (cell, bounds) => span(cell.waits?.whole ? quantile(addLists(null, cell.waits.whole), bounds, 0.5) : null);
