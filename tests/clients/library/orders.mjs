// A transcript and frames in every order that a network can bring them: prints how many there are, and each that ends with
// something else than what was said.
import { conversationAfter } from "turnkeep-client/react";

const frames = [
  { status: "accepted", type: "status", message: "one", message_id: "m1" },
  { status: "started", type: "status", message: "", run_id: "r1", message_ids: ["m1"] },
  { status: "in_progress", type: "response", message: "first", run_id: "r1", message_ids: ["m1"] },
  { status: "accepted", type: "status", message: "two", message_id: "m2" },
  { status: "completed", type: "response", message: "first", run_id: "r1", message_ids: ["m1"], final_message: true },
  { status: "accepted", type: "status", message: "three", message_id: "m3" },
  { status: "withdrawn", type: "status", message: "", message_id: "m3" },
  { status: "started", type: "status", message: "", run_id: "r2", message_ids: ["m2"] },
  { status: "completed", type: "response", message: "same", run_id: "r2", message_ids: ["m2"], final_message: true },
  { status: "completed", type: "response", message: "same", author: "ann", message_ids: ["m2"], final_message: true },
  { status: "accepted", type: "status", message: "four", message_id: "m4" },
  { status: "started", type: "status", message: "", run_id: "r4", message_ids: ["m4"] },
  { status: "error", type: "error", message: "refused", run_id: "r4", message_ids: ["m4"] },
  { status: "accepted", type: "status", message: "five", message_id: "m5" },
  { status: "completed", type: "response", message: "same", author: "ann", outcome: "completed", run_id: "r5", message_ids: ["m5"], final_message: true },
].map((frame, place) => ({ ...frame, epoch: "e", offset: place + 1, timestamp: 100 + place }));

/** What the server answers when the thread was looked at after `top` events and its transcript after `end` of them. */
function transcriptOf(top, end) {
  if (end === 0) return { items: [], open: [] };
  const [items, dead, open] = [[], [], new Map()];
  let turn = 0;
  for (const frame of frames.slice(0, end)) {
    const ids = frame.message_ids ?? [frame.message_id];
    if (frame.status === "accepted") open.set(frame.message_id, { message_id: frame.message_id, content: text(frame.message), status: "waiting", at: frame.timestamp });
    else if (frame.status === "started") ids.forEach((id) => (open.get(id).status = "running"));
    else if (frame.status === "withdrawn") open.delete(frame.message_id);
    else if (frame.type === "error") dead.push({ message_id: "m4", content: text("four"), at: frame.timestamp }), open.delete("m4");
    else if (frame.final_message) {
      turn++;
      for (const id of ids.filter((one) => open.has(one))) items.push({ kind: "user", turn, ...open.get(id) }), open.delete(id);
      items.push({ kind: "assistant", turn, text: frame.message, at: frame.timestamp, author: frame.author });
    }
  }
  return { items, dead, open: [...open.values()], thread: { epoch: "e", top } };
}

const text = (said) => [{ type: "text", text: said }];

const EMPTY = { messages: [], text: "", status: "loading", calls: [], early: [] };
const ends = (shown) => JSON.stringify([shown.messages.map(({ role, text, state, author }) => [role, text, role === "user" ? state : author]), shown.text, shown.status]);
const wanted = ends(conversationAfter(EMPTY, { type: "transcript", transcript: transcriptOf(frames.length, frames.length) }));
let count = 0;
const wrong = [];
for (let from = 0; from <= frames.length; from++) { // the subscription begins behind so many frames
  for (let top = from; top <= frames.length; top++) {
    for (let end = top; end <= frames.length; end++) {
      for (let told = from; told <= frames.length; told++) { // and the transcript comes after so many
        const acts = frames.slice(from).map((frame) => ({ type: "frame", frame }));
        acts.splice(told - from, 0, { type: "transcript", transcript: transcriptOf(top, end) });
        const last = ends([{ type: "subscribed" }, ...acts].reduce(conversationAfter, EMPTY));
        count++;
        if (last !== wanted && wrong.push({ from, top, end, told, last }) > 3) break;
      }
    }
  }
}
console.log(JSON.stringify({ count, wanted, wrong }));
