// The playground: one conversation over /ws. What is on the page comes from the server alone, so that
// a reload, a second tab and a lost connection all show the same.

const $ = (id) => document.getElementById(id);
const transcript = $("transcript");
const users = new Map(); // message id -> its <li>
const settled = new Set(); // message ids whose answer is on the page
let live = null; // the <li> of the run in progress
let liveIds = [];
let position = null; // {epoch, offset} of the last frame
let socket = null;
let failures = 0;
let window_ = null; // {from, until, count} while messages gather

const linked = named(location.hash); // not remembered: what is said later shall not go where somebody else's link led
const channel = linked || localStorage.getItem("turnkeep.channel") || crypto.randomUUID();
if (linked) $("linked").hidden = linked === localStorage.getItem("turnkeep.channel");
else localStorage.setItem("turnkeep.channel", channel);
$("channel").textContent = channel;
const api = `api/channels/${encodeURIComponent(channel)}`;
addEventListener("hashchange", () => location.reload());

function named(hash) {
  try {
    return decodeURIComponent(hash.slice(1));
  } catch {
    return hash.slice(1);
  }
}

// ------------------------------------------------------------- coming in

let csrf = null; // goes with the session's cookie, which no script can read

async function enter() {
  try {
    const answer = await fetch("api/session", { credentials: "same-origin" });
    if (answer.status === 401) return askForKey("");
    csrf = (await answer.json()).csrf ?? null;
    $("door").hidden = true;
    $("leave").hidden = !csrf;
    sayWhoAnswers();
    connect();
  } catch {
    setTimeout(enter, 1000); // the server is away
  }
}

async function sayWhoAnswers() {
  const ready = await fetch("readyz").then((answer) => answer.json()).catch(() => ({}));
  $("simulated").hidden = !ready.simulated;
}

function askForKey(words) {
  $("door").hidden = false;
  $("trouble").textContent = words;
  show("connection", "sign in", false);
}

$("door").onsubmit = async (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  $("key").value = "";
  const answer = await fetch("api/session", { method: "POST", headers: { Authorization: `Bearer ${key}` } }).catch(() => null);
  if (answer?.ok) return enter();
  const told = await answer?.json().catch(() => null);
  $("trouble").textContent = told?.error?.message ?? "the server does not answer";
};

$("leave").onclick = async () => {
  await fetch("api/session", { method: "DELETE", headers: { "X-CSRF-Token": csrf } }).catch(() => {});
  location.reload();
};

// ------------------------------------------------------------- connection

const NOT_AUTHENTICATED = 4401;
const TOO_LARGE = 1009;
let subscribed = false;

function connect() {
  const url = new URL("ws", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.hash = "";
  socket = new WebSocket(url);
  subscribed = false;
  let opened = false;
  socket.onopen = () => {
    opened = true;
    send({ action: "subscribe", channel, events: "all", ...(position ?? {}) });
  };
  socket.onmessage = (event) => take(JSON.parse(event.data));
  socket.onclose = (event) => {
    if (event.code === NOT_AUTHENTICATED) return askForKey(event.reason);
    if (event.code === TOO_LARGE) refuseLargest("this message is too large");
    show("connection", event.code === 1012 ? "restarting" : "reconnecting", false);
    failures += 1;
    const longest = Math.min(5000, 200 * 2 ** failures);
    setTimeout(opened ? connect : enter, Math.random() * longest); // refused before it was open: perhaps signed out
  };
}

function send(request) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(request));
}

function show(id, words, isLive) {
  $(id).querySelector("b").textContent = words;
  $(id).classList.toggle("live", isLive);
}

// ------------------------------------------------------------- frames

const loading = { now: true, frames: [] };

function take(frame) {
  if (frame.status === "subscribed") {
    show("connection", "live", true);
    subscribed = true;
    failures = 0;
    const known = position !== null && frame.recovered;
    position = { epoch: frame.epoch, offset: frame.offset };
    if (!known) load();
    outbox.forEach(deliver);
    return;
  }
  if (frame.code === "not_allowed") return askForKey(frame.error_details || frame.message);
  if (frame.type === "error" && !frame.message_id && !frame.run_id) return onRefused(frame);
  if (loading.now) loading.frames.push(frame);
  else apply(frame);
}

function onRefused(frame) {
  const words = frame.error_details || frame.message;
  if (!subscribed) show("connection", words, false);
  else if (frame.code === "message_too_large") refuseLargest(words);
}

function apply(frame) {
  if (frame.channel !== channel) return;
  if (frame.offset !== undefined && !frame.more) position = { epoch: frame.epoch, offset: frame.offset };
  const act = { response: onResponse, error: onError, status: onStatus }[frame.type];
  act?.(frame);
}

function onStatus(frame) {
  const ids = frame.message_ids ?? [];
  switch (frame.status) {
    case "accepted":
      if (frame.receipt) onReceipt(frame.receipt);
      else ids.forEach((id) => place(addUser(id, frame.message)));
      break;
    case "edited":
      ids.forEach((id) => (addUser(id, frame.message).querySelector("p").textContent = frame.message));
      break;
    case "withdrawn":
      ids.forEach((id) => { users.get(id)?.remove(); users.delete(id); });
      break;
    case "started":
      begin(ids, frame.attempt);
      break;
    case "processing":
      liveItem().querySelector(".doing").textContent = frame.tools ? `using ${frame.tools.join(", ")}…` : frame.message;
      (frame.calls ?? []).forEach(addAction);
      break;
    case "responding":
      liveItem().querySelector(".doing").textContent = "";
      break;
    case "decided":
      document.querySelectorAll(".action").forEach((item) => item.remove());
      break;
    case "paused":
    case "resumed":
      show("connection", frame.status === "paused" ? "a person has taken over" : "live", true);
      break;
  }
}

function onReceipt(receipt) {
  outbox.delete(receipt.message_id);
  const item = users.get(receipt.message_id);
  if (item) item.querySelector("small").textContent = "";
  if (receipt.due_in !== null) gather(receipt.due_in);
}

// What was shown before the server had it goes where the server has it.
function place(item) {
  if ("accepted" in item.dataset) return;
  item.dataset.accepted = "";
  transcript.append(item);
  follow();
}

// A frame that is too large is refused unread, so nobody says which message it was.
function refuseLargest(words) {
  const [largest] = [...outbox.values()].sort((one, other) => other.message.length - one.message.length);
  if (!largest) return;
  outbox.delete(largest.message_id);
  users.get(largest.message_id).querySelector("small").textContent = words;
}

function onResponse(frame) {
  if (frame.status === "completed") return finish(frame);
  const text = liveItem().querySelector("p");
  text.textContent = frame.message;
  follow();
}

function onError(frame) {
  if (frame.message_id && !frame.run_id) {
    const item = users.get(frame.message_id);
    outbox.delete(frame.message_id);
    if (item) item.querySelector("small").textContent = frame.error_details || frame.message;
    return;
  }
  const item = liveItem();
  item.classList.add("error");
  item.querySelector("p").textContent = frame.message;
  item.querySelector("small").textContent = frame.code ?? "";
  end(frame.message_ids ?? []);
}

// ------------------------------------------------------------- the turn

function begin(ids, attempt) {
  stopGathering();
  ids.forEach((id) => users.get(id)?.classList.remove("waiting"));
  if (ids.every((id) => settled.has(id))) return;
  liveIds = ids;
  const item = liveItem();
  item.querySelector("p").textContent = "";
  item.querySelector("small").textContent = attempt > 1 ? `attempt ${attempt}` : "";
  item.querySelector(".doing").textContent = "thinking…";
  $("stop").hidden = false;
  follow();
}

function finish(frame) {
  const ids = frame.message_ids ?? [];
  if (ids.length && ids.every((id) => settled.has(id))) return;
  if (frame.author) {
    addAssistant(frame.message, frame.author);
    return;
  }
  const item = liveItem();
  item.querySelector("p").textContent = frame.message;
  const notes = [];
  if (ids.length > 1) notes.push(`one answer for ${ids.length} messages`);
  if (frame.outcome !== "completed") notes.push(frame.outcome);
  if (frame.usage?.cost) notes.push(`$${frame.usage.cost.toFixed(6)}`);
  item.querySelector("small").textContent = notes.join(" · ");
  end(ids);
}

function end(ids) {
  ids.forEach((id) => settled.add(id));
  live?.classList.remove("live");
  if (live) live.querySelector(".doing").textContent = "";
  live = null;
  $("stop").hidden = true;
  document.querySelectorAll(".action").forEach((item) => item.remove());
  follow();
}

// ------------------------------------------------------------- the page

function addUser(id, text, note = "") {
  if (users.has(id)) return users.get(id);
  $("empty").hidden = true;
  const item = $("user").content.firstElementChild.cloneNode(true);
  item.querySelector("p").textContent = text;
  item.querySelector("small").textContent = note;
  item.classList.add("waiting");
  users.set(id, item);
  transcript.append(item);
  follow();
  return item;
}

function addAssistant(text, author = "") {
  const item = $("assistant").content.firstElementChild.cloneNode(true);
  item.querySelector("p").textContent = text;
  item.querySelector("small").textContent = author;
  transcript.append(item);
  return item;
}

function liveItem() {
  if (!live) {
    live = addAssistant("");
    live.classList.add("live");
    const last = users.get(liveIds.at(-1));
    if (last) last.after(live);
  }
  return live;
}

function addAction(call) {
  if ([...document.querySelectorAll(".action")].some((item) => item.dataset.call === call.call_id)) return;
  const item = $("action").content.firstElementChild.cloneNode(true);
  item.dataset.call = call.call_id;
  item.querySelector("p").textContent = `May I call ${call.name}?`;
  item.querySelector("pre").textContent = call.arguments;
  for (const [name, decision] of [["approve", "approved"], ["deny", "denied"]]) {
    item.querySelector(`.${name}`).onclick = () =>
      send({ action: "decide", channel, call_id: call.call_id, digest: call.digest, decision });
  }
  transcript.append(item);
  follow();
}

function follow() {
  const near = innerHeight + scrollY > document.body.scrollHeight - 220;
  if (near) scrollTo(0, document.body.scrollHeight);
}

async function load() {
  loading.now = true;
  try {
    const response = await fetch(`${api}/messages?limit=500`);
    const found = response.ok ? await response.json() : { items: [], open: [] };
    transcript.replaceChildren();
    users.clear(); settled.clear(); live = null; liveIds = [];
    render(found);
  } catch {
    socket.close();
  }
  loading.now = false;
  loading.frames.splice(0).forEach(apply);
}

function render(found) {
  for (const entry of found.items) {
    if (entry.kind === "user") {
      const text = entry.content.map((part) => part.text ?? `[${part.type}]`).join("\n");
      const id = entry.message_id ?? crypto.randomUUID();
      const item = addUser(id, text);
      item.classList.remove("waiting");
      item.dataset.accepted = "";
      settled.add(id);
    } else if (entry.kind === "assistant") {
      addAssistant(entry.text, entry.interrupted ? "interrupted" : entry.author ?? "");
    } else if (entry.kind === "call") {
      addAssistant("", "").querySelector(".doing").textContent = `used ${entry.name}`;
    }
  }
  for (const open of found.open) {
    const text = (open.content ?? []).map((part) => part.text ?? `[${part.type}]`).join("\n");
    const item = addUser(open.message_id, text);
    item.classList.toggle("waiting", open.status !== "running");
    item.dataset.accepted = "";
  }
  $("empty").hidden = transcript.children.length > 0;
  scrollTo(0, document.body.scrollHeight);
}

// ------------------------------------------------------------- gathering

function gather(dueIn) {
  const now = performance.now();
  window_ = { from: window_?.from ?? now, until: now + dueIn * 1000, count: (window_?.count ?? 0) + 1 };
  $("gathering").hidden = false;
  requestAnimationFrame(drawGathering);
}

function drawGathering() {
  if (!window_) return;
  const now = performance.now();
  const whole = Math.max(1, window_.until - window_.from);
  $("gathering").querySelector("progress").value = Math.min(1, (now - window_.from) / whole);
  const words = window_.count === 1 ? "waiting a moment for more" : `${window_.count} messages gather in one turn`;
  $("gathering").querySelector("span").textContent = words;
  requestAnimationFrame(drawGathering);
}

function stopGathering() {
  window_ = null;
  $("gathering").hidden = true;
}

// ------------------------------------------------------------- writing

const outbox = new Map(); // sent, not yet accepted: repeated after a reconnect, under the same id

function say(text) {
  const message = { channel, message_id: crypto.randomUUID(), message: text };
  outbox.set(message.message_id, message);
  addUser(message.message_id, text, "sending…");
  deliver(message);
}

function deliver(message) {
  send(message);
}

$("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  say(text);
  $("text").value = "";
  grow();
};

let typedAt = 0;
function grow() {
  const area = $("text");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}
$("text").oninput = () => {
  grow();
  if (window_ && performance.now() - typedAt > 700) {
    typedAt = performance.now();
    send({ action: "typing", channel });
  }
};
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
};
$("stop").onclick = () => send({ action: "cancel", channel });
$("flush").onclick = () => send({ action: "flush", channel });
$("fresh").onclick = () => {
  localStorage.removeItem("turnkeep.channel");
  location.hash = "";
  location.reload();
};
$("burst").onclick = () => {
  const texts = ["Hi!", "I have a question", "about Paris", "well, about the weather there", "is it warm today?"];
  texts.forEach((text, place) => setTimeout(() => say(text), place * 350));
};

enter();
