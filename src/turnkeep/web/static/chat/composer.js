// Where messages are written: the box, its draft, what is attached to it.

import { $, button, element } from "../element.js";

const TYPING_EVERY = 700;
const LARGEST_FILE = 8_000_000;

export class Composer {
  constructor(on) {
    this.on = on; // say, typing, stop, editLast
    this.attached = [];
    this.typedAt = 0;
    $("composer").onsubmit = (event) => { event.preventDefault(); this.#submit(); };
    $("text").oninput = () => { this.#grow(); this.#keepDraft(); this.#tellTyping(); };
    $("text").onkeydown = (event) => this.#onKey(event);
    $("text").onpaste = (event) => this.#attachAll([...event.clipboardData.files]);
    $("attach").onclick = () => $("files").click();
    $("files").onchange = async () => { await this.#attachAll([...$("files").files]); $("files").value = ""; };
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => { event.preventDefault(); this.#attachAll([...event.dataTransfer.files]); });
  }

  // Take up the draft of a channel.
  turnTo(channel) {
    this.key = `turnkeep.draft.${channel}`;
    this.attached = [];
    this.#drawAttached();
    $("text").value = localStorage.getItem(this.key) ?? "";
    this.#grow();
  }

  #submit() {
    const text = $("text").value.trim();
    if (!text && !this.attached.length) return;
    this.on.say(text, this.attached.map((file) => file.part));
    $("text").value = "";
    this.attached = [];
    this.#drawAttached();
    this.#grow();
    this.#keepDraft();
  }

  #onKey(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.#submit();
    } else if (event.key === "ArrowUp" && !$("text").value) {
      if (this.on.editLast()) event.preventDefault();
    }
  }

  #grow() {
    const area = $("text");
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  }

  #keepDraft() {
    try {
      if ($("text").value) localStorage.setItem(this.key, $("text").value);
      else localStorage.removeItem(this.key);
    } catch {
      // a browser without room keeps no draft
    }
  }

  #tellTyping() {
    if (performance.now() - this.typedAt < TYPING_EVERY) return;
    this.typedAt = performance.now();
    this.on.typing();
  }

  async #attachAll(files) {
    for (const file of files) this.attached.push({ name: file.name, ...(await read(file)) });
    this.#drawAttached();
  }

  #drawAttached() {
    const remove = (file) => () => { this.attached = this.attached.filter((one) => one !== file); this.#drawAttached(); };
    $("attached").replaceChildren(...this.attached.map((file) =>
      element("li", {}, file.refusal ? `${file.name}: ${file.refusal}` : file.name, button("✕", remove(file), { "aria-label": `Remove ${file.name}` }))));
    this.attached = this.attached.filter((file) => file.part);
  }
}

async function read(file) {
  if (file.size > LARGEST_FILE) return { refusal: "larger than 8 MB" };
  const data = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  if (file.type.startsWith("image/")) return { part: { type: "image", image_url: data } };
  return { part: { type: "file", file_data: data, filename: file.name } };
}
