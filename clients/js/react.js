// A conversation as a React hook: the transcript, the answer as it grows, and what was written while the server was away.

import { useCallback, useEffect, useMemo, useReducer } from "react";
import { newId, textAfter } from "./turnkeep.js";

const EMPTY = { messages: [], text: "", status: "loading", calls: [], error: undefined, early: [], read: undefined };

const said = (content) => content?.filter((part) => part.type === "text").map((part) => part.text).join("\n") ?? "";

/** What is shown after a transcript was read, or a frame or a message of one's own came. */
export function conversationAfter(shown, act) {
  switch (act.type) {
    case "subscribed":
      return { ...shown, early: [] };
    case "transcript":
      return afterTranscript(shown, act.transcript);
    case "posted":
      return { ...shown, error: undefined, messages: [...shown.messages, { id: act.id, role: "user", text: act.text, state: "sending" }] };
    case "refused":
      return { ...shown, messages: marked(shown.messages, [act.id], "refused"), error: act.error };
    case "away":
      return { ...shown, status: "away" };
    case "live":
      return shown.status === "away" ? { ...shown, status: "ready" } : shown;
    case "frame":
      return { ...afterFrame(shown, act.frame), early: shown.early?.concat(act.frame) };
  }
  return shown;
}

// A transcript and the frames about the same messages come in any order: a frame that is in the transcript already
// changes no message, and one that came before a transcript which does not know it yet is told again after it.
function afterTranscript(shown, transcript) {
  const messages = merged(transcript, shown.messages);
  const told = { ...shown, messages, read: transcript.thread, early: undefined };
  const { messages: whole } = (shown.early ?? []).reduce(afterFrame, told);
  return { ...told, status: "ready", messages: whole };
}

function afterFrame(shown, frame) {
  const isRead = shown.read?.epoch === frame.epoch && frame.offset <= shown.read?.top;
  const messages = isRead ? shown.messages : messagesAfter(shown.messages, frame);
  if (frame.type === "error") return { ...shown, messages, text: "", calls: [], error: frame };
  const text = frame.final_message ? "" : textAfter(shown.text, frame);
  const calls = frame.status === "started" || frame.final_message ? [] : (frame.calls ?? shown.calls);
  return { ...shown, messages, text, calls };
}

function messagesAfter(messages, frame) {
  const ids = frame.message_ids ?? [frame.message_id];
  if (frame.type === "error") return marked(messages, ids, "dead");
  if (frame.status === "withdrawn") return messages.filter((message) => !ids.includes(message.id));
  if (frame.status === "started") return marked(messages, ids, "answering");
  if (frame.status === "accepted") {
    const isKnown = messages.some((message) => message.id === frame.message_id);
    const all = isKnown ? messages : [...messages, { id: frame.message_id, role: "user", text: frame.message }];
    return marked(all, [frame.message_id], "waiting");
  }
  if (frame.type !== "response" || !frame.final_message) return messages;
  const answer = { id: frame.run_id ?? newId("said_"), role: "assistant", text: frame.message, at: frame.timestamp, author: frame.author };
  const all = marked(messages, ids, "answered");
  // what a person says beside runs answers no message; what he says in the place of one ends it, with its outcome
  if (holds(all, answer, frame.author && !frame.outcome ? [] : ids)) return all;
  // before what waits for the next turn, as in the transcript
  return [...all.filter((message) => !isPending(message)), answer, ...all.filter(isPending)];
}

const isPending = ({ role, state }) => role === "user" && !["answered", "dead", "refused"].includes(state);

/** Whether an answer is there: by its run, its moment, or as what a run said in the turn of the messages that it answers. */
function holds(messages, answer, ids) {
  const ofRun = messages.filter((message) => ids.includes(message.id) && message.turn);
  const turns = ofRun.map((message) => message.turn);
  const isSame = ({ role, text, at, turn }) => role === "assistant" && text === answer.text && (at === answer.at || turns.includes(turn));
  return messages.some((message) => message.id === answer.id || isSame(message));
}

function merged({ items, open, dead = [] }, shown) {
  const spoken = items.filter((item) => item.kind === "user" || item.kind === "assistant").map((item, place) => ({
    id: item.message_id ?? `turn_${item.turn}_${place}`,
    role: item.kind,
    text: item.text ?? said(item.content),
    state: "answered",
    at: item.at,
    turn: item.turn,
    author: item.author,
  }));
  const asked = (message, state) => ({ id: message.message_id, role: "user", text: said(message.content), state, at: message.at });
  const past = dead.map((letter) => asked(letter, "dead")).reduce(withLetter, spoken);
  const all = [...past, ...open.map((message) => asked(message, message.status))];
  const known = new Set(all.map((message) => message.id));
  return [...all, ...shown.filter((message) => message.state === "sending" && !known.has(message.id))];
}

/** A message that died stands where it died. */
function withLetter(messages, letter) {
  const place = messages.findIndex((message) => message.at > letter.at);
  return place < 0 ? [...messages, letter] : [...messages.slice(0, place), letter, ...messages.slice(place)];
}

function marked(messages, ids, state) {
  return messages.map((message) => (message.role === "user" && ids.includes(message.id) ? { ...message, state } : message));
}

/**
 * `messages` and `text`, the answer that is being written; `send` puts a message into the outbox, which outlives a reload;
 * `stop`, `decide`. `status`: loading, ready, away (it comes back by itself).
 */
export function useConversation(client, channel) {
  const [shown, show] = useReducer(conversationAfter, EMPTY);

  useEffect(() => {
    let isOver = false;
    const tell = (act) => !isOver && show(act);
    const read = async () => {
      tell({ type: "subscribed" });
      const transcript = await client.messages(channel).catch((error) => {
        if (error.code === "thread_not_found") return { items: [], open: [] };
        throw error;
      });
      tell({ type: "transcript", transcript });
    };
    const refused = (error) => tell({ type: "refused", error });
    for (const { channel: other, messageId, message } of client.outbox) {
      if (other === channel) tell({ type: "posted", id: messageId, text: typeof message === "string" ? message : said(message) });
    }
    // Subscribed first: what comes between the two is in both, and known by its id.
    const subscription = client.subscribe(
      channel,
      (frame) => (frame.status === "subscribed" ? read().catch(refused) : tell({ type: "frame", frame })),
      { everything: true, onState: (type) => tell({ type }), onError: refused },
    );
    return () => {
      isOver = true;
      subscription.close();
    };
  }, [client, channel]);

  const send = useCallback((text, wishes = {}) => {
    const { messageId, sent } = client.post(channel, text, wishes);
    show({ type: "posted", id: messageId, text });
    sent.catch((error) => show({ type: "refused", id: messageId, error }));
    return messageId;
  }, [client, channel]);
  const stop = useCallback(() => client.cancel(channel), [client, channel]);
  const decide = useCallback((call, verdict, output) => client.decide(channel, call, verdict, output), [client, channel]);

  return useMemo(() => {
    const { messages, text, status, calls, error } = shown;
    return { messages, text, status, calls, error, send, stop, decide };
  }, [shown, send, stop, decide]);
}
