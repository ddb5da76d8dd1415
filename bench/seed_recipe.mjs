// The seeds' recipe on BullMQ: a job per message, a list per thread, a lock around the run, which drains the list in
// batches. Prints the CPU of this process in microseconds a message.
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const [port, count, concurrency, burst] = process.argv.slice(2).map(Number);
const connection = { host: "127.0.0.1", port, maxRetriesPerRequest: null };
const redis = new Redis(connection);
const words = "a message of about a hundred bytes, as people send them to an assistant on a phone, more or less";
const unlock = 'if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end';

async function measured(act) {
  const own = process.cpuUsage();
  await act();
  const spent = process.cpuUsage(own);
  return { client: (spent.user + spent.system) / count };
}

const queue = new Queue("bench", { connection, defaultJobOptions: { removeOnComplete: true } });
const enqueued = await measured(async () => {
  let next = 0;
  const keepGoing = async () => {
    while (next < count) {
      const number = next++;
      const thread = `t${Math.floor(number / (burst || 1))}`;
      await redis.rpush(`in:${thread}`, JSON.stringify({ number, words }));
      await queue.add("message", { thread }, { jobId: `m${number}` });
    }
  };
  await Promise.all(Array.from({ length: concurrency }, keepGoing));
});
const processed = await measured(async () => {
  let done = 0;
  await new Promise((resolve) => {
    new Worker(
      "bench",
      async (job) => {
        const lock = `lock:${job.data.thread}`;
        const list = `in:${job.data.thread}`;
        if (await redis.set(lock, job.id, "PX", 30000, "NX")) {
          for (;;) {
            const batch = await redis.lrange(list, 0, 63);
            if (!batch.length) break;
            await redis.ltrim(list, batch.length, -1);
          }
          await redis.eval(unlock, 1, lock, job.id);
        }
        if (++done === count) resolve();
      },
      { connection, concurrency },
    );
  });
});
console.log(JSON.stringify({ enqueued, processed }));
process.exit(0);
