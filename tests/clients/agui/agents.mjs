// Drives HttpAgent of AG-UI, and ChatClient of TanStack, unmodified and without a page.
import { HttpAgent } from '@ag-ui/client';
import { ChatClient, fetchServerSentEvents } from '@tanstack/ai-client';
import { serve } from '../acts.mjs';

const agents = new Map();
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function agentView(entry) {
  const { agent, told } = entry;
  return { messages: agent.messages, state: agent.state, pending: agent.pendingInterrupts ?? [], ...told };
}

async function run(entry, options) {
  const { agent, told } = entry;
  try {
    await agent.runAgent(options, {
      onRunErrorEvent: ({ event }) => told.errors.push(event.message),
      onRunFinishedEvent: ({ event }) => told.outcomes.push(event?.outcome?.type ?? 'none'),
      onCustomEvent: ({ event }) => told.customs.push([event.name, event.value]),
      onReasoningMessageContentEvent: ({ event }) => told.thoughts.push(event.delta),
      onEvent: ({ event }) => told.types.push(event.type),
    });
  } catch (error) {
    told.errors.push(error.message);
  }
  return agentView(entry);
}

// A proxy within fetch: cuts the first answer after so many bytes.
function cutting(bytes) {
  let isFirst = true;
  return async (url, init) => {
    const response = await fetch(url, init);
    if (!isFirst || !response.body) return response;
    isFirst = false;
    let left = bytes;
    const reader = response.body.getReader();
    const body = new ReadableStream({
      async pull(controller) {
        const { value, done } = await reader.read();
        if (done) return controller.close();
        if (value.length < left) {
          left -= value.length;
          return controller.enqueue(value);
        }
        controller.enqueue(value.slice(0, left));
        await reader.cancel();
        controller.error(new TypeError('network error'));
      },
    });
    return new Response(body, { status: response.status, headers: response.headers });
  };
}

const chats = new Map();
const chatView = ({ client, errors }) => ({
  messages: client.getMessages(), status: client.getStatus?.() ?? null, errors,
  pending: (client.getInterrupts?.() ?? []).length,
});

serve({
  open: async ({ key, url, thread, messages = [], state }) => {
    const agent = new HttpAgent({
      url: `${url}/api/agui`, threadId: thread, initialMessages: messages, ...(state ? { initialState: state } : {}),
    });
    agents.set(key, { agent, told: { errors: [], outcomes: [], customs: [], thoughts: [], types: [] } });
  },
  say: async ({ key, id, text, ...options }) => {
    const entry = agents.get(key);
    entry.agent.addMessage({ id, role: 'user', content: text });
    return run(entry, options);
  },
  run: async ({ key, resume }) => run(agents.get(key), resume ? { resume } : {}),
  give: async ({ key, callId, content }) => {
    const entry = agents.get(key);
    entry.agent.addMessage({ id: `${callId}-given`, role: 'tool', toolCallId: callId, content });
    return run(entry, {});
  },
  abort: async ({ key }) => { agents.get(key).agent.abortRun(); },
  look: async ({ key }) => agentView(agents.get(key)),

  chat: async ({ key, url, thread, cut = 0, persistent = false }) => {
    const errors = [];
    const connection = fetchServerSentEvents(`${url}/api/agui`, {
      reconnect: { maxAttempts: 200, delayMs: 50 }, ...(cut ? { fetchClient: cutting(cut) } : {}),
    });
    const client = new ChatClient({
      connection, threadId: thread, onError: (error) => errors.push(error.message), ...(persistent ? { persistence: true } : {}),
    });
    chats.set(key, { client, errors });
  },
  send: async ({ key, text }) => {
    const entry = chats.get(key);
    await entry.client.sendMessage(text);
    return chatView(entry);
  },
  resolve: async ({ key, approved }) => {
    const entry = chats.get(key);
    const resume = entry.client.getInterrupts().map(({ id }) => ({ interruptId: id, status: 'resolved', payload: { approved } }));
    await entry.client.resumeInterrupts(resume);
    return chatView(entry);
  },
  attach: async ({ key }) => { chats.get(key).client.attach?.(); },
  see: async ({ key }) => chatView(chats.get(key)),
  until: async ({ key, text }) => {
    const entry = chats.get(key);
    while (!JSON.stringify(entry.client.getMessages()).includes(text)) await pause(5);
    return chatView(entry);
  },
});
