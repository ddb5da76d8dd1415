// The dashboard: one place that says which view is to be seen, and one stream that says when something has changed.

import { $ } from "../element.js";
import { ask, lookWho, may, session, signIn, signOut } from "../server.js";
import { followTheme } from "../theme.js";
import { forgetCharts } from "./charts.js";
import { drawApprovals, drawDead, drawOutside, drawRuns, drawThreads, focusView } from "./listings.js";
import { drawOverview, drawUsage, drawWorkers } from "./overview.js";
import { drawRun, drawThread } from "./thread.js";

const known = { overview: null, usage: null, month: null };
const LOOKED_AT_AGAIN = 15_000; // what nobody pushes: usage of days
let stream = null;
let heardAt = 0;
let counts = "";

// ------------------------------------------------------------- coming in

async function enter() {
  try {
    await lookWho();
  } catch (error) {
    $("door").hidden = error.status !== 401;
    $("house").hidden = $("tabs").hidden = true;
    if (error.status !== 401) {
      trouble("The server does not answer.");
      setTimeout(enter, 2000);
    }
    return;
  }
  $("door").hidden = true;
  $("leave").hidden = !session.isSigned;
  $("who").textContent = `${session.tenant} · ${session.subject}`;
  if (!may("admin")) {
    trouble("this credential has no scope 'admin'");
    return;
  }
  trouble("");
  $("house").hidden = $("tabs").hidden = false;
  listen();
  show();
}

$("door").onsubmit = async (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  $("key").value = "";
  try {
    await signIn(key);
    trouble("");
    await enter();
  } catch (error) {
    trouble(error.message);
  }
};

$("leave").onclick = async () => {
  await signOut();
  location.reload();
};

function trouble(words) {
  $("trouble").textContent = words;
  $("trouble").hidden = !words;
}

// ------------------------------------------------------------- what is pushed

function listen() {
  stream?.close();
  stream = new EventSource("api/overview/events");
  stream.onmessage = (event) => {
    heardAt = Date.now();
    known.overview = JSON.parse(event.data);
    onOverview(known.overview);
  };
  stream.onopen = () => { heardAt = Date.now(); $("stale").hidden = true; };
  stream.addEventListener("closed", enter);
  stream.onerror = () => {
    $("stale").textContent = `The connection is lost and is tried again. What you see is as it was at ${new Date(heardAt || Date.now()).toLocaleTimeString()}.`;
    $("stale").hidden = false;
    if (stream.readyState === EventSource.CLOSED) setTimeout(enter, 2000);
  };
}

function onOverview({ queue }) {
  for (const [name, number] of [["held", queue.details.held], ["dead", queue.details.dead_letters]]) {
    const badge = document.querySelector(`[data-count="${name}"]`);
    if (badge.textContent === String(number)) continue;
    badge.textContent = number;
    badge.hidden = !number;
    showTab(); // a badge that comes pushes it out of a narrow row
  }
  const [name] = where();
  if (["overview", "workers"].includes(name)) show({ isPushed: true });
  const now = JSON.stringify([queue.details.held, queue.details.dead_letters]);
  // lists that somebody reads or filters are not pulled from under him, inboxes are
  if (now !== counts && counts && ["approvals", "dead"].includes(name)) show({ isPushed: true });
  counts = now;
}

// ------------------------------------------------------------- which view

// With a slash: a link to "#name" that is scrolled out of sight would pass for one that skips to a part of the page.
const where = () => (location.hash.replace(/^#\/?/, "") || "overview").split("/").map(decodeURIComponent);

async function act(method, path, body, isShown = true) {
  try {
    await ask(method, path, body);
    trouble("");
    if (isShown) await show({ isPushed: true });
    return true;
  } catch (error) {
    trouble(error.message);
    return false;
  }
}

const VIEWS = {
  overview: async (view) => { drawOverview(view, known); await lookAtUsage(); },
  threads: (view) => drawThreads(view),
  thread: (view, channel) => drawThread(view, channel, act),
  runs: (view) => drawRuns(view),
  run: (view, channel, id) => drawRun(view, channel, id),
  approvals: (view) => drawApprovals(view, act),
  dead: (view) => drawDead(view, act),
  workers: (view) => drawWorkers(view, known),
  usage: async (view) => { lookedAt = 0; drawUsage(view, known); await lookAtUsage(); drawUsage(view, known); },
  outside: (view) => drawOutside(view, act),
};

let lookedAt = 0;

async function lookAtUsage() {
  if (Date.now() - lookedAt < LOOKED_AT_AGAIN) return;
  lookedAt = Date.now();
  [known.usage, known.month] = await Promise.all([ask("GET", "usage?days=30"), ask("GET", "activity?span=month")]);
  if (where()[0] === "overview") drawOverview($("view"), known);
}

// On a phone the row of tabs is wider than the screen.
const showTab = () => $("tabs").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });

// What was asked for the view before may be answered late: it is drawn into an element that nobody sees any more.
function leaveView() {
  const old = $("view");
  const fresh = old.cloneNode(false);
  fresh.append(...old.childNodes); // until the next one can be drawn: an empty page would flicker
  old.replaceWith(fresh);
}

async function show({ isPushed = false } = {}) {
  const [name, ...rest] = where();
  if (!isPushed) leaveView();
  const view = $("view");
  const draw = VIEWS[name] ?? VIEWS.overview;
  for (const tab of $("tabs").querySelectorAll("a")) {
    const isHere = tab.getAttribute("href") === `#/${{ thread: "threads", run: "runs" }[name] ?? name}`;
    if (isHere) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  showTab();
  try {
    await draw(view, ...rest);
  } catch (error) {
    if (error.status === 401) return enter();
    if (view.isConnected) trouble(error.status === 404 ? `There is no such ${name}.` : error.message);
  }
  if (!view.isConnected) return undefined;
  forgetCharts();
  if (!isPushed) focusView();
  return undefined;
}

addEventListener("hashchange", () => { trouble(""); show(); });
followTheme(() => { if (!$("house").hidden) show({ isPushed: true }); });
enter();
