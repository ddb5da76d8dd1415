// A client with what Node 20 has built in: messages over HTTP, answers as server-sent events or over the socket.

/** Send one message. The same `messageId` again changes nothing, so a send may always be repeated. */
export async function send(base, channel, text, messageId = crypto.randomUUID()) {
  const answer = await fetch(`${base}/api/channels/${encodeURIComponent(channel)}/messages`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ message: text, message_id: messageId }),
  });
  const receipt = await answer.json();
  if (!answer.ok) throw new Error(`${answer.status}: ${JSON.stringify(receipt)}`);
  return receipt;
}

/** Every frame of a channel, as an async iterator over server-sent events. Nothing is missed once `onOpen` was called. */
export async function* events(base, channel, { signal, onOpen = () => {} } = {}) {
  const answer = await fetch(`${base}/api/channels/${encodeURIComponent(channel)}/events`, { signal });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  let rest = "";
  let open = false;
  for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
    if (!open) open = (onOpen(), true); // the server says something as soon as we are subscribed
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
      if (data.length) yield JSON.parse(data.join("\n"));
    }
  }
}

/** Send, and wait for the answer that covers this message. `onText` gets the text so far as it grows. */
export async function ask(base, channel, text, { onText = () => {}, messageId = crypto.randomUUID() } = {}) {
  const ending = new AbortController();
  const fail = (error) => ending.abort(error);
  const onOpen = () => send(base, channel, text, messageId).catch(fail);
  try {
    for await (const frame of events(base, channel, { signal: ending.signal, onOpen })) {
      if (frame.status === "in_progress") onText(frame.message);
      if (!frame.message_ids?.includes(messageId)) continue;
      if (frame.type === "error") throw new Error(frame.message);
      if (frame.type === "response" && frame.final_message) return frame.message;
    }
  } finally {
    ending.abort();
  }
  throw new Error("the stream has ended");
}

/** The same over the socket (Node 22, or Node 20 with --experimental-websocket). */
export function askOnSocket(base, channel, text, { onText = () => {}, messageId = crypto.randomUUID() } = {}) {
  const socket = new WebSocket(`${base.replace(/^http/, "ws")}/ws`);
  return new Promise((resolve, reject) => {
    socket.onopen = () => socket.send(JSON.stringify({ action: "subscribe", channel }));
    socket.onerror = () => reject(new Error("the socket cannot be opened"));
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.status === "subscribed") {
        socket.send(JSON.stringify({ channel, message_id: messageId, message: text }));
      }
      if (frame.status === "in_progress") onText(frame.message);
      if (!frame.message_ids?.includes(messageId)) return;
      if (frame.type === "error") reject(new Error(frame.message));
      if (frame.type === "response" && frame.final_message) resolve(frame.message);
    };
  }).finally(() => socket.close());
}
