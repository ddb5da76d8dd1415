// node chat.mjs CHANNEL TEXT            over HTTP and server-sent events
// node --experimental-websocket chat.mjs --socket CHANNEL TEXT     over the socket

import { ask, askOnSocket } from "./turnkeep.mjs";

const base = process.env.TURNKEEP_URL ?? "http://127.0.0.1:8080";
const words = process.argv.slice(2);
const way = words[0] === "--socket" ? (words.shift(), askOnSocket) : ask;
const [channel, text] = words;
if (!channel || !text) {
  console.error("usage: chat.mjs [--socket] CHANNEL TEXT");
  process.exit(2);
}

let shown = "";
const onText = (sofar) => {
  process.stdout.write(sofar.slice(shown.length));
  shown = sofar;
};
const answer = await way(base, channel, text, { onText });
onText(answer);
process.stdout.write("\n");
