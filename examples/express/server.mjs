// An Express application in front of turnkeep: your users, your routes, its turns.
//
//   POST /chat/:channel {"text": "…"}   → 202 and a receipt at once
//   GET  /chat/:channel/answer?text=…   → the finished answer
//   GET  /chat/:channel/stream          → every frame, as server-sent events

import { Readable } from "node:stream";
import express from "express";
import { ask, send } from "../node/turnkeep.mjs";

const base = process.env.TURNKEEP_URL ?? "http://127.0.0.1:8080";
const app = express();
app.use(express.json());

app.post("/chat/:channel", async (request, response) => {
  const { text, id } = request.body;
  response.status(202).json(await send(base, request.params.channel, text, id));
});

app.get("/chat/:channel/answer", async (request, response) => {
  response.json({ answer: await ask(base, request.params.channel, String(request.query.text)) });
});

app.get("/chat/:channel/stream", async (request, response) => {
  const ending = new AbortController();
  request.on("close", () => ending.abort());
  const from = `${base}/api/channels/${encodeURIComponent(request.params.channel)}/events`;
  const events = await fetch(from, { signal: ending.signal });
  response.status(events.status).type("text/event-stream");
  Readable.fromWeb(events.body).on("error", () => response.end()).pipe(response);
});

app.use((error, _request, response, _next) => {
  response.status(502).json({ error: error.message });
});

const server = app.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
