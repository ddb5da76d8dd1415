// Drives Chat of the AI SDK, majors 5, 6 and 7, without React: as useChat holds it.
import * as ai5 from 'ai5';
import * as ai6 from 'ai6';
import * as ai7 from 'ai7';
import { serve } from '../acts.mjs';

const majors = { 5: ai5, 6: ai6, 7: ai7 };

class State {
  status = 'ready';
  error = undefined;
  messages = [];
  experimental_queuedMessages = [];
  pushMessage = (message) => { this.messages = [...this.messages, message]; };
  popMessage = () => { this.messages = this.messages.slice(0, -1); };
  replaceMessage = (index, message) => {
    this.messages = [...this.messages.slice(0, index), structuredClone(message), ...this.messages.slice(index + 1)];
  };
  snapshot = (thing) => structuredClone(thing);
}

const chats = new Map();

function open({ key, major, url, id, query, messages = [], automatic, tools = {} }) {
  const ai = majors[major];
  class Chat extends ai.AbstractChat {
    constructor(init) {
      const state = new State();
      state.messages = init.messages;
      super({ ...init, state });
    }
  }
  const told = { errors: [], data: [], calls: [] };
  const transport = new ai.DefaultChatTransport({ api: `${url}/api/chat?level=${major}${query ?? ''}` });
  const chat = new Chat({
    id, messages, transport,
    onError: (error) => told.errors.push(error.message),
    onData: (part) => told.data.push(part.data),
    onToolCall: ({ toolCall }) => {
      told.calls.push(toolCall.toolName);
      if (toolCall.toolName in tools) {
        chat.addToolOutput({ tool: toolCall.toolName, toolCallId: toolCall.toolCallId, output: tools[toolCall.toolName] });
      }
    },
    sendAutomaticallyWhen: automatic === 'approvals' ? ai.lastAssistantMessageIsCompleteWithApprovalResponses
      : automatic === 'tools' ? ai.lastAssistantMessageIsCompleteWithToolCalls : undefined,
  });
  chats.set(key, { chat, told });
}

const view = ({ chat, told }) => ({ status: chat.status, messages: chat.messages, error: chat.error?.message ?? null, ...told });
const settled = async (entry) => {
  while (['submitted', 'streaming'].includes(entry.chat.status)) await new Promise((done) => setTimeout(done, 5));
  return view(entry);
};
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

serve({
  open: async (about) => open(about),
  look: async ({ key }) => view(chats.get(key)),
  send: async ({ key, id, text, parts, messageId, body }) => {
    const entry = chats.get(key);
    const message = messageId ? { text, messageId } : { id, role: 'user', parts: parts ?? [{ type: 'text', text }] };
    await entry.chat.sendMessage(message, { body });
    return settled(entry);
  },
  burst: async ({ key, texts, gap = 5, body }) => {
    const entry = chats.get(key);
    const sends = [];
    for (const [n, text] of texts.entries()) {
      sends.push(entry.chat.sendMessage({ id: `u${n + 1}`, role: 'user', parts: [{ type: 'text', text }] }, { body }));
      await pause(gap);
    }
    await Promise.all(sends);
    return settled(entry);
  },
  until: async ({ key, text }) => {
    const entry = chats.get(key);
    while (!JSON.stringify(entry.chat.messages).includes(text)) await pause(5);
    return view(entry);
  },
  settle: async ({ key }) => settled(chats.get(key)),
  resume: async ({ key }) => {
    const entry = chats.get(key);
    await entry.chat.resumeStream();
    return settled(entry);
  },
  // As a page does it that was loaded anew: with what it kept of the messages.
  reload: async ({ key, keep = true }) => {
    const entry = chats.get(key);
    entry.chat.stop();
    return keep ? entry.chat.messages : [];
  },
  regenerate: async ({ key, messageId }) => {
    const entry = chats.get(key);
    await entry.chat.regenerate(messageId ? { messageId } : {});
    return settled(entry);
  },
  approve: async ({ key, approved, reason }) => {
    const entry = chats.get(key);
    for (const part of entry.chat.messages.at(-1).parts) {
      if (part.state === 'approval-requested') await entry.chat.addToolApprovalResponse({ id: part.approval.id, approved, reason });
    }
    while (JSON.stringify(entry.chat.messages).includes('"approval-responded"') && entry.chat.status !== 'error') await pause(5);
    return settled(entry);
  },
});
