// The React hook on a page that is rendered, closed, and opened again: prints what a person saw.
import { Window } from "happy-dom";
import { createElement, useEffect } from "react";
import { useConversation } from "turnkeep-client/react";
import { TurnkeepClient } from "turnkeep-client";

const page = new Window();
globalThis.document = page.document;
globalThis.window = page;
globalThis.navigator ??= page.navigator;
const { createRoot } = await import("react-dom/client");
const [url] = process.argv.slice(2);
const channel = "page";

let shown;
function Page({ client }) {
  const conversation = useConversation(client, channel);
  useEffect(() => {
    shown = conversation;
  });
  return null;
}

function open(client) {
  const root = createRoot(page.document.createElement("div"));
  root.render(createElement(Page, { client }));
  return root;
}

async function until(holds) {
  for (let round = 0; round < 3000; round++) {
    if (shown && holds(shown)) return shown;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`never so: ${JSON.stringify(shown)}`);
}

const answered = ({ messages }) => messages.filter((message) => message.role === "assistant").length;
const client = new TurnkeepClient({ url, storage: null });
const first = open(client);
await until(({ status }) => status === "ready");
shown.send("hello [[words:40]] [[pace:20]]", { flush: true });
const seen = [];
await until(({ text, messages }) => (seen.push(text), messages.some((message) => message.role === "assistant")));
const grew = new Set(seen.filter(Boolean)).size;
shown.send("two [[say:second]]", { window: 1, max_wait: 3 });
shown.send("three [[say:third]]", { window: 1, max_wait: 3 });
await until((one) => answered(one) >= 2);
const live = shown.messages.map(({ role, text, state }) => [role, text, state]);
first.unmount();

// Written while the page's server cannot be reached, by a page that is closed at once.
const storage = new Map();
const kept = { get length() { return storage.size; }, key: (n) => [...storage.keys()][n], getItem: (k) => storage.get(k),
  setItem: (k, v) => storage.set(k, v), removeItem: (k) => storage.delete(k) }; // prettier-ignore
const real = globalThis.fetch;
globalThis.fetch = () => Promise.reject(new TypeError("no network"));
new TurnkeepClient({ url, storage: kept }).post(channel, "four [[say:fourth]]", { flush: true });
const entries = new Map(storage);
globalThis.fetch = real;
for (const [name, value] of entries) storage.set(name, value);
const later = new TurnkeepClient({ url, storage: kept });
shown = undefined;
open(later);
await until(({ messages }) => messages.at(-1)?.state === "sending" || messages.length >= 7);
await later.resumeOutbox();
await until((one) => answered(one) >= 3);
const reloaded = shown.messages.map(({ role, text }) => [role, text]);
console.log(JSON.stringify({ grew, live, reloaded, outbox: later.outbox.length }));
process.exit(0);
