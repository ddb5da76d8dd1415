// Two calls whose first answer is lost: what can be named is repeated, what cannot is told as unknown.
import { TurnkeepClient } from "turnkeep-client";

const [url] = process.argv.slice(2);
const client = new TurnkeepClient({ url });
const made = await client.call("POST", "/api/threads", {}).catch((error) => error.code);
const cancelled = await client.call("POST", "/api/channels/c/cancel", {});
console.log(JSON.stringify({ made, cancelled }));
