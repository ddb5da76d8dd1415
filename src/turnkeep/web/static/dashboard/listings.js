// Lists that are looked through: threads, runs, dead letters, approvals, what goes outside.

import { $, button, element } from "../element.js";
import { ask } from "../server.js";
import { ago, count, dollars, facts, moment, runLink, span, state, table, textOf, threadLink } from "./format.js";

const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();

function filters(values, choices, onChange) {
  const search = element("input", { type: "search", placeholder: "Channel, thread id or title", "aria-label": "Search", value: values.q ?? "" });
  const select = element("select", { "aria-label": "State" }, ...choices.map(([value, words]) => element("option", { value, selected: value === (values.state ?? "") }, words)));
  let timer = 0;
  search.oninput = () => { clearTimeout(timer); timer = setTimeout(() => onChange({ q: search.value, state: select.value }), 250); };
  select.onchange = () => onChange({ q: search.value, state: select.value });
  return element("div", { class: "filters", role: "search" }, search, select);
}

// A list under filters that stay while what they find is replaced.
function listing(view, title, choices, load) {
  const place = element("div");
  let asked = 0;
  const show = async (values) => {
    const mine = ++asked;
    const found = await load(values);
    if (mine === asked) place.replaceChildren(...found); // an answer that was overtaken is not shown
  };
  view.replaceChildren(element("h2", {}, title), filters({}, choices, show), place);
  return show({});
}

// The button behind a list that is not at its end: what it fetches takes its place.
function older(next, fetchPage, draw) {
  if (!next) return "";
  const place = button("Older ones", async () => {
    place.disabled = true;
    const page = await fetchPage(next);
    place.replaceWith(draw(page), older(page.next, fetchPage, draw));
  }, { class: "more" });
  return place;
}

const PLACES = [["", "All states"], ["said", "In what was said"], ["leased", "Being answered"], ["waiting", "Waiting"], ["retry", "Trying again"], ["held", "Wanting a decision"], ["paused", "Paused"], ["idle", "Idle"]];

export function drawThreads(view) {
  const heads = [["Channel", "name"], ["State"], ["Open", "number"], ["Turns", "number"], ["Tokens", "number"], ["Cost", "number"], ["Active"]];
  const row = (one) => [named(one), state(one.paused ? "paused" : one.state), count(one.open_messages), count(one.turns),
    count((one.usage.input_tokens ?? 0) + (one.usage.output_tokens ?? 0)), dollars(one.usage.cost_nano), ago(one.active_at)];
  return listing(view, "Threads", PLACES, async (values) => {
    if (values.state === "said") return passages(values.q);
    const page = await ask("GET", `threads?${query({ ...values, limit: 50 })}`);
    const shown = element("div", { id: "threads" }, table(heads, page.threads.map(row), values.q || values.state ? "None fits." : "No thread yet: somebody has to say something."));
    return [shown, older(page.next, (after) => ask("GET", `threads?${query({ ...values, limit: 50, after })}`), (rest) => table(heads, rest.threads.map(row), ""))];
  });
}

async function passages(text) {
  if ((text ?? "").trim().length < 2) return [element("p", { class: "none" }, "Write what to look for, two letters at least.")];
  const { passages: found } = await ask("GET", `search?${query({ q: text, limit: 100 })}`);
  const rows = found.map((one) => [threadLink(one.channel), one.kind === "user" ? "User" : "Assistant", one.excerpt, ago(one.at)]);
  return [element("div", { id: "passages" }, table([["Channel", "name"], ["Who"], ["Said", "name"], ["When"]], rows, "Nobody said that lately."))];
}

const named = (one) => element("span", {}, threadLink(one.channel), one.metadata.title ? element("small", {}, one.metadata.title) : null);

const STATUSES = [["", "All runs"], ["completed", "Completed"], ["failed", "Failed"], ["in_progress", "In progress"], ["queued", "Trying again"], ["requires_action", "Wanting a decision"], ["cancelled,incomplete", "Stopped or cut"]];

const took = (run) => (run.finished_at ? span(run.finished_at - run.started_at) : "");
const tokensOf = (run) => count((run.usage.input_tokens ?? 0) + (run.usage.output_tokens ?? 0));

function runTable(runs, empty) {
  const heads = [["Run"], ["Channel", "name"], ["Status"], ["Messages", "number"], ["Attempt", "number"], ["Model"], ["Took", "number"], ["Tokens", "number"], ["Cost", "number"], ["Error"], ["Began"]];
  const rows = runs.map((run) => [
    runLink(run.channel, run.run_id, run.run_id.slice(0, 14)), threadLink(run.channel), state(run.status), count(run.message_ids.length), run.attempt > 1 ? `${run.attempt}` : "",
    run.model ?? "", took(run), tokensOf(run), dollars(run.usage.cost_nano), run.error ? run.error.code : "", ago(run.started_at),
  ]);
  return table(heads, rows, empty);
}

// Those of one thread, beside its transcript: narrow.
export function runsOf(channel, runs) {
  const rows = runs.map((run) => [runLink(channel, run.run_id, run.run_id.slice(4, 12)), state(run.error ? run.error.code : run.status), took(run), tokensOf(run), ago(run.started_at)]);
  return table([["Run"], ["Status"], ["Took", "number"], ["Tokens", "number"], ["Began"]], rows, "None yet.");
}

export function drawRuns(view) {
  return listing(view, "Runs", STATUSES, async ({ q, state: status }) => {
    const page = await ask("GET", `runs?${query({ q, status, limit: 50 })}`);
    return [runTable(page.runs, q || status ? "None fits." : "Nothing ran yet."),
      older(page.next, (after) => ask("GET", `runs?${query({ q, status, limit: 50, after })}`), (rest) => runTable(rest.runs, ""))];
  });
}

// ------------------------------------------------------------- decisions

export async function drawApprovals(view, act) {
  const { threads } = await ask("GET", "threads?state=held&limit=200");
  const cards = threads.flatMap((thread) => thread.calls.filter((call) => !call.decision).map((call) => {
    const decide = (decision) => () => act("POST", `channels/${encodeURIComponent(thread.channel)}/actions/${encodeURIComponent(call.call_id)}`, { digest: call.digest, decision });
    return element("section", { class: "card hold approval" },
      element("h3", {}, `${call.name} `), facts([["Channel", threadLink(thread.channel)], ["Since", ago(thread.active_at)], ["Until", thread.due ? moment(thread.due) : ""]]),
      element("pre", {}, readable(call.arguments)),
      element("div", { class: "buttons" }, call.kind === "approval" ? button("Approve", decide("approved"), { class: "primary approve" }) : null, button("Deny", decide("denied"), { class: "deny" })));
  }));
  view.replaceChildren(element("h2", {}, "What waits for a decision"), ...(cards.length ? cards : [element("p", { class: "none" }, "Nothing waits for a decision.")]));
}

export function readable(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

// ------------------------------------------------------------- dead letters

export async function drawDead(view, act) {
  const { dead } = await ask("GET", "dead?limit=500");
  const causes = Map.groupBy ? Map.groupBy(dead, (letter) => letter.error.code) : group(dead);
  const all = async (letters, each) => { for (const letter of letters) await each(letter); };
  const groups = [...causes].sort(([, one], [, other]) => other.length - one.length).map(([code, letters]) =>
    element("section", { class: "card bad" },
      element("h3", {}, `${code}: ${count(letters.length)} ${letters.length === 1 ? "message" : "messages"}`),
      letters[0].remedy ? element("p", {}, letters[0].remedy) : null,
      element("div", { class: "buttons" },
        button("Send all again", () => confirm(`Send ${letters.length} messages again?`) && all(letters, (letter) => act("POST", `${path(letter)}/redrive`, undefined, false)).then(() => drawDead(view, act)), { class: "redrive-all" }),
        button("Forget all", () => confirm(`Forget ${letters.length} messages for good?`) && all(letters, (letter) => act("DELETE", path(letter), undefined, false)).then(() => drawDead(view, act)), { class: "danger" })),
      element("ul", { id: causes.size === 1 ? "dead" : null, class: "letters" }, ...letters.map((letter) => letterItem(letter, act)))));
  const list = causes.size > 1 ? [element("div", { id: "dead-groups" }, ...groups)] : groups;
  view.replaceChildren(element("h2", {}, "What could not be answered"), ...(dead.length ? list : [element("ul", { id: "dead" }), element("p", { class: "none" }, "Everything was answered.")]));
}

const path = (letter) => `dead/${encodeURIComponent(letter.dead_id)}`;

function letterItem(letter, act) {
  return element("li", {},
    element("div", { class: "head" }, threadLink(letter.channel), ago(letter.at), element("span", { class: "soft" }, `attempts ${letter.attempts}, deaths ${letter.deaths}`)),
    element("p", {}, letter.error.details || letter.error.message), element("pre", {}, textOf(letter.content)),
    element("div", { class: "buttons" },
      button("Send again", () => act("POST", `${path(letter)}/redrive`), { class: "redrive" }),
      button("Forget", () => confirm("Forget this message?") && act("DELETE", path(letter)), { class: "discard" })));
}

function group(letters) {
  const groups = new Map();
  for (const letter of letters) groups.set(letter.error.code, [...(groups.get(letter.error.code) ?? []), letter]);
  return groups;
}

// ------------------------------------------------------------- what goes outside, and who answers

export async function drawOutside(view, act) {
  const [{ sinks }, { assistants, default: usual }, { keys }] = await Promise.all([ask("GET", "sinks"), ask("GET", "assistants"), ask("GET", "keys")]);
  const revoke = (key) => () => confirm(`Refuse the key ${key.id} from now on?`) && act("DELETE", `keys/${encodeURIComponent(key.id)}`);
  const keyState = (key) => (key.revoked_at ? element("span", { class: "state bad" }, "revoked") : key.expires_at && key.expires_at * 1000 < Date.now() ? element("span", { class: "state" }, "expired") : element("span", { class: "state good" }, "valid"));
  const keyRows = keys.map((key) => [key.id, key.name ?? "", key.scopes.join(", "), (key.channels ?? ["all"]).join(", "), ago(key.created_at), key.expires_at ? moment(key.expires_at) : "never", keyState(key), key.revoked_at ? "" : button("Revoke", revoke(key), { class: "danger revoke" })]);
  const sinkRows = sinks.map((one) => [one.name, count(one.waiting), one.oldest_at ? ago(one.oldest_at) : "", count(one.parked), count(one.given_up), count(one.lost)]);
  const rows = assistants.map((one) => [one.name || one.id, one.model, (one.fallbacks ?? []).join(", "), (one.tools ?? ["all"]).map((tool) => tool.type ?? tool).join(", "), `${one.version}`, one.id === usual ? "default" : ""]);
  view.replaceChildren(
    element("h2", {}, "Receivers outside"), table([["Sink", "name"], ["Waiting", "number"], ["Since"], ["Parked", "number"], ["Given up", "number"], ["Lost", "number"]], sinkRows, "No relay, webhook or reply exchange is set."),
    element("h2", {}, "Assistants"), table([["Name", "name"], ["Model"], ["Fallbacks"], ["Tools", "name"], ["Version", "number"], ["Use"]], rows, "None yet."),
    element("h2", {}, "API keys"), table([["Key"], ["For", "name"], ["Scopes"], ["Channels", "name"], ["Made"], ["Ends"], ["State"], ["Act"]], keyRows, "No key was made: `turnkeep keys create` makes one."));
}

export const focusView = () => $("view").focus({ preventScroll: true });
