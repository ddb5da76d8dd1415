// One conversation as the page knows it: what the server has said of it, what is being answered right now, and what
// was written here and is not there yet. All that is settled comes from the server by `load`, so that a reload,
// a second tab and a lost connection all show the same.

import { ask, may, Refused } from "../server.js";

const PAGE = 200;
const LARGE = 256_000;
const TOGETHER = 40; // milliseconds: of a burst of events one look
const AGAIN = 1000;
const MAY_PASS = (status) => status === 429 || status >= 500;
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class Conversation {
  constructor(channel, changed) {
    this.channel = channel;
    this.path = `channels/${encodeURIComponent(channel)}`;
    this.changed = changed;
    this.body = null; // what GET …/messages has said last
    this.older = []; // items of pages before it
    this.hasOlder = false;
    this.runs = new Map(); // message id -> the run that has answered it
    this.live = null; // the run in progress
    this.ending = null; // the one before it, which has ended and is not loaded yet
    this.window = null; // {from, until, count}, in the milliseconds of performance.now()
    this.skew = 0; // what the server's clock is ahead of ours, in seconds
    this.outbox = new Outbox(channel);
    this.isLoaded = false;
  }

  // ------------------------------------------------------------- reading

  // What comes within a moment is one look; one that fails is made again. It never raises.
  load() {
    if (this.loading) {
      this.isStale = true;
      return this.loading;
    }
    this.loading = this.#loadUntilFresh().finally(() => (this.loading = null));
    return this.loading;
  }

  async #loadUntilFresh() {
    do {
      await pause(TOGETHER);
      this.isStale = false;
      try {
        await this.#loadOnce();
      } catch {
        await pause(AGAIN); // the server or its store is away for a moment
        this.isStale = !this.isLeft;
      }
    } while (this.isStale);
  }

  async #loadOnce() {
    const accepted = this.outbox.accepted();
    const { ending } = this; // of before this look: the server knows its answer
    try {
      const body = await ask("GET", `${this.path}/messages?limit=${PAGE}`);
      const hasNewTurn = body.items.at(-1)?.turn !== this.body?.items.at(-1)?.turn;
      if (hasNewTurn) await this.#loadRuns();
      this.body = body;
      if (!this.older.length) this.hasOlder = !body.complete;
    } catch (error) {
      if (!(error instanceof Refused) || MAY_PASS(error.status)) throw error;
      if (error.status === 404) this.body = null;
    }
    accepted.forEach((id) => this.outbox.remove(id));
    if (this.ending === ending) this.ending = null;
    this.isLoaded = true;
    this.#forgetWhatHasEnded();
    this.#seeWindow(this.outbox.accepted().length); // those that came since the server was asked
    this.changed();
  }

  async #loadRuns() {
    const { runs } = await ask("GET", `${this.path}/runs`);
    this.runs = new Map(runs.flatMap((run) => run.message_ids.map((id) => [id, run])));
  }

  async loadOlder() {
    const first = (this.older[0] ?? this.body?.items[0])?.turn;
    const page = await ask("GET", `${this.path}/messages?limit=${PAGE}&before=${first}`);
    this.older = [...page.items, ...this.older];
    this.hasOlder = !page.complete && page.items.length > 0;
    this.changed();
  }

  #forgetWhatHasEnded() {
    const thread = this.body?.thread;
    if (!this.live) return;
    const isOver = this.live.isDone || !thread || (thread.top >= this.live.offset && thread.run_id !== this.live.runId);
    if (isOver) this.live = null;
  }

  #seeWindow(newer) {
    const { thread, open = [] } = this.body ?? {};
    const waiting = open.filter((message) => message.status === "waiting");
    if (!thread || thread.paused || thread.state !== "waiting" || thread.due === null || !waiting.length) {
      this.window = null;
      return;
    }
    const here = (moment) => performance.now() + (moment - this.skew) * 1000 - Date.now();
    const from = Math.min(...waiting.map((message) => message.arrival ?? thread.due));
    this.window = { from: here(from), until: here(thread.due), count: waiting.length + newer };
  }

  // ------------------------------------------------------------- frames

  apply(frame) {
    if (frame.channel !== undefined && frame.channel !== this.channel) return;
    if (frame.type === "error") return this.#onError(frame);
    if (frame.type === "response") return this.#onResponse(frame);
    const act = {
      accepted: () => (frame.receipt ? this.#onReceipt(frame.receipt) : this.load()),
      started: () => this.#begin(frame),
      processing: () => this.#onProgress(frame),
      responding: () => this.#live(frame, (live) => { live.doing = ""; live.cause = null; }),
      reasoning: () => this.#live(frame, (live) => { live.thought += frame.message; live.doing = "thinking…"; }),
      tool_call: () => this.#live(frame, (live) => live.steps.push({ ...frame.detail })),
      tool_result: () => this.#live(frame, (live) => this.#onResult(live, frame.detail)),
      source: () => this.#live(frame, (live) => live.sources.push(frame.detail)),
      file: () => this.#live(frame, (live) => live.files.push(frame.detail)),
      typing: () => this.#onTyping(frame.due_in),
    }[frame.status];
    if (act) act();
    else if (["edited", "withdrawn", "decided", "paused", "resumed", "steered", "completed"].includes(frame.status)) this.load();
  }

  #onReceipt(receipt) {
    this.outbox.accept(receipt.message_id);
    if (receipt.due_in !== null && receipt.status === "accepted") {
      const now = performance.now();
      this.window = { from: this.window?.from ?? now, until: now + receipt.due_in * 1000, count: (this.window?.count ?? 0) + 1 };
    }
    this.changed();
    this.load();
  }

  #onTyping(dueIn) {
    if (this.window && dueIn !== null) this.window.until = performance.now() + dueIn * 1000;
  }

  #begin(frame) {
    this.window = null;
    if (this.live?.runId === frame.run_id && this.live.attempt === frame.attempt) return;
    if (this.live?.isDone) this.ending = this.live;
    this.live = {
      runId: frame.run_id, attempt: frame.attempt, ids: frame.message_ids ?? [], offset: frame.offset ?? 0,
      text: "", thought: "", steps: [], sources: [], files: [], doing: "thinking…", cause: null, isDone: false,
    };
    this.changed();
    this.load(); // which messages are being answered, in every tab
  }

  #live(frame, change) {
    if (!this.live && frame.run_id) this.#begin(frame);
    if (!this.live || this.live.isDone) return;
    change(this.live);
    this.changed();
  }

  #onProgress(frame) {
    if (frame.calls) {
      if (this.live) Object.assign(this.live, { doing: "", isHeld: true });
      return this.load();
    }
    if (frame.phase === "waiting" || frame.phase === "retrying") {
      this.live = null;
      return this.load();
    }
    return this.#live(frame, (live) => {
      live.cause = frame.reason ? frame : null;
      if (frame.tools) live.doing = `using ${frame.tools.join(", ")}…`;
    });
  }

  #onResult(live, detail) {
    const call = live.steps.find((step) => step.call_id === detail.call_id);
    if (call) Object.assign(call, { status: detail.status ?? "ok", output: detail.output });
    live.doing = "";
  }

  #onResponse(frame) {
    if (frame.author && !frame.outcome) return this.load(); // beside runs; in the place of one it ends it
    if (frame.status === "completed") {
      if (this.live) Object.assign(this.live, { text: frame.message, author: frame.author, doing: "", isDone: true });
      this.window = null;
      this.lastAnswer = frame.message;
      return this.load();
    }
    return this.#live(frame, (live) => {
      live.text = frame.snapshot ? frame.message : live.text + (frame.delta ?? "");
      live.doing = "";
      live.cause = null;
    });
  }

  #onError(frame) {
    if (frame.message_id && !frame.run_id) {
      this.outbox.refuse(frame.message_id, frame.error_details || frame.message, frame.retryable);
      this.changed();
    } else if (frame.code === "message_too_large") {
      this.outbox.refuseLargest(frame.error_details || frame.message);
      this.changed();
    } else if (frame.run_id) {
      this.live = null;
      this.load();
    }
  }

  // ------------------------------------------------------------- acting

  withdraw = (id) => this.#act("DELETE", `messages/${encodeURIComponent(id)}`);
  edit = (id, text) => this.#act("PATCH", `messages/${encodeURIComponent(id)}`, { message: text });
  tryAgain = (deadId) => this.#act("POST", `dead/${encodeURIComponent(deadId)}/redrive`);
  forgetDead = (deadId) => this.#act("DELETE", `dead/${encodeURIComponent(deadId)}`);
  regenerate = () => this.#act("POST", "regenerate");
  resume = () => this.#act("POST", "resume");
  pause = () => this.#act("POST", "pause");
  answer = (text) => this.#act("POST", "answers", { message: text });
  decide = (call, decision) =>
    this.#act("POST", `actions/${encodeURIComponent(call.call_id)}`, { digest: call.digest, decision });
  change = (changes) => ask("PATCH", this.path, changes);
  forget = () => ask("DELETE", `${this.path}?force=true`);

  // Whether it was done; why not stands on the page.
  async #act(method, path, body) {
    this.problem = "";
    try {
      await ask(method, `${this.path}/${path}`, body);
    } catch (error) {
      this.problem = error instanceof Refused ? error.message : "The server does not answer. Nothing was changed.";
    }
    await this.load();
    return !this.problem;
  }

  get isBusy() {
    return Boolean(this.live && !this.live.isDone) || ["leased", "retry", "held"].includes(this.body?.thread.state);
  }

  get mayManage() {
    return may("manage");
  }
}

// What was written here and is not known to be there yet. It outlives the page: each message keeps its id, under
// which it may be sent again as often as need be.
class Outbox {
  constructor(channel) {
    this.key = `turnkeep.outbox.${channel}`;
    this.messages = new Map();
    try {
      for (const message of JSON.parse(localStorage.getItem(this.key) ?? "[]")) this.messages.set(message.message_id, { message });
    } catch {
      localStorage.removeItem(this.key);
    }
  }

  add(message) {
    this.messages.set(message.message_id, { message });
    this.#save();
  }

  accept(id) {
    const entry = this.messages.get(id);
    if (entry) entry.isAccepted = true;
    this.#save();
  }

  refuse(id, words, isRetryable) {
    const entry = this.messages.get(id);
    if (entry) Object.assign(entry, { refusal: words, isRetryable });
    this.#save();
  }

  // A frame that is too large is refused unread, so nobody says which message it was.
  refuseLargest(words) {
    const size = (entry) => JSON.stringify(entry.message).length;
    const [largest] = this.unsent().sort((one, other) => size(other) - size(one));
    if (largest) this.refuse(largest.message.message_id, words, false);
  }

  countDelivery(id) {
    const entry = this.messages.get(id);
    if (entry) entry.deliveries = (entry.deliveries ?? 0) + 1;
  }

  // A server that closes on a large frame may be gone before it has said why: what has broken the connection twice is
  // not sent a third time by itself.
  giveUpOnWhatBreaksIt() {
    for (const entry of this.unsent()) {
      if (entry.deliveries >= 2 && JSON.stringify(entry.message).length > LARGE) {
        this.refuse(entry.message.message_id, "this message is too large, or the connection broke at it twice", true);
      }
    }
  }

  again(id) {
    const entry = this.messages.get(id);
    if (entry) Object.assign(entry, { refusal: undefined, deliveries: 0 });
    return entry?.message;
  }

  remove(id) {
    this.messages.delete(id);
    this.#save();
  }

  unsent() {
    return [...this.messages.values()].filter((entry) => !entry.isAccepted && !entry.refusal);
  }

  accepted() {
    return [...this.messages].filter(([, entry]) => entry.isAccepted).map(([id]) => id);
  }

  #save() {
    const kept = [...this.messages.values()].filter((entry) => !entry.isAccepted).map((entry) => entry.message);
    try {
      if (kept.length) localStorage.setItem(this.key, JSON.stringify(kept));
      else localStorage.removeItem(this.key);
    } catch {
      // larger than a browser keeps: it lives as long as this page does
    }
  }
}
