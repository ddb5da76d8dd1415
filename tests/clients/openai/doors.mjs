// Drives OpenAI's client for Node, the last 4.x and the newest: each act is what a program would do.
import * as openai4 from 'openai4';
import * as openai7 from 'openai7';
import { serve } from '../acts.mjs';

const majors = { 4: openai4.OpenAI, 7: openai7.OpenAI };
const progress = new Map(); // how much each act has read so far
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const client = ({ major, url, retries = 0 }) =>
  new majors[major]({ apiKey: 'sk-any', baseURL: `${url}/v1`, maxRetries: retries, timeout: 60_000 });
const count = (key) => progress.set(key, (progress.get(key) ?? 0) + 1);

// A program whose server dies asks again until it is there.
async function untilDone(act, isPatient) {
  for (;;) {
    try {
      return await act();
    } catch (error) {
      if (!isPatient || (error.status && error.status < 500)) throw error;
      await pause(50);
    }
  }
}

async function chat({ model, messages, key, stream, tools, mark, patient, ...where }) {
  const options = { headers: key ? { 'X-Conversation-Id': key } : {} };
  const body = { model, messages, ...(tools ? { tools } : {}) };
  const calls = client(where).chat.completions;
  return untilDone(async () => {
    if (!stream) {
      const { choices: [{ message, finish_reason }], metadata } = await calls.create(body, options);
      return { text: message.content ?? '', thoughts: message.reasoning_content ?? '', reason: finish_reason,
        calls: message.tool_calls ?? [], metadata };
    }
    const told = { text: '', thoughts: '', reason: null, calls: [], metadata: null };
    for await (const chunk of await calls.create({ ...body, stream: true }, options)) {
      if (chunk.metadata) told.metadata = chunk.metadata;
      const [choice] = chunk.choices;
      if (!choice) continue;
      told.text += choice.delta.content ?? '';
      told.thoughts += choice.delta.reasoning_content ?? '';
      told.reason = choice.finish_reason ?? told.reason;
      told.calls.push(...(choice.delta.tool_calls ?? []));
      if (choice.delta.content) count(mark);
    }
    return told;
  }, patient);
}

function read(told, event, mark) {
  told.sequence = event.sequence_number;
  if (event.type === 'response.output_text.delta') {
    told.text += event.delta;
    count(mark);
  }
  if (event.response) Object.assign(told, { id: event.response.id, status: event.response.status, metadata: event.response.metadata });
  if (event.type === 'response.output_item.done' && event.item.type === 'function_call') told.calls.push(event.item);
  if (event.type === 'response.reasoning_summary_text.delta') told.thoughts += event.delta;
}

async function respond({ model, input, key, previous, stream, tools, mark, background, patient, ...where }) {
  const body = { model, input, background: background ?? null, ...(tools ? { tools } : {}),
    ...(previous ? { previous_response_id: previous } : {}), ...(key ? { metadata: { channel: key } } : {}) };
  const { responses } = client(where);
  if (!stream) {
    const { id, status, output, output_text, metadata } = await responses.create(body);
    return { id, status, text: output_text, metadata, calls: output.filter((item) => item.type === 'function_call') };
  }
  const told = { text: '', thoughts: '', calls: [], sequence: -1 };
  try {
    for await (const event of await responses.create({ ...body, stream: true })) read(told, event, mark);
    return told;
  } catch (error) {
    if (!patient || !told.id) throw error;
  }
  return untilDone(async () => { // what the background mode is for
    const rest = await responses.retrieve(told.id, { stream: true, starting_after: told.sequence });
    for await (const event of rest) read(told, event, mark);
    return told;
  }, true);
}

async function assist({ assistant, thread, texts, outputs, stream, mark, patient, ...where }) {
  const { threads } = client(where).beta;
  thread ??= (await threads.create({})).id;
  for (const text of texts) await threads.messages.create(thread, { role: 'user', content: text });
  const events = [];
  const told = { thread, events, calls: [], streamed: '' };
  const listen = (events_) => events_
    .on('event', ({ event }) => events.push(event.replace('thread.', '')))
    .on('textDelta', ({ value }) => { told.streamed += value; count(mark); })
    .on('toolCallDone', (call) => told.calls.push(call.function));
  const latest = async () => (await threads.runs.list(thread)).data[0];
  const retrieve = (id) => where.major < 6 ? threads.runs.retrieve(thread, id) : threads.runs.retrieve(id, { thread_id: thread });
  let run;
  try {
    run = stream ? await listen(threads.runs.stream(thread, { assistant_id: assistant })).finalRun()
      : await threads.runs.createAndPoll(thread, { assistant_id: assistant });
  } catch (error) {
    if (!patient) throw error;
    run = await untilDone(latest, true);
  }
  for (;;) {
    while (['queued', 'in_progress'].includes(run.status)) {
      await pause(50);
      run = await untilDone(() => retrieve(run.id), patient);
    }
    if (run.status !== 'requires_action') break;
    const wanted = run.required_action.submit_tool_outputs.tool_calls;
    const body = { tool_outputs: wanted.map((call) => ({ tool_call_id: call.id, output: outputs[call.function.name] })) };
    if (stream && where.major < 6) run = await listen(threads.runs.submitToolOutputsStream(thread, run.id, body)).finalRun();
    else if (stream) run = await listen(threads.runs.submitToolOutputsStream(run.id, { thread_id: thread, ...body })).finalRun();
    else if (where.major < 6) run = await threads.runs.submitToolOutputsAndPoll(thread, run.id, body);
    else run = await threads.runs.submitToolOutputsAndPoll(run.id, { thread_id: thread, ...body });
  }
  told.status = run.status;
  told.messages = [];
  const list = await untilDone(() => threads.messages.list(thread, { order: 'asc' }), patient);
  for await (const message of list) told.messages.push([message.role, message.content[0]?.text.value ?? '']);
  return told;
}

serve({
  chat, respond, assist,
  models: async (where) => (await client(where).models.list()).data.map((model) => model.id),
  progress: async ({ mark }) => progress.get(mark) ?? 0,
  stop: async ({ id, ...where }) => (await client(where).responses.cancel(id)).status,
});
