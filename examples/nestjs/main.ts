// Runs the provider alone, as a module of yours would: `node --experimental-websocket dist/nestjs/main.js CHANNEL TEXT`.

import "reflect-metadata";
import { filter, firstValueFrom } from "rxjs";
import { AssistantService } from "./assistant.service.js";

const [channel, text] = process.argv.slice(2);
if (!channel || !text) {
  console.error("usage: main.js CHANNEL TEXT");
  process.exit(2);
}

const assistant = new AssistantService();
assistant.onModuleInit();
const frames = assistant.frames(channel);
await firstValueFrom(frames.pipe(filter((frame) => frame.status === "subscribed")));
const messageId = crypto.randomUUID();
const ended = firstValueFrom(
  frames.pipe(
    filter((frame) => frame.message_ids?.includes(messageId) ?? false),
    filter((frame) => frame.type === "error" || (frame.type === "response" && frame.final_message === true)),
  ),
);
await assistant.send(channel, text, messageId);
console.log((await ended).message);
assistant.onModuleDestroy();
