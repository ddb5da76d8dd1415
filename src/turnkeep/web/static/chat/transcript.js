// The messages of a conversation as elements. `entries` says what is to be seen, in order; what has not changed
// since it was drawn last stays as it is.

import { button, element } from "../element.js";
import { copyText, draw } from "../markdown.js";
import { may } from "../server.js";

export function entries(conversation) {
  const { body, older, live, ending } = conversation;
  const settled = turns([...older, ...(body?.items ?? [])]).flatMap((turn) => turnEntries(conversation, turn));
  const dead = (body?.dead ?? []).map((letter) => ({ at: letter.at, ...deadEntry(conversation, letter) }));
  const past = dead.length ? [...settled, ...dead].sort((one, other) => one.at - other.at) : settled;
  const open = (body?.open ?? []).filter((message) => !live?.isDone || message.status !== "running");
  const running = open.filter((message) => message.status === "running");
  const waiting = open.filter((message) => message.status !== "running");
  const known = new Set([...open.map((message) => message.message_id), ...(body?.items ?? []).map((item) => item.message_id)]);
  const unsent = [...conversation.outbox.messages.values()].filter((entry) => !known.has(entry.message.message_id));
  const isOfEnding = (message) => Boolean(ending?.ids.includes(message.message_id));
  const liveIds = new Set(running.map((message) => message.message_id));
  return [
    ...past,
    ...running.filter(isOfEnding).map((message) => openEntry(conversation, message)),
    ...(ending && !isShown(ending, settled, liveIds) ? [liveEntry(ending)] : []),
    ...running.filter((message) => !isOfEnding(message)).map((message) => openEntry(conversation, message)),
    ...(live && !isShown(live, settled, liveIds) && !isEmpty(live) ? [liveEntry(live)] : []),
    ...waiting.map((message) => openEntry(conversation, message)),
    ...unsent.map((entry) => unsentEntry(conversation, entry)),
  ];
}

// Of a run whose answer is in the transcript already nothing more is to be shown.
function isShown(live, settled, running) {
  const there = new Set(settled.map((entry) => entry.key));
  return live.ids.length > 0 && live.ids.every((id) => there.has(`user ${id}`) && !running.has(id));
}

const isEmpty = (live) => !live.text && !live.thought && !live.steps.length && !live.files.length && !live.doing && !live.cause;

function turns(items) {
  const all = [];
  for (const item of items) {
    if (!all.length || all.at(-1)[0].turn !== item.turn) all.push([]);
    all.at(-1).push(item);
  }
  return all;
}

function turnEntries(conversation, items) {
  const users = items.filter((item) => item.kind === "user");
  const rest = items.filter((item) => item.kind !== "user" && item.kind !== "system");
  const { at } = items[0];
  const asked = users.map((item, place) => ({ at, ...userEntry(item, `user ${item.message_id ?? `${item.turn}.${place}`}`) }));
  return rest.length ? [...asked, { at, ...answerEntry(conversation, rest, users) }] : asked;
}

// ------------------------------------------------------------- people

export const textOf = (content) => content.filter((part) => part.type === "text").map((part) => part.text).join("\n");

function bubble(content) {
  const parts = content.filter((part) => part.type !== "text").map(attachment);
  const text = textOf(content);
  return [...parts, ...(text ? [element("p", { class: "bubble" }, text)] : [])];
}

function attachment(part) {
  if (part.type === "image" && part.image_url?.startsWith("data:image/")) return element("img", { src: part.image_url, alt: "Attached image" });
  const name = part.filename ?? part.file_url ?? part.image_url ?? part.type;
  const url = part.file_data ?? part.file_url ?? part.image_url ?? "";
  return fileLink(url, name);
}

// Pictures are shown where the page has them: it loads none from elsewhere. Others are handed on as they are.
function fileLink(url, name) {
  if (url.startsWith("data:")) return element("a", { class: "file", href: url, download: name }, name);
  if (/^https?:/i.test(url)) return element("a", { class: "file", href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, name);
  return element("span", { class: "file" }, name);
}

function made(file) {
  const name = file.filename || `${file.media_type.split("/")[0]}.${file.media_type.split("/").at(-1).replace(/[^a-z0-9]/gi, "") || "bin"}`;
  if (!file.url.startsWith("data:image/")) return fileLink(file.url, name);
  return element("figure", {}, element("img", { src: file.url, alt: "Picture of the assistant" }), element("figcaption", {}, fileLink(file.url, name)));
}

function userItem(state, content, tools, note = "", more = []) {
  return element("li", { class: `user ${state}` }, ...bubble(content), ...more,
    element("div", { class: "tools" }, note ? element("small", {}, note) : null, ...tools));
}

const copyTool = (text) => {
  const tool = button("Copy", () => copyText(text, tool), { class: "on-hover" });
  return tool;
};

function userEntry(item, key) {
  return { key, look: `settled ${JSON.stringify(item.content)}`, make: () => userItem("", item.content, [copyTool(textOf(item.content))]) };
}

function openEntry(conversation, message) {
  const content = message.content ?? [];
  const isWaiting = message.status !== "running";
  const note = { delayed: "waits for its time", waiting: "" }[message.status] ?? "";
  const make = () => {
    const tools = [copyTool(textOf(content))];
    if (isWaiting && may("send")) {
      tools.push(button("Edit", () => beginEdit(conversation, message), { class: "on-hover" }));
      tools.push(button("Withdraw", () => conversation.withdraw(message.message_id), { class: "on-hover" }));
    }
    return userItem(isWaiting ? "waiting" : "", content, tools, note);
  };
  return { key: `user ${message.message_id}`, look: `${message.status} ${JSON.stringify(content)}`, make };
}

export function beginEdit(conversation, message) {
  const place = [...document.querySelectorAll("#transcript > .user")].find((one) => one.dataset.key === `user ${message.message_id}`);
  if (!place) return;
  const area = element("textarea", { rows: 3, "aria-label": "Change the message", value: textOf(message.content) });
  const save = () => conversation.edit(message.message_id, area.value.trim());
  const end = () => { place.dataset.look = ""; conversation.changed(); };
  const box = element("form", { class: "card", onsubmit: (event) => { event.preventDefault(); end(); save(); } }, area,
    element("div", { class: "buttons" }, element("button", { type: "submit", class: "primary" }, "Save"), button("Cancel", end)));
  area.onkeydown = (event) => {
    if (event.key === "Escape") { event.stopPropagation(); end(); }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) box.requestSubmit();
  };
  place.replaceChildren(box);
  area.focus();
}

function unsentEntry(conversation, { message, isAccepted, refusal, isRetryable }) {
  const content = message.content ?? [{ type: "text", text: message.message }];
  const make = () => {
    const tools = [];
    if (refusal) {
      if (isRetryable) tools.push(button("Try again", () => conversation.sendAgain(message.message_id)));
      tools.push(button("Discard", () => { conversation.outbox.remove(message.message_id); conversation.changed(); }));
    }
    return userItem(refusal ? "dead" : "waiting", content, tools, refusal ?? (isAccepted ? "" : conversation.isConnected ? "sending…" : "kept here until the connection is back"));
  };
  const look = `unsent ${isAccepted} ${refusal} ${conversation.isConnected}`;
  return { key: `user ${message.message_id}`, look, make };
}

function deadEntry(conversation, letter) {
  const make = () => {
    const card = element("div", { class: "card bad", role: "group", "aria-label": "Not answered" },
      element("p", {}, element("b", {}, "This message could not be answered. "), letter.error.message),
      letter.remedy && may("manage") ? element("p", {}, letter.remedy) : null,
      element("details", {}, element("summary", {}, `Details (${letter.error.code})`), element("pre", {}, letter.error.details || "none")),
      may("send") ? element("div", { class: "buttons" },
        button("Try again", () => conversation.tryAgain(letter.dead_id), { class: "primary again" }),
        button("Forget it", () => conversation.forgetDead(letter.dead_id))) : null);
    return userItem("dead", letter.content, [], "", [card]);
  };
  return { key: `user ${letter.message_id}`, look: `dead ${letter.dead_id}`, make };
}

// ------------------------------------------------------------- the assistant

function answerEntry(conversation, items, users) {
  const run = conversation.runs.get(users.at(-1)?.message_id);
  const isLast = items.at(-1) === conversation.body?.items.at(-1);
  const mayRepeat = isLast && users.length > 0 && !conversation.isBusy && !conversation.body.open.length && may("send");
  const notes = notesOf(items, users, run);
  const look = `answer ${JSON.stringify(items)} ${mayRepeat} ${notes}`;
  const make = () => {
    const text = items.filter((item) => item.kind === "assistant").map((item) => item.text).join("\n\n");
    const tools = [copyTool(text)];
    if (mayRepeat) tools.push(button("Regenerate", () => conversation.regenerate(), { class: "regenerate" }));
    const { author } = items.find((item) => item.kind === "assistant" && item.author) ?? {};
    const node = element("li", { class: "assistant" },
      author ? element("div", { class: "author" }, author) : null,
      ...stepsAndTexts(items),
      element("div", { class: "tools" }, element("small", {}, notes), ...tools));
    return node;
  };
  return { key: `answer ${items[0].turn}`, look, make };
}

function notesOf(items, users, run) {
  const notes = [];
  if (users.length > 1) notes.push(`one answer for ${users.length} messages`);
  if (run && ["cancelled", "incomplete"].includes(run.status)) notes.push(run.status);
  else if (items.some((item) => item.interrupted)) notes.push("interrupted");
  if (run?.model) notes.push(run.model);
  if (run?.model && run.finished_at) notes.push(`${Math.max(0.1, run.finished_at - run.started_at).toFixed(1)} s`);
  if (run?.usage?.output_tokens) notes.push(`${run.usage.output_tokens.toLocaleString("en")} tokens`);
  if (run?.usage?.cost) notes.push(`$${run.usage.cost.toFixed(6)}`);
  return notes.join(" · ");
}

function stepsAndTexts(items) {
  const outputs = new Map(items.filter((item) => item.kind === "output").map((item) => [item.call_id, item]));
  return items.flatMap((item) => {
    switch (item.kind) {
      case "reasoning":
        return item.text ? [thought(item.text, false)] : [];
      case "call": {
        const output = outputs.get(item.call_id);
        return [step({ ...item, ...decisionOf(output), output: output?.output, status: output ? (output.status ?? "ok") : "open" })];
      }
      case "hosted":
        return [step({ name: item.name, arguments: item.text, status: "ok", by_provider: true }), ...(item.file ? [made(item.file)] : [])];
      case "assistant":
        return [markdown(item.text), ...(item.citations?.length ? [sources(item.citations)] : [])];
      default:
        return [];
    }
  });
}

const decisionOf = (output) => ({ decision: output?.decision, by: output?.decided_by, at: output?.decided_at });

// What somebody decided about a call stays to be seen, after the run too.
export function decisionWords({ decision, by, at }) {
  const verb = { approved: "Approved", denied: "Denied", output: "Output given", expired: "Nobody decided in time", declined: "The user moved on" }[decision];
  if (!verb) return "";
  const when = at ? new Date(at * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "";
  return [by ? `${verb} by ${by}` : verb, when].filter(Boolean).join(", ");
}

function markdown(text, isLive = false) {
  const node = element("div", { class: "text" });
  draw(node, text, { isLive });
  return node;
}

function thought(text, isOpen) {
  return element("details", { class: "thought", open: isOpen }, element("summary", {}, "Thoughts"), element("p", {}, text));
}

const STATES = { ok: ["done", "good"], error: ["failed", "bad"], denied: ["denied", "bad"], expired: ["nobody decided", "bad"],
  cancelled: ["cancelled", ""], unknown: ["outcome unknown", "bad"], open: ["waits", ""], running: ["runs", ""] };

function step(call) {
  const [words, mood] = STATES[call.status ?? "running"] ?? [call.status, ""];
  const part = (term, text) => (text ? [element("dt", {}, term), element("dd", {}, element("pre", {}, readable(text)))] : []);
  return element("details", { class: "step" },
    element("summary", {}, "Tool ", element("b", {}, call.name), call.by_provider ? " at the provider" : "", element("span", { class: `state ${mood}` }, words)),
    decisionWords(call) ? element("p", { class: "decision" }, decisionWords(call)) : null,
    element("dl", {}, ...part("Input", call.arguments), ...part("Output", call.output)));
}

export function readable(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? JSON.stringify(value, null, 2) : String(value);
  } catch {
    return text;
  }
}

function sources(citations) {
  const seen = new Map(citations.filter((one) => one.url || one.title).map((one) => [one.url || one.title, one]));
  const entry = (one) => {
    const words = one.title || one.url;
    const isSafe = /^https?:/i.test(one.url ?? "");
    return element("li", {}, isSafe ? element("a", { href: one.url, target: "_blank", rel: "noopener noreferrer nofollow", title: one.quote || null }, words) : words);
  };
  return element("ul", { class: "sources", "aria-label": "Sources" }, ...[...seen.values()].map(entry));
}

// Drawn anew only where it has changed: a text that grows keeps its place on the screen, and its folds.
function liveEntry(live) {
  const look = `${live.runId} ${live.attempt} ${live.text.length} ${live.thought.length} ${JSON.stringify(live.steps)} ${live.sources.length} ${live.files.length} ${live.doing} ${live.cause?.reason} ${live.isDone} ${live.isHeld}`;
  const make = (present) => {
    const node = present ?? element("li", { class: "assistant live" },
      element("div", { class: "author", hidden: true }), element("div", { class: "steps" }), element("div", { class: "text" }),
      element("div", { class: "doing" }), element("div", { class: "tools" }, element("small", {})));
    const [author, steps, text, doing] = node.children;
    author.hidden = !live.author;
    author.textContent = live.author ?? "";
    node.classList.toggle("live", !live.isDone && !live.isHeld);
    const folds = [...(live.thought ? [thought(live.thought, !live.text)] : []), ...live.steps.map((one) => step(live.isHeld && !one.status ? { ...one, status: "open" } : one)), ...live.files.map(made)];
    const stepsLook = `${live.thought.length} ${JSON.stringify(live.steps)} ${Boolean(live.text)} ${live.isHeld} ${live.files.length}`;
    if (steps.look !== stepsLook) steps.replaceChildren(...folds);
    steps.look = stepsLook;
    draw(text, live.text, { isLive: !live.isDone });
    doing.textContent = live.cause ? (live.cause.error_details ?? live.cause.message) : live.doing;
    return node;
  };
  return { key: `live ${live.runId}`, look, make };
}
