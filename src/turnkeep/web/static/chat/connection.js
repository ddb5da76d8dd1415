// One socket on one channel, that comes back after every loss and goes on where it was.

const NOT_AUTHENTICATED = 4401;
const TOO_LARGE = 1009;
const RESTARTING = 1012;

export class Connection {
  constructor(channel, on) {
    this.channel = channel;
    this.on = on; // frame, state, signIn, tooLarge
    this.position = null;
    this.failures = 0;
    this.isSubscribed = false;
    this.socket = null;
  }

  open() {
    const url = new URL("ws", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.hash = "";
    const socket = (this.socket = new WebSocket(url));
    this.isSubscribed = false;
    socket.onopen = () => {
      this.send({ action: "subscribe", channel: this.channel, events: "all", text: "delta", ...(this.position ?? {}) });
    };
    socket.onmessage = (event) => {
      if (socket === this.socket) this.#take(JSON.parse(event.data));
    };
    socket.onclose = (event) => {
      if (socket === this.socket) this.#onClose(event);
    };
  }

  close() {
    const socket = this.socket;
    this.socket = null;
    clearTimeout(this.timer);
    socket?.close();
  }

  get isOpen() {
    return this.isSubscribed && this.socket?.readyState === WebSocket.OPEN;
  }

  send(request) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(request));
  }

  #take(frame) {
    if (frame.status === "subscribed") {
      const isKnown = this.position !== null && frame.recovered;
      this.position = { epoch: frame.epoch, offset: frame.offset };
      this.isSubscribed = true;
      this.failures = 0;
      const skew = frame.timestamp - Date.now() / 1000;
      return this.on.state("live", { isKnown, hasThread: Boolean(frame.thread_id), skew });
    }
    if (frame.code === "not_allowed" && !this.isSubscribed) return this.on.signIn(frame.error_details || frame.message);
    if (frame.type === "error" && !this.isSubscribed) return this.on.state("refused", { words: frame.error_details || frame.message });
    if (frame.offset !== undefined && !frame.more && frame.channel === this.channel) {
      this.position = { epoch: frame.epoch, offset: frame.offset };
    }
    return this.on.frame(frame);
  }

  #onClose(event) {
    this.isSubscribed = false;
    if (event.code === NOT_AUTHENTICATED) return this.on.signIn(event.reason);
    if (event.code === TOO_LARGE) this.on.tooLarge();
    this.failures += 1;
    const delay = Math.random() * Math.min(5000, 200 * 2 ** this.failures);
    this.on.state(event.code === RESTARTING ? "restarting" : "reconnecting", { delay });
    // perhaps signed out meanwhile: whoever listens looks first
    this.timer = setTimeout(() => this.on.again(), delay);
    return undefined;
  }
}
