// A program as people wrote them for the Assistants API: BullMQ collects what a user writes, one worker at a time holds
// his thread by a lock, posts the messages, creates a run, polls it, and gives the outputs of its functions.
import { Queue, Worker } from 'bullmq';
import { OpenAI } from 'openai4';
import { createClient } from 'redis';
import { serve } from '../acts.mjs';

const MESSAGE_DELAY = 200;
const LOCK = 300_000;
const POLL = 100;
const functions = { lookup: async ({ q }) => `found ${q}` };

let openai, redis, queue, worker, assistant;
const held = []; // milliseconds for which each turn has held its thread
const failures = [];

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const connectionOf = (url) => ({ host: new URL(url).hostname, port: Number(new URL(url).port), db: 1 });

async function add({ user, text }) {
  await redis.rPush(`texts:${user}`, text);
  await queue.add('turn', { user }, { delay: MESSAGE_DELAY, attempts: 20, backoff: { type: 'fixed', delay: 200 } });
}

async function threadOf(user) {
  const known = await redis.get(`thread:${user}`);
  if (known) return known;
  const { id } = await openai.beta.threads.create({ metadata: { user } });
  await redis.set(`thread:${user}`, id);
  return id;
}

async function turn({ data: { user } }) {
  const lock = `lock:${user}`;
  if (!(await redis.set(lock, '1', { NX: true, PX: LOCK }))) throw new Error('the thread is locked, try again');
  const since = Date.now();
  try {
    const texts = await redis.lRange(`texts:${user}`, 0, -1);
    if (!texts.length) return;
    const thread = await threadOf(user);
    for (const text of texts) await openai.beta.threads.messages.create(thread, { role: 'user', content: text });
    await redis.lTrim(`texts:${user}`, texts.length, -1);
    const run = await answered(thread, await openai.beta.threads.runs.create(thread, { assistant_id: assistant }));
    if (run.status !== 'completed') throw new Error(`the run ended as ${run.status}`);
    const { data: [newest] } = await openai.beta.threads.messages.list(thread, { limit: 1 });
    await redis.rPush(`answers:${user}`, newest.content[0].text.value);
    held.push(Date.now() - since);
  } finally {
    await redis.del(lock);
  }
}

async function answered(thread, run) {
  while (['queued', 'in_progress', 'requires_action'].includes(run.status)) {
    if (run.status === 'requires_action') {
      const calls = run.required_action.submit_tool_outputs.tool_calls;
      const tool_outputs = await Promise.all(calls.map(async ({ id, function: { name, arguments: text } }) =>
        ({ tool_call_id: id, output: await functions[name](JSON.parse(text)) })));
      run = await openai.beta.threads.runs.submitToolOutputs(thread, run.id, { tool_outputs });
    }
    await pause(POLL);
    run = await openai.beta.threads.runs.retrieve(thread, run.id);
  }
  return run;
}

serve({
  start: async ({ url, redis_url, concurrency, ...about }) => {
    assistant = about.assistant;
    openai = new OpenAI({ apiKey: 'sk-any', baseURL: `${url}/v1` });
    redis = await createClient({ url: redis_url, database: 1 }).connect();
    queue = new Queue('turns', { connection: connectionOf(redis_url) });
    worker = new Worker('turns', turn, { connection: connectionOf(redis_url), concurrency });
    worker.on('failed', (_, error) => { if (!/locked/.test(error.message)) failures.push(error.message); });
  },
  add,
  look: async ({ users }) => ({
    held, failures,
    answers: Object.fromEntries(await Promise.all(users.map(async (user) => [user, await redis.lRange(`answers:${user}`, 0, -1)]))),
    waiting: (await Promise.all(users.map((user) => redis.lLen(`texts:${user}`)))).reduce((a, b) => a + b, 0),
    threads: Object.fromEntries(await Promise.all(users.map(async (user) => [user, await redis.get(`thread:${user}`)]))),
  }),
  end: async () => { await worker.close(); await queue.close(); await redis.quit(); },
});
