// How a conversation stands where that is more than its messages: paused, waiting for a cause, waiting for a decision.

import { button, element, reconcile } from "../element.js";
import { may } from "../server.js";
import { decisionWords, readable } from "./transcript.js";

const NOBODY_TO_ASK = new Set(["credentials_refused", "quota_exhausted", "model_gone", "endpoint_blocked", "model_unreachable"]);

export function drawStanding(place, conversation) {
  reconcile(place, cards(conversation));
}

function cards(conversation) {
  const { thread, waiting } = conversation.body ?? {};
  const all = [];
  if (conversation.problem) all.push(problemCard(conversation));
  if (!thread) return all;
  if (thread.state === "held") all.push(...thread.calls.map((call) => callCard(conversation, call, thread)));
  if (waiting) all.push(causeCard(conversation, waiting));
  if (thread.paused) all.push(pausedCard(conversation));
  return all;
}

function problemCard(conversation) {
  const make = () => element("div", { class: "card bad", role: "alert" }, element("p", {}, conversation.problem),
    element("div", { class: "buttons" }, button("All right", () => { conversation.problem = ""; conversation.changed(); })));
  return { key: "problem", look: conversation.problem, make };
}

function causeCard(conversation, cause) {
  const words = cause.phase === "retrying" ? "The last attempt failed; it is tried again by itself." : "It goes on by itself as soon as it can. Your messages are kept.";
  const make = () => element("div", { class: "card", id: "cause", role: "group", "aria-label": "Why it waits" },
    element("h2", {}, cause.phase === "retrying" ? `Trying again (attempt ${cause.attempt} failed)` : "Waiting"),
    element("p", {}, NOBODY_TO_ASK.has(cause.reason) ? "The model's server cannot be asked right now." : cause.message),
    element("p", { class: "soft" }, words),
    may("manage") && cause.remedy ? element("p", { class: "remedy" }, element("b", {}, "What to do: "), cause.remedy) : null,
    may("manage") ? element("details", {}, element("summary", {}, `Details (${cause.reason})`), element("pre", {}, cause.error_details || "none")) : null);
  return { key: "cause", look: `${cause.phase} ${cause.reason} ${cause.attempt} ${cause.error_details}`, make };
}

function pausedCard(conversation) {
  const make = () => {
    const area = element("textarea", { rows: 2, "aria-label": "Answer in the assistant's place", placeholder: "Answer as a person" });
    const send = async () => { if (area.value.trim() && (await conversation.answer(area.value.trim()))) area.value = ""; };
    return element("div", { class: "card", id: "paused", role: "group", "aria-label": "Paused" },
      element("h2", {}, "A person has taken over"),
      element("p", { class: "soft" }, may("manage") ? "The assistant answers nothing until it is given back. What is written waits, and your answer is the answer to it." : "The assistant answers nothing until it is given back. What is written waits."),
      may("manage") ? area : null,
      element("div", { class: "buttons" }, may("manage") ? button("Answer", send, { class: "primary" }) : null,
        may("send") ? button("Give it back to the assistant", () => conversation.resume(), { id: "resume" }) : null));
  };
  return { key: "paused", look: "paused", make };
}

function callCard(conversation, call, thread) {
  const isOpen = !call.decision;
  const make = () => {
    const until = thread.due ? new Date(thread.due * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "";
    const question = call.kind === "output" ? `waits for the output of ${call.name}` : `asks to use ${call.name}`;
    return element("div", { class: "card action", role: "group", "aria-label": `Decision about ${call.name}` },
      element("h2", {}, `The assistant ${question}`), argumentsOf(call),
      isOpen && until ? element("p", { class: "soft" }, `Until ${until}; after that it goes on without.`) : null,
      isOpen ? decisionButtons(conversation, call) : element("p", {}, decisionWords({ ...call, at: call.decided_at })));
  };
  return { key: `call ${call.call_id}`, look: `${call.decision} ${thread.due}`, make };
}

function decisionButtons(conversation, call) {
  if (!may("approve")) return element("p", { class: "soft" }, "Somebody with the scope approve has to decide.");
  const decide = (decision) => (event) => {
    event.target.closest(".buttons").querySelectorAll("button").forEach((one) => (one.disabled = true));
    conversation.decide(call, decision);
  };
  return element("div", { class: "buttons" },
    call.kind === "approval" ? button("Approve", decide("approved"), { class: "primary approve" }) : null,
    button("Deny", decide("denied"), { class: "deny" }));
}

function argumentsOf(call) {
  try {
    const value = JSON.parse(call.arguments);
    const pairs = Object.entries(value);
    if (pairs.length && pairs.length <= 12) {
      return element("dl", {}, ...pairs.flatMap(([name, one]) => [element("dt", {}, name), element("dd", {}, typeof one === "string" ? one : JSON.stringify(one))]));
    }
  } catch {
    // shown as the model wrote it
  }
  return element("pre", {}, readable(call.arguments));
}
