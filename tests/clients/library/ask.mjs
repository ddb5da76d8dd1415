// One message, the same in each run of this program: its answer, and whether it was there before.
import { TurnkeepClient } from "turnkeep-client";

const [url] = process.argv.slice(2);
const client = new TurnkeepClient({ url });
const answer = await client.ask("c", "hello [[say:fine]]", { messageId: "m1" });
const { repeated } = await client.send("c", "hello", { messageId: "m2" });
console.log(JSON.stringify({ answer, repeated }));
process.exit(0);
