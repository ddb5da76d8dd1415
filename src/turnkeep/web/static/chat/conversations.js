// The conversations that were begun in this browser. The list is the browser's own: where nobody is asked who he is,
// the server cannot know whose they are, and nobody should see those of others.

import { $, button, element, reconcile } from "../element.js";

const KEY = "turnkeep.conversations";
const MOST = 500;

export class Conversations {
  constructor(on) {
    this.on = on; // open, remove, search
    this.current = "";
    $("search").oninput = () => { this.draw(); this.#searchSoon(); };
    addEventListener("storage", (event) => { if (event.key === KEY) this.draw(); });
  }

  all() {
    try {
      const list = JSON.parse(localStorage.getItem(KEY) ?? "[]");
      return Array.isArray(list) ? list.filter((one) => typeof one?.channel === "string") : [];
    } catch {
      return [];
    }
  }

  titleOf(channel) {
    return this.all().find((one) => one.channel === channel)?.title ?? "";
  }

  // Put it at the top. A title that was chosen stays; one that is made of the first words stays as well.
  note(channel, { title, isChosen = false } = {}) {
    const list = this.all();
    const known = list.find((one) => one.channel === channel) ?? { channel, title: "" };
    if (title && (isChosen || !known.title)) known.title = title.slice(0, 80);
    known.at = Date.now();
    this.#save([known, ...list.filter((one) => one.channel !== channel)].slice(0, MOST));
  }

  remove(channel) {
    this.#save(this.all().filter((one) => one.channel !== channel));
  }

  #save(list) {
    try {
      localStorage.setItem(KEY, JSON.stringify(list));
    } catch {
      // a browser without room keeps no list
    }
    this.draw();
  }

  // What was said on the server is looked through for who may, and shown of this browser's conversations alone.
  #searchSoon() {
    this.said = new Set();
    clearTimeout(this.timer);
    const words = $("search").value.trim();
    if (words.length < 3) return;
    this.timer = setTimeout(async () => {
      const channels = await this.on.search(words);
      if ($("search").value.trim() !== words) return;
      this.said = new Set(channels);
      this.draw();
    }, 300);
  }

  draw() {
    const words = $("search").value.trim().toLowerCase();
    const fits = (one) => !words || this.said?.has(one.channel) || `${one.title} ${one.channel}`.toLowerCase().includes(words);
    const list = this.all().filter(fits);
    $("no-conversations").hidden = list.length > 0 || Boolean(words);
    reconcile($("conversations"), list.map((one) => ({
      key: one.channel, look: `${one.title} ${one.channel === this.current}`, make: () => this.#entry(one),
    })));
  }

  #entry({ channel, title }) {
    const words = title || channel;
    const open = (event) => { event.preventDefault(); this.on.open(channel); };
    const isCurrent = channel === this.current;
    return element("li", { class: isCurrent ? "current" : "" },
      element("a", { href: `#${encodeURIComponent(channel)}`, onclick: open, title: words, "aria-current": isCurrent ? "page" : null }, words),
      button("✕", () => this.on.remove(channel, words), { "aria-label": `Delete ${words}` }));
  }
}
