// One thread, and one run of it as a timeline.

import { button, element } from "../element.js";
import { draw } from "../markdown.js";
import { ask } from "../server.js";
import { ago, count, dollars, facts, moment, span, state, textOf, threadLink } from "./format.js";
import { readable, runsOf } from "./listings.js";

const SVG = "http://www.w3.org/2000/svg";

export async function drawThread(view, channel, act) {
  const base = `channels/${encodeURIComponent(channel)}`;
  const [body, { runs }] = await Promise.all([ask("GET", `${base}/messages?limit=100`), ask("GET", `${base}/runs`)]);
  const { thread } = body;
  view.replaceChildren(
    element("h2", {}, thread.metadata.title || channel),
    element("div", { class: "two" },
      element("div", {}, ...cause(body.waiting), conversation(body), answerForm(base, body, act)),
      element("div", {}, about(thread, body), buttons(base, thread, act),
        element("h2", {}, "Runs"), runsOf(thread.channel, runs))));
}

function cause(waiting) {
  if (!waiting) return [];
  return [element("section", { class: "card hold" }, element("h3", {}, waiting.phase === "retrying" ? "Tries again" : "Waits"),
    element("p", {}, `${waiting.reason}: ${waiting.error_details || waiting.message}`), waiting.remedy ? element("p", {}, element("b", {}, "What to do: "), waiting.remedy) : null)];
}

function about(thread, body) {
  const metadata = Object.entries(thread.metadata).map(([name, value]) => `${name} = ${value}`).join(", ");
  return facts([["State", state(thread.paused ? "paused" : thread.state)], ["Channel", thread.channel], ["Thread", thread.thread_id], ["Made", moment(thread.created_at)], ["Active", ago(thread.active_at)],
    ["Due", thread.due ? moment(thread.due) : ""], ["Expires", moment(thread.expires_at)], ["Turns", count(thread.turns)], ["Waiting", count(body.open.length)],
    ["Used", `${count((thread.usage.input_tokens ?? 0) + (thread.usage.output_tokens ?? 0))} tokens, ${dollars(thread.usage.cost_nano)}`], ["Assistant", thread.assistant], ["Options", Object.entries(thread.options).filter(([, value]) => value !== null).map(([name, value]) => `${name} ${value}`).join(", ")], ["Metadata", metadata]]);
}

function buttons(base, thread, act) {
  const isBusy = ["leased", "retry", "held"].includes(thread.state);
  return element("div", { class: "buttons" },
    element("a", { class: "like-button", href: `./#${encodeURIComponent(thread.channel)}` }, "Open in the chat"),
    isBusy ? button("Stop the run", () => act("POST", `${base}/cancel`)) : null,
    thread.paused ? button("Give back to the assistant", () => act("POST", `${base}/resume`), { class: "resume" }) : button("Pause", () => act("POST", `${base}/pause`), { class: "pause" }),
    thread.state === "waiting" ? button("Answer now", () => act("POST", `${base}/flush`)) : null,
    button("Forget", async () => {
      if (!confirm("Forget this thread and everything in it, for good?")) return;
      if (await act("DELETE", `${base}?force=true`, undefined, false)) location.hash = "/threads";
    }, { class: "danger forget" }));
}

function conversation(body) {
  const said = body.items.flatMap((item) => {
    if (item.kind === "user") return [entry("User", item.at, element("p", {}, textOf(item.content)))];
    if (item.kind === "assistant") return [entry(item.author ?? "Assistant", item.at, markdown(item.text))];
    if (item.kind === "call") return [entry(`Calls ${item.name}`, item.at, element("pre", {}, readable(item.arguments)))];
    if (item.kind === "output") return [entry(["Output", item.status ?? "ok", item.decided_by ? `${item.decision} by ${item.decided_by}` : ""].filter(Boolean).join(", "), item.at, element("pre", {}, readable(item.output)))];
    return item.text ? [entry(item.kind, item.at, element("p", { class: "soft" }, item.text))] : [];
  });
  const open = body.open.map((one) => entry(`User, ${one.status}`, one.arrival ?? 0, element("p", {}, textOf(one.content ?? []))));
  const dead = body.dead.map((one) => entry(`Dead, ${one.error.code}`, one.at, element("p", {}, textOf(one.content))));
  const all = [...said, ...dead, ...open];
  return all.length ? element("ol", { class: "said" }, ...all) : element("p", { class: "none" }, "Nothing was said.");
}

const entry = (who, at, ...content) => element("li", {}, element("small", {}, who, at ? ` · ${moment(at)}` : ""), ...content);

function markdown(text) {
  const node = element("div", { class: "text" });
  draw(node, text);
  return node;
}

function answerForm(base, { thread, open }, act) {
  const area = element("textarea", { rows: 2, "aria-label": "Answer in the assistant's place", placeholder: "Answer as a person" });
  const onsubmit = async (event) => {
    event.preventDefault();
    if (area.value.trim() && (await act("POST", `${base}/answers`, { message: area.value.trim() }))) area.value = "";
  };
  const isFree = !["leased", "held"].includes(thread.state) && !open.some((one) => one.status === "running");
  const waiting = open.filter((one) => one.status === "waiting").length;
  return element("form", { onsubmit, class: "answer" }, element("h2", {}, "Answer as a person"), area,
    element("div", { class: "buttons" }, element("button", { type: "submit", class: "primary", disabled: !isFree }, "Answer")),
    isFree ? null : element("p", { class: "soft" }, "While a run is in progress nobody else answers: stop it first."),
    isFree && waiting ? element("p", { class: "soft" }, waiting === 1 ? "The message that waits is answered by it." : `The ${waiting} messages that wait are answered by it, as one turn.`) : null);
}

// ------------------------------------------------------------- one run

export async function drawRun(view, channel, id) {
  const { run, events } = await ask("GET", `channels/${encodeURIComponent(channel)}/runs/${encodeURIComponent(id)}`);
  const moments = events.length ? events : sparse(run);
  const start = Math.min(...moments.map((one) => one.at));
  const end = Math.max(...moments.map((one) => one.until ?? one.at), run.finished_at ?? 0);
  view.replaceChildren(
    element("h2", {}, `Run ${run.run_id}`),
    facts([["Status", state(run.status)], ["Channel", threadLink(channel)], ["Messages", element("span", { title: run.message_ids.join(", ") }, count(run.message_ids.length))], ["Model", run.model], ["Attempt", String(run.attempt)],
      ["Took", run.finished_at ? span(run.finished_at - run.started_at) : "still runs"], ["Tokens", `${count(run.usage.input_tokens)} in, ${count(run.usage.output_tokens)} out`], ["Cost", dollars(run.usage.cost_nano)],
      ["Error", run.error ? `${run.error.code}: ${run.error.details || run.error.message}` : ""]], "facts wide"),
    element("h2", {}, "Its life"),
    ...(events.length ? [] : [element("p", { class: "soft" }, "The log of this run has been trimmed; what its record holds is left.")]),
    element("div", { class: "life" }, element("ol", {}, ...lines(moments).map((line) => lifeLine(line, start, Math.max(0.001, end - start))))));
}

function sparse(run) {
  const first = { kind: "started", at: run.started_at, attempt: run.attempt, characters: 0 };
  return run.finished_at ? [first, { kind: run.status, at: run.finished_at, characters: 0 }] : [first];
}

// Each moment lasts until the next one of its kind of waiting: from the acceptance to the start it gathers and waits, from a call
// to its result the tool works.
function lines(moments) {
  const results = new Map(moments.filter((one) => one.kind === "tool_result").map((one) => [one.detail?.call_id, one]));
  return moments.flatMap((one, place) => {
    const next = moments[place + 1];
    switch (one.kind) {
      case "accepted": {
        const started = moments.find((other) => other.kind === "started" && other.at >= one.at);
        return [{ ...one, name: "gathers, waits", kindOf: "wait", until: started?.at ?? one.at }];
      }
      case "started":
        return [{ ...one, name: one.attempt > 1 ? `attempt ${one.attempt}` : "model thinks", until: next?.at ?? one.at }];
      case "tool_call":
        return [{ ...one, name: one.detail?.name ?? "tool", kindOf: "tool", until: results.get(one.detail?.call_id)?.at ?? one.at, words: one.detail?.arguments ?? "" }];
      case "tool_result":
        return [{ ...one, name: "result", words: `${one.detail?.status ?? "ok"}` }];
      case "delta":
        return [{ ...one, name: "answers", until: one.until ?? one.at, words: `${count(one.characters)} characters` }];
      case "waiting":
      case "retrying":
        return [{ ...one, name: one.kind, kindOf: "bad", until: moments.slice(place + 1).find((other) => other.kind === "started")?.at ?? one.at, words: `${one.error?.code ?? ""} ${one.error?.details ?? ""}` }];
      case "held":
        return [{ ...one, name: "waits for a decision", kindOf: "wait", until: moments.slice(place + 1).find((other) => other.kind === "decided")?.at ?? one.at }];
      case "dead":
        return [{ ...one, name: "dead", kindOf: "bad", words: `${one.error?.code ?? ""} ${one.error?.details ?? ""}` }];
      case "responding":
      case "processing":
        return [];
      case "decided":
        return [{ ...one, name: "decided", words: (one.calls ?? []).filter((call) => call.decision).map((call) => `${call.name}: ${call.decision}${call.by ? ` by ${call.by}` : ""}`).join(", ") }];
      case "step": // what the model call has cost: the bar before it shows how long it took
        return one.usage ? [{ ...one, name: "model call ends", words: [one.detail?.model, `${count(one.usage.input_tokens)} tokens in, ${count(one.usage.output_tokens)} out`, one.usage.cost_nano ? dollars(one.usage.cost_nano) : ""].filter(Boolean).join(", ") }] : [];
      default:
        return [{ ...one, name: one.kind, words: one.kind === "completed" ? `${one.outcome ?? ""}, ${count(one.characters)} characters` : "" }];
    }
  });
}

function lifeLine(line, start, whole) {
  const until = Math.max(line.until ?? line.at, line.at);
  const bar = document.createElementNS(SVG, "svg");
  bar.setAttribute("viewBox", "0 0 1000 10");
  bar.setAttribute("preserveAspectRatio", "none");
  bar.setAttribute("aria-hidden", "true");
  const rect = document.createElementNS(SVG, "rect");
  rect.setAttribute("x", String(((line.at - start) / whole) * 996));
  rect.setAttribute("width", String(Math.max(4, ((until - line.at) / whole) * 996)));
  rect.setAttribute("height", "10");
  if (line.kindOf) rect.setAttribute("class", line.kindOf);
  bar.append(rect);
  const lasted = until > line.at ? ` (${span(until - line.at)})` : "";
  return element("li", {}, element("span", { class: "when" }, `+${(line.at - start).toFixed(2)} s`), element("span", {}, `${line.name}${lasted}`), element("div", { class: "bar" }, bar),
    line.words ? element("div", { class: "words" }, line.words) : null);
}
