// The chat page: puts its parts together. What is on it comes from the server (`conversation`); what is kept here is
// what is not there yet, and the list of conversations.

import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { Conversation } from "./conversation.js";
import { Conversations } from "./conversations.js";
import { $, element, reconcile } from "../element.js";
import { exportJson, exportMarkdown } from "./export.js";
import { ask, lookWho, may, readiness, session, signIn, signOut } from "../server.js";
import { drawStanding } from "./standing.js";
import { followTheme } from "../theme.js";
import { beginEdit, entries, textOf } from "./transcript.js";

const OWN = "turnkeep.channel";
const OTHER_MODEL = "\0"; // no model has this name
const DRAWN_EVERY = 40; // milliseconds: no eye sees more, and a stream of tokens costs no more than this

let conversation = null;
let connection = null;
let wasLinked = false;
let mostBytes = Infinity; // of a frame, as the server has said

// ------------------------------------------------------------- which conversation

function named(hash) {
  try {
    return decodeURIComponent(hash.slice(1));
  } catch {
    return hash.slice(1);
  }
}

// A channel that a link names is not remembered: what is said later shall not go where somebody else's link led.
function choose() {
  const linked = named(location.hash);
  const own = localStorage.getItem(OWN);
  wasLinked = Boolean(linked) && linked !== own;
  const channel = linked || own || crypto.randomUUID();
  if (!wasLinked) localStorage.setItem(OWN, channel);
  return channel;
}

function turnTo(channel) {
  connection?.close();
  if (conversation) conversation.isLeft = true;
  conversation = new Conversation(channel, drawSoon);
  conversation.sendAgain = (id) => { deliver(conversation.outbox.again(id)); drawSoon(); };
  connection = new Connection(channel, {
    frame: (frame) => { conversation.apply(frame); tellPeople(frame); },
    state: onState, signIn: askForKey, again: enter,
    tooLarge: () => { conversation.outbox.refuseLargest("this message is too large"); drawSoon(); },
  });
  conversations.current = channel;
  conversations.draw();
  $("channel").textContent = channel;
  $("linked").hidden = !wasLinked;
  $("transcript").replaceChildren();
  composer.turnTo(channel);
  drawModels();
  isFollowing = true;
  drawSoon();
}

function begin(channel) {
  localStorage.setItem(OWN, channel);
  wasLinked = false;
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  turnTo(channel);
  connection.open();
  closeDrawer();
  $("text").focus();
}

// ------------------------------------------------------------- coming in

async function enter() {
  try {
    await lookWho();
  } catch (error) {
    if (error.status === 401) return askForKey("");
    setTimeout(enter, 1000); // the server is away
    return undefined;
  }
  $("door").hidden = true;
  $("leave").hidden = !session.isSigned;
  $("to-dashboard").hidden = !may("admin");
  sayWhoAnswers();
  connection.open();
  return undefined;
}

async function sayWhoAnswers() {
  const ready = await readiness();
  mostBytes = ready.frame_bytes ?? mostBytes;
  for (const id of ["simulated", "try-long", "try-break"]) $(id).hidden = !ready.simulated;
  $("try-tool").hidden = !(ready.simulated && ready.approvable);
  $("try-tool").dataset.tool = ready.approvable ?? "";
  if (!may("manage")) return;
  const { assistants, default: usual } = await ask("GET", "assistants").catch(() => ({ assistants: [] }));
  $("who").hidden = assistants.length < 2;
  $("assistant").replaceChildren(...assistants.map((one) => element("option", { value: one.id }, one.name || one.model)));
  $("assistant").value = conversation.body?.thread.assistant ?? usual;
  models = [...new Set(assistants.map((one) => one.model))];
  drawModels();
}

// ------------------------------------------------------------- which model

let models = [];
const keyOfModel = () => `turnkeep.model.${conversation.channel}`;
const chosenModel = () => (may("manage") ? localStorage.getItem(keyOfModel()) ?? "" : "");

// A choice is of this conversation in this browser, and goes with each message; others are not bound by it.
function drawModels() {
  const chosen = chosenModel();
  const names = [...new Set([...models, ...(chosen ? [chosen] : [])])];
  $("which").hidden = !may("manage");
  $("model").replaceChildren(element("option", { value: "" }, "Auto"), ...names.map((name) => element("option", { value: name }, name)),
    element("option", { value: OTHER_MODEL }, "Another model…"));
  $("model").value = chosen;
}

$("model").onchange = () => {
  const { value } = $("model");
  const name = value === OTHER_MODEL ? prompt("Name of the model, as its server knows it", chosenModel())?.trim() ?? chosenModel() : value;
  if (name) localStorage.setItem(keyOfModel(), name);
  else localStorage.removeItem(keyOfModel());
  drawModels();
};

$("assistant").onchange = () => conversation.change({ assistant: $("assistant").value }).catch((error) => {
  conversation.problem = error.status === 404 ? "Write something first: then another assistant can be chosen." : error.message;
  drawSoon();
});

function askForKey(words) {
  $("door").hidden = false;
  $("trouble").textContent = words;
  showConnection("sign in", false);
}

$("door").onsubmit = async (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  $("key").value = "";
  try {
    await signIn(key);
  } catch (error) {
    $("trouble").textContent = error.status ? error.message : "the server does not answer";
    return;
  }
  enter();
};

$("leave").onclick = async () => {
  await signOut();
  location.reload();
};

// ------------------------------------------------------------- the connection

function onState(state, { isKnown, hasThread, words, skew } = {}) {
  conversation.isConnected = state === "live";
  if (state === "live") {
    conversation.skew = skew;
    $("lost").hidden = true;
    showConnection("live", true);
    if (hasThread || conversation.outbox.accepted().length || conversation.body) conversation.load();
    else if (!isKnown) conversation.isLoaded = true;
    conversation.outbox.giveUpOnWhatBreaksIt();
    conversation.outbox.unsent().forEach(({ message }) => deliver(message));
  } else {
    showConnection(words ?? state, false);
    $("lost").textContent = words ?? "The connection is lost and is tried again. What you write is kept here and sent once it is back.";
    clearTimeout(lostTimer);
    // a restart within a blink is nobody's concern
    lostTimer = setTimeout(() => { $("lost").hidden = conversation.isConnected; }, words ? 0 : 1200);
  }
  drawSoon();
}

let lostTimer = 0;

function showConnection(words, isLive) {
  $("connection").querySelector("b").textContent = words;
  $("connection").classList.toggle("live", isLive);
}

// ------------------------------------------------------------- writing

function say(text, parts = []) {
  const id = crypto.randomUUID();
  const content = parts.length ? { content: [...parts, ...(text ? [{ type: "text", text }] : [])] } : { message: text };
  const model = chosenModel();
  const message = { channel: conversation.channel, message_id: id, ...content, ...(model ? { model } : {}) };
  if (!conversation.body?.items.length && !wasLinked) conversations.note(conversation.channel, { title: titleOf(text) });
  conversation.outbox.add(message);
  deliver(message);
  isFollowing = true;
  drawSoon();
}

// The first words of a conversation, without what only steers a simulator and without Markdown.
function titleOf(text) {
  return text.replace(/\[\[.*?\]\]/gs, "").replace(/[*_`#>]+/g, "").trim() || text.trim();
}

function deliver(message) {
  if (!message) return;
  const size = new Blob([JSON.stringify(message)]).size;
  if (size > mostBytes) {
    conversation.outbox.refuse(message.message_id, `this message is too large: ${size} bytes are more than the ${mostBytes} that are read at once`, false);
    return;
  }
  if (!connection.isOpen) return;
  conversation.outbox.countDelivery(message.message_id);
  connection.send(message);
}

const composer = new Composer({
  say,
  typing: () => conversation.window && connection.send({ action: "typing", channel: conversation.channel }),
  editLast: () => {
    const last = conversation.body?.open.filter((message) => message.status === "waiting").at(-1);
    if (last) beginEdit(conversation, last);
    return Boolean(last);
  },
});

const stop = () => connection.send({ action: "cancel", channel: conversation.channel });
$("stop").onclick = stop;
$("flush").onclick = () => connection.send({ action: "flush", channel: conversation.channel });
$("burst").onclick = () => {
  const texts = ["Hi!", "I have a question", "about Paris", "well, about the weather there", "is it warm today?"];
  texts.forEach((text, place) => setTimeout(() => say(text), place * 350));
};
$("try-long").onclick = () => say("Tell me a long story. [[words:400]]");
$("try-tool").onclick = () => say(`Please use the tool. [[call:${$("try-tool").dataset.tool} {"to": "Ada", "text": "Hello!"}]]`);
$("try-break").onclick = () => say("Fail twice, then answer. [[fault:500 times=2]]");

// ------------------------------------------------------------- the list and the menu

const conversations = new Conversations({
  open: begin,
  search: async (words) => {
    if (!may("admin")) return [];
    const { passages } = await ask("GET", `search?limit=200&q=${encodeURIComponent(words)}`).catch(() => ({ passages: [] }));
    return passages.map((one) => one.channel);
  },
  remove: async (channel, words) => {
    if (!confirm(`Delete "${words}" for good, here and on the server?`)) return;
    const other = channel === conversation.channel ? conversation : new Conversation(channel, () => {});
    await other.forget().catch(() => null); // who may not forget it there takes it off his list
    localStorage.removeItem(`turnkeep.draft.${channel}`);
    localStorage.removeItem(`turnkeep.outbox.${channel}`);
    localStorage.removeItem(`turnkeep.model.${channel}`);
    conversations.remove(channel);
    if (channel === conversation.channel) begin(crypto.randomUUID());
  },
});

function title() {
  const { body, channel } = conversation;
  const first = body?.items.find((item) => item.kind === "user") ?? body?.open[0] ?? body?.dead[0];
  return conversations.titleOf(channel) || body?.thread.metadata.title || (first ? titleOf(textOf(first.content ?? [])).slice(0, 80) : "");
}

$("fresh").onclick = () => begin(crypto.randomUUID());
$("title").onclick = async () => {
  const words = prompt("Name of this conversation", title())?.trim();
  if (!words) return;
  conversations.note(conversation.channel, { title: words, isChosen: true });
  await conversation.change({ metadata: { title: words.slice(0, 80) } }).catch(() => null); // so that others find it by it
  drawSoon();
};
$("delete").onclick = () => { $("menu").open = false; conversations.on.remove(conversation.channel, title() || "this conversation"); };
$("pause").onclick = () => { $("menu").open = false; conversation.pause(); };
$("export-markdown").onclick = () => { $("menu").open = false; exportMarkdown(title() || "Conversation", conversation); };
$("export-json").onclick = () => { $("menu").open = false; exportJson(title() || "Conversation", conversation); };
$("earlier").onclick = async () => {
  const height = document.documentElement.scrollHeight;
  await conversation.loadOlder().catch(() => null);
  draw();
  scrollBy(0, document.documentElement.scrollHeight - height); // what was being read stays where it was
};

function openDrawer() {
  $("sidebar").classList.add("open");
  $("open-drawer").setAttribute("aria-expanded", "true");
  $("search").focus();
}

function closeDrawer() {
  const wasOpen = $("sidebar").classList.contains("open");
  $("sidebar").classList.remove("open");
  $("open-drawer").setAttribute("aria-expanded", "false");
  return wasOpen;
}

$("open-drawer").onclick = openDrawer;
$("close-drawer").onclick = closeDrawer;
addEventListener("click", (event) => {
  if (!event.target.closest("#sidebar, #open-drawer")) closeDrawer();
  if (!event.target.closest("#menu")) $("menu").open = false;
});

addEventListener("keydown", (event) => {
  const isCommand = event.ctrlKey || event.metaKey;
  if (event.key === "Escape") {
    if ($("menu").open) $("menu").open = false;
    else if (!closeDrawer() && conversation.live && !event.isComposing) stop();
  } else if (isCommand && event.key.toLowerCase() === "k") {
    event.preventDefault();
    openDrawer();
  } else if (isCommand && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    begin(crypto.randomUUID());
  }
});

addEventListener("hashchange", () => location.reload());

// ------------------------------------------------------------- drawing

let isFollowing = true;
let drawnAt = 0;
let isPlanned = false;

addEventListener("scroll", () => { isFollowing = innerHeight + scrollY > document.documentElement.scrollHeight - 120; }, { passive: true });

function drawSoon() {
  if (isPlanned) return;
  isPlanned = true;
  setTimeout(() => requestAnimationFrame(draw), Math.max(0, drawnAt + DRAWN_EVERY - performance.now()));
}

function draw() {
  isPlanned = false;
  drawnAt = performance.now();
  const wanted = entries(conversation);
  reconcile($("transcript"), wanted);
  drawStanding($("standing"), conversation);
  $("earlier").hidden = !conversation.hasOlder;
  $("empty").hidden = !conversation.isLoaded || wanted.length > 0 || $("standing").children.length > 0;
  const isRunning = Boolean(conversation.live && !conversation.live.isDone);
  $("stop").hidden = !isRunning && conversation.body?.thread.state !== "held";
  $("stop").disabled = !conversation.isConnected;
  $("pause").hidden = Boolean(conversation.body?.thread.paused) || !conversation.body || !may("send");
  $("delete").hidden = !may("manage");
  $("title").textContent = title() || "New conversation";
  document.title = title() ? `${title()} · turnkeep` : "turnkeep";
  drawGathering();
  if (isFollowing) scrollTo(0, document.documentElement.scrollHeight);
}

let isCounting = false;

function drawGathering() {
  const { window: gathering } = conversation;
  $("gathering").hidden = !gathering;
  if (!gathering) return;
  const { from, until, count } = gathering;
  $("gathering").querySelector("progress").value = Math.min(1, Math.max(0, (performance.now() - from) / Math.max(1, until - from)));
  $("gathering").querySelector("span").textContent = count === 1 ? "waiting a moment for more" : `${count} messages gather in one turn`;
  if (isCounting) return;
  isCounting = true;
  requestAnimationFrame(() => { isCounting = false; drawGathering(); });
}

// Read out once when it has come to an end, never while it grows.
function tellPeople(frame) {
  const words = frame.type === "response" && frame.status === "completed" ? `${frame.author ?? "Assistant"}: ${frame.message.slice(0, 500)}`
    : frame.status === "started" ? "The assistant answers."
    : frame.calls && frame.status === "processing" ? "The assistant waits for your decision."
    : frame.type === "error" ? frame.message : "";
  if (words) $("announcer").textContent = words;
}

followTheme();
turnTo(choose());
enter();
export { conversation, textOf };
