// Enqueue and process N jobs with BullMQ; prints the CPU of this process and of Redis, in microseconds a job.
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const [port, count, concurrency] = process.argv.slice(2).map(Number);
const connection = { host: "127.0.0.1", port, maxRetriesPerRequest: null };
const redis = new Redis(connection);
const words = "a message of about a hundred bytes, as people send them to an assistant on a phone, more or less";

async function serverCpu() {
  const info = await redis.info("cpu");
  return ["used_cpu_user", "used_cpu_sys"].reduce((sum, name) => sum + Number(info.match(new RegExp(`${name}:([0-9.]+)`))[1]), 0);
}

async function measured(act) {
  const [server, own] = [await serverCpu(), process.cpuUsage()];
  await act();
  const spent = process.cpuUsage(own);
  return { client: (spent.user + spent.system) / count, server: (((await serverCpu()) - server) / count) * 1e6 };
}

const queue = new Queue("bench", { connection, defaultJobOptions: { removeOnComplete: true } });
const enqueued = await measured(async () => {
  let next = 0;
  const keepGoing = async () => {
    while (next < count) await queue.add("message", { thread: `t${next++}`, words });
  };
  await Promise.all(Array.from({ length: concurrency }, keepGoing));
});
const processed = await measured(async () => {
  let done = 0;
  await new Promise((resolve) => {
    new Worker("bench", async () => void (++done === count && resolve()), { connection, concurrency });
  });
});
console.log(JSON.stringify({ enqueued, processed }));
process.exit(0);
