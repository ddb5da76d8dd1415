// A client for turnkeep: one module, no dependencies, for browsers and Node 18 or newer.
//
// Two rules make it safe on a network that fails. Everything that changes something carries a name (a message its
// id, other calls an idempotency key), so it may be repeated until it is answered. And a stream is read from a
// position, so a lost connection goes on where it ended: no frame is missed, none comes twice.

const AGAIN = new Set([429, 502, 503, 504]); // what a server, or a proxy before it, says while it is away
const REPEAT_STATUS = 200; // the status of a receipt whose message was there before; that of a new one is 202
const SILENCE = 45_000; // ms: a stream says at least every 15 s that it is still there
const OUTBOX = "turnkeep:outbox:";

/** What the server refuses: `code` is stable (docs/reference/errors.md), `status` that of HTTP. */
export class TurnkeepError extends Error {
  constructor(code, message, status = 0) {
    super(message);
    this.name = "TurnkeepError";
    this.code = code;
    this.status = status;
  }
}

/** What to give as `after` to go on behind a frame. */
export const positionOf = (frame) => `${frame.epoch}:${frame.offset}`;

export const newId = (prefix = "msg_") => prefix + (crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join(""));

export class TurnkeepClient {
  #url;
  #key;
  #storage;
  #posts = 0;
  #sending = new Map(); // channel → the promise of its last send

  /**
   * @param url    where the server is; "" in a page that it serves, or that is mounted beside it
   * @param key    an API key or token, or a function that gives one (fresh, if it expires)
   * @param storage where the outbox is kept: `localStorage`, or anything like it; null: in memory alone
   */
  constructor({ url = "", key, storage = defaultStorage() } = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.#key = key;
    this.#storage = storage ?? memoryStorage();
  }

  /**
   * Send one message: its receipt, once it is durable there. Repeated until the server answers, or `signal` ends it.
   * The same `messageId` again changes nothing, and `repeated` says so.
   */
  async send(channel, message, { messageId = newId(), signal, ...wishes } = {}) {
    const said = typeof message === "string" ? { message } : { content: message };
    const body = { ...said, message_id: messageId, ...wishes };
    const { status, content } = await this.#reply("POST", `${pathOf(channel)}/messages`, body, { signal });
    return { ...content, repeated: status === REPEAT_STATUS };
  }

  /**
   * Put a message into the outbox, which outlives a reload of the page: it is sent as soon as the server is there, in
   * order for each channel. Returns its id at once; `sent` resolves with the receipt, or rejects if it is refused.
   */
  post(channel, message, { messageId = newId(), ...wishes } = {}) {
    const entry = { channel, message, messageId, wishes };
    // One key for each: two tabs that write one list would lose each other's messages. Sorted, they are in order.
    const order = `${String(Date.now()).padStart(15, "0")}.${String(this.#posts++).padStart(9, "0")}`;
    const name = `${OUTBOX}${this.#url}:${order}:${channel}:${messageId}`;
    this.#storage.setItem(name, JSON.stringify(entry));
    return { messageId, sent: this.#deliver(name, entry) };
  }

  /** What is still in the outbox, oldest first, of all pages that share the storage. */
  get outbox() {
    return this.#outboxNames().map((name) => JSON.parse(this.#storage.getItem(name)));
  }

  /** Send what an earlier page has left in the outbox: call it once, when the page begins. */
  resumeOutbox() {
    const left = this.#outboxNames().map((name) => this.#deliver(name, JSON.parse(this.#storage.getItem(name))));
    return Promise.allSettled(left);
  }

  #outboxNames() {
    const all = Array.from({ length: this.#storage.length }, (_, place) => this.#storage.key(place));
    return all.filter((name) => name?.startsWith(`${OUTBOX}${this.#url}:`)).sort();
  }

  #deliver(name, { channel, message, messageId, wishes }) {
    const send = () =>
      this.send(channel, message, { messageId, ...wishes }).finally(() => this.#storage.removeItem(name));
    // Behind the one before it on this channel, whatever became of that.
    const sending = (this.#sending.get(channel) ?? Promise.resolve()).then(send, send);
    this.#sending.set(channel, sending);
    sending.catch(() => {}); // told to whoever waits for `sent`; nobody has to
    return sending;
  }

  /** Send, and wait for the answer that covers this message. `onText` gets the text so far as it grows. */
  async ask(channel, message, { onText = () => {}, messageId = newId(), signal, ...wishes } = {}) {
    let isSent = false;
    for await (const frame of this.stream(channel, { signal, everything: true })) {
      if (!isSent) {
        isSent = true; // subscribed first: an answer may come faster than a subscription
        const receipt = await this.send(channel, message, { messageId, flush: true, signal, ...wishes });
        const earlier = receipt.repeated ? await this.#earlierAnswer(channel, receipt.message_id) : undefined;
        if (earlier !== undefined) return earlier;
      }
      if (frame.status === "in_progress") onText(frame.message);
      if (!(frame.message_ids ?? [frame.message_id]).includes(messageId)) continue;
      if (frame.type === "error") throw new TurnkeepError(frame.code, frame.message);
      if (frame.status === "withdrawn") throw new TurnkeepError("not_found", "the message was withdrawn");
      if (frame.type === "response" && frame.final_message) return frame.message;
    }
    throw new TurnkeepError("cancelled", "nobody waits for the answer any more");
  }

  async #earlierAnswer(channel, messageId) {
    const path = pathOf(channel);
    const record = await this.call("GET", `${path}/messages/${part(messageId)}`);
    if (["waiting", "delayed", "running"].includes(record.status)) return undefined;
    const { items } = await this.call("GET", `${path}/messages?limit=2000`);
    const turn = items.find((item) => item.message_id === messageId)?.turn;
    const texts = items.filter((item) => item.turn === turn && item.kind === "assistant").map((item) => item.text);
    if (turn === undefined || !texts.length) throw new TurnkeepError("not_found", `this message was ${record.status}`);
    return texts.at(-1);
  }

  /**
   * The frames of a channel, without end and without holes: from now, or after a position. `deltas`: each token by
   * itself; `everything`: the life of messages, tools and steps too. `onState` is told "live" and "away".
   */
  async *stream(channel, { after = "", deltas = false, everything = false, signal, onState = () => {} } = {}) {
    const options = new URLSearchParams({ ...(deltas && { text: "delta" }), ...(everything && { events: "all" }) });
    const path = `${pathOf(channel)}/events?${options}`;
    let position = after;
    let isFirst = true;
    let failures = 0;
    while (!signal?.aborted) {
      let unfinished = []; // frames of one event come together, so that none is told twice
      try {
        for await (const frame of this.#events(path, position, signal, onState)) {
          failures = 0;
          if (frame.error && !frame.status) throw new TurnkeepError(frame.error.code, frame.error.message, 401);
          if (frame.status === "subscribed" && !isFirst && frame.recovered !== false) continue;
          isFirst = false;
          if (frame.more && "offset" in frame) {
            unfinished.push(frame);
            continue;
          }
          if ("offset" in frame) position = positionOf(frame);
          yield* unfinished;
          unfinished = [];
          yield frame;
        }
      } catch (error) {
        if (signal?.aborted) return;
        if (error instanceof TurnkeepError && !AGAIN.has(error.status)) throw error;
      }
      onState("away");
      await pause(++failures, 0, signal);
    }
  }

  /** `stream` with a function: `{ close }` ends it. `onError` gets what the server refuses it with. */
  subscribe(channel, onFrame, { onError = (error) => console.error(error), ...options } = {}) {
    const ending = new AbortController();
    (async () => {
      for await (const frame of this.stream(channel, { ...options, signal: ending.signal })) {
        if (!ending.signal.aborted) onFrame(frame);
      }
    })().catch(onError);
    return { close: () => ending.abort() };
  }

  async *#events(path, position, signal, onState) {
    const silence = new AbortController();
    const stop = () => silence.abort();
    signal?.addEventListener("abort", stop);
    let timer = setTimeout(stop, SILENCE);
    try {
      const headers = { ...(await this.#headers()), ...(position && { "last-event-id": position }) };
      const answer = await fetch(this.#url + path, { headers, signal: silence.signal });
      if (!answer.ok) throw await refusal(answer);
      onState("live");
      let rest = "";
      const decoder = new TextDecoder();
      const reader = answer.body.getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(stop, SILENCE);
        const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
          if (data.length) yield JSON.parse(data.join("\n"));
        }
      }
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
      stop();
    }
  }

  /** The transcript (`items`) and what waits (`open`). */
  messages(channel, { limit = 200 } = {}) {
    return this.call("GET", `${pathOf(channel)}/messages?limit=${limit}`);
  }

  /** Stop the run in progress; what was shown stays. */
  cancel(channel, options) {
    return this.call("POST", `${pathOf(channel)}/cancel`, {}, options);
  }

  /** Answer what waits now. */
  flush(channel, options) {
    return this.call("POST", `${pathOf(channel)}/flush`, undefined, options);
  }

  /** Change a message until a run has begun to answer it. */
  edit(channel, messageId, message, options) {
    return this.call("PATCH", `${pathOf(channel)}/messages/${part(messageId)}`, { message }, options);
  }

  /** Take a message back until a run has begun to answer it. */
  withdraw(channel, messageId, options) {
    return this.call("DELETE", `${pathOf(channel)}/messages/${part(messageId)}`, undefined, options);
  }

  /** Answer the last turn again, in place of the old answer. */
  regenerate(channel, options) {
    return this.call("POST", `${pathOf(channel)}/regenerate`, undefined, options);
  }

  /** Decide about a call that waits (one of a frame's `calls`): "approved", "denied", or "output" with the output. */
  decide(channel, call, decision, output = "", options = {}) {
    const body = { decision, output, digest: call.digest };
    return this.call("POST", `${pathOf(channel)}/actions/${part(call.call_id)}`, body, options);
  }

  /**
   * Any route of the HTTP API. Repeated until it is answered, under one idempotency key, so it happens once. Where the
   * server knows no such key (a new thread, a new assistant) a lost answer rejects with "outcome_unknown".
   */
  async call(method, path, body, options) {
    return (await this.#reply(method, path, body, options)).content;
  }

  async #reply(method, path, body, { signal, idempotencyKey = newId("") } = {}) {
    const named = method === "GET" ? {} : { "idempotency-key": idempotencyKey };
    for (let failures = 1; ; failures++) {
      let wish = 0;
      try {
        const headers = { ...(await this.#headers()), ...named, "content-type": "application/json" };
        const text = body === undefined ? undefined : JSON.stringify(body);
        const answer = await fetch(this.#url + path, { method, headers, body: text, signal });
        if (answer.ok) return { status: answer.status, content: answer.status === 204 ? undefined : await answer.json() };
        wish = 1000 * (Number(answer.headers.get("retry-after")) || 0);
        const error = await refusal(answer);
        if (!AGAIN.has(answer.status)) throw error;
      } catch (error) {
        if (error instanceof TurnkeepError || signal?.aborted) throw error;
        if (!isRepeatable(method, path)) throw new TurnkeepError("outcome_unknown", `the answer was lost: ${error.message}`);
      }
      await pause(failures, wish, signal);
    }
  }

  async #headers() {
    const key = typeof this.#key === "function" ? await this.#key() : this.#key;
    return key ? { authorization: `Bearer ${key}` } : {};
  }
}

/** The text of the answer so far, folded from the frames of a stream, in either form. */
export function textAfter(text, frame) {
  if (frame.status === "started" || frame.status === "subscribed") return "";
  if (frame.status === "completed" && frame.type === "response") return frame.message;
  if (frame.status !== "in_progress") return text;
  return frame.message || (frame.snapshot ? frame.delta : text + frame.delta);
}

// The server knows names of calls on channels and dead letters; anything else that is made twice is there twice.
const isRepeatable = (method, path) => method !== "POST" || /^\/api\/(channels|dead)\//.test(path);

// Dots too: proxies take a channel named ".." for a step up.
const part = (name) => encodeURIComponent(name).replaceAll(".", "%2E");
const pathOf = (channel) => `/api/channels/${part(channel)}`;

async function refusal(answer) {
  const { error } = await answer.json().catch(() => ({}));
  const message = error?.message ?? `the server answers ${answer.status}`;
  return new TurnkeepError(error?.code ?? "internal_error", message, answer.status);
}

/** Full jitter up to 5 s; at once when the browser says that it is online again. */
function pause(failures, least, signal) {
  const wait = Math.max(least, Math.random() * Math.min(5000, 200 * 2 ** Math.min(failures - 1, 10)));
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      for (const [where, what] of events) where?.removeEventListener?.(what, end);
      resolve();
    };
    const timer = setTimeout(end, wait);
    const events = [[signal, "abort"], ...(least ? [] : [[globalThis, "online"]])];
    for (const [where, what] of events) where?.addEventListener?.(what, end);
  });
}

function defaultStorage() {
  try {
    return globalThis.localStorage ?? null;
  } catch {
    return null; // a page that may not store anything
  }
}

function memoryStorage() {
  const kept = new Map();
  return {
    get length() {
      return kept.size;
    },
    key: (place) => [...kept.keys()][place],
    getItem: (name) => kept.get(name) ?? null,
    setItem: (name, value) => void kept.set(name, value),
    removeItem: (name) => void kept.delete(name),
  };
}
