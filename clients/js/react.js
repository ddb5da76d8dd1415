// A conversation as a React hook: the transcript, the answer as it grows, and what was written while the server was away.

import { useCallback, useEffect, useMemo, useReducer } from "react";
import { newId, textAfter } from "./turnkeep.js";

const EMPTY = { messages: [], text: "", status: "loading", calls: [], error: undefined };

const said = (content) => content?.filter((part) => part.type === "text").map((part) => part.text).join("\n") ?? "";

/** What is shown after a transcript was read, or a frame or a message of one's own came. */
export function conversationAfter(shown, act) {
  switch (act.type) {
    case "transcript":
      return { ...shown, status: "ready", messages: merged(act.transcript, shown.messages) };
    case "posted":
      return { ...shown, error: undefined, messages: [...shown.messages, { id: act.id, role: "user", text: act.text, state: "sending" }] };
    case "refused":
      return { ...shown, messages: marked(shown.messages, [act.id], "refused"), error: act.error };
    case "away":
      return { ...shown, status: "away" };
    case "live":
      return shown.status === "away" ? { ...shown, status: "ready" } : shown;
    case "frame":
      return afterFrame(shown, act.frame);
  }
  return shown;
}

function afterFrame(shown, frame) {
  const ids = frame.message_ids ?? [frame.message_id];
  const text = textAfter(shown.text, frame);
  if (frame.type === "error") return { ...shown, text: "", calls: [], messages: marked(shown.messages, ids, "dead"), error: frame };
  if (frame.status === "accepted") {
    const known = shown.messages.some((message) => message.id === frame.message_id);
    const messages = known ? shown.messages : [...shown.messages, { id: frame.message_id, role: "user", text: frame.message }];
    return { ...shown, messages: marked(messages, [frame.message_id], "waiting") };
  }
  if (frame.status === "withdrawn") return { ...shown, messages: shown.messages.filter((message) => !ids.includes(message.id)) };
  if (frame.status === "started") return { ...shown, text, calls: [], messages: marked(shown.messages, ids, "answering") };
  if (frame.status === "processing") return { ...shown, calls: frame.calls ?? shown.calls };
  if (frame.type !== "response") return shown;
  if (!frame.final_message) return { ...shown, text };
  const answer = { id: frame.run_id ?? newId("said_"), role: "assistant", text: frame.message, author: frame.author };
  const rest = shown.messages.filter((message) => message.id !== answer.id);
  return { ...shown, text: "", calls: [], messages: [...marked(rest, ids, "answered"), answer] };
}

function merged({ items, open }, shown) {
  const spoken = items.filter((item) => item.kind === "user" || item.kind === "assistant").map((item, place) => ({
    id: item.message_id ?? `turn_${item.turn}_${place}`,
    role: item.kind,
    text: item.text ?? said(item.content),
    state: "answered",
  }));
  const waiting = open.map((message) => ({ id: message.message_id, role: "user", text: said(message.content), state: message.status }));
  const known = new Set([...spoken, ...waiting].map((message) => message.id));
  return [...spoken, ...waiting, ...shown.filter((message) => message.state === "sending" && !known.has(message.id))];
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

  return useMemo(() => ({ ...shown, send, stop, decide }), [shown, send, stop, decide]);
}
