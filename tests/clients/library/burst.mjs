// Two pages one after the other. "write": puts messages into the outbox while no server is there, and is gone at once.
// "read": sends what was left, follows every channel until all is settled, and prints what it saw; beside the storage it
// names each channel that has come to be followed.
import { appendFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { TurnkeepClient, positionOf, textAfter } from "turnkeep-client";

const [mode, url, folder, channels, each] = process.argv.slice(2);

/** A `localStorage` that outlives the process: a file for each entry. */
class Folder {
  constructor(path) {
    this.path = path;
    mkdirSync(path, { recursive: true });
  }
  get #names() {
    return readdirSync(this.path).map(decodeURIComponent);
  }
  get length() {
    return this.#names.length;
  }
  key(place) {
    return this.#names[place] ?? null;
  }
  getItem(name) {
    return readFileSync(join(this.path, encodeURIComponent(name)), "utf8");
  }
  setItem(name, value) {
    writeFileSync(join(this.path, encodeURIComponent(name)), value);
  }
  removeItem(name) {
    rmSync(join(this.path, encodeURIComponent(name)), { force: true });
  }
}

const client = new TurnkeepClient({ url, storage: new Folder(folder) });
const names = Array.from({ length: Number(channels) }, (_, number) => `c${number}`);

if (mode === "write") {
  for (let place = 0; place < Number(each); place++) {
    for (const name of names) client.post(name, `number ${place} [[words:20]]`, { messageId: `m${place}` });
  }
  process.exit(0);
}

const sending = client.resumeOutbox();
const seen = await Promise.all(names.map(follow));
const sent = await sending;
const counts = seen.flatMap(({ settled }) => [...settled.values()]);
console.log(JSON.stringify({
  refused: sent.filter((one) => one.status === "rejected").length,
  left: client.outbox.length,
  settled: counts.length,
  twice: counts.filter((count) => count > 1).length,
  torn: seen.reduce((sum, { torn }) => sum + torn, 0),
  repeats: seen.reduce((sum, { repeats }) => sum + repeats, 0),
  away: seen.reduce((sum, { away }) => sum + away, 0),
}));
process.exit(0);

async function follow(name) {
  const settled = new Map();
  let [text, position, torn, repeats, away] = ["", "", 0, 0, 0];
  const onState = (state) => {
    away += state === "away";
    if (state === "live") appendFileSync(`${folder}.live`, `${name}\n`);
  };
  for await (const frame of client.stream(name, { after: ":0", deltas: true, onState })) {
    if ("offset" in frame && !frame.more) {
      repeats += positionOf(frame) === position;
      position = positionOf(frame);
    }
    if (frame.status === "completed") {
      settled.set(frame.message_id, (settled.get(frame.message_id) ?? 0) + 1);
      torn += frame.type === "response" && text !== "" && text !== frame.message;
    }
    text = textAfter(text, frame);
    if (settled.size === Number(each)) return { settled, torn, repeats, away };
  }
}
