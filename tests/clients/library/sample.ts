// What a program in TypeScript writes, for the type checker alone.
import { TurnkeepClient, TurnkeepError, positionOf, textAfter, type Frame } from "turnkeep-client";
import { useConversation } from "turnkeep-client/react";

const client = new TurnkeepClient({ url: "http://127.0.0.1:8080", key: async () => "token" });

export async function talk(): Promise<string> {
  const receipt = await client.send("c", "hello", { window: 2, metadata: { user: "ann" } });
  // @ts-expect-error a wish that there is not
  await client.send("c", "hello", { windw: 2 });
  const answer: string = await client.ask("c", [{ type: "text", text: "hello" }], { onText: (text) => text.length });
  let text = "";
  for await (const frame of client.stream("c", { after: `${receipt.thread_id}:0`, deltas: true })) {
    text = textAfter(text, frame);
    if (frame.type === "error") throw new TurnkeepError(frame.code, frame.error_details);
    if (frame.type === "response" && frame.final_message) return positionOf(frame) + (frame.outcome ?? "");
  }
  const seen: Frame[] = [];
  client.subscribe("c", (frame) => seen.push(frame), { onState: (state) => state === "away" }).close();
  const { items, open } = await client.messages("c");
  return answer + items.length + open.length;
}

export function Page(): string {
  const { messages, text, send, stop, decide, calls } = useConversation(client, "c");
  for (const call of calls) void decide(call, "approved");
  void stop();
  return send(messages.map((message) => message.text).join() + text);
}
