// Runs what the action does, outside of Convex: `node dist/convex/main.js CHANNEL MESSAGE_ID TEXT`.

import { sendToRabbitMQ } from "./producer.js";

const [channel, message_id, message] = process.argv.slice(2);
if (!channel || !message_id || !message) {
  console.error("usage: main.js CHANNEL MESSAGE_ID TEXT");
  process.exit(2);
}
await sendToRabbitMQ({ channel, message_id, message });
