import type { ErrorFrame, HeldCall, TurnkeepClient, TurnkeepError, Wishes } from "./turnkeep.js";

export interface ShownMessage {
  id: string;
  role: "user" | "assistant";
  text: string;
  /** Of what a person wrote: sending, refused, or its status at the server. */
  state?: "sending" | "refused" | "waiting" | "delayed" | "answering" | "running" | "answered" | "dead";
  author?: string;
}

export interface Conversation {
  messages: ShownMessage[];
  /** The answer that is being written. */
  text: string;
  status: "loading" | "ready" | "away";
  /** Tool calls that wait for a decision. */
  calls: HeldCall[];
  error: ErrorFrame | TurnkeepError | undefined;
  /** The id of the message, which is sent as soon as the server is there. */
  send(text: string, wishes?: Wishes): string;
  stop(): Promise<{ cancelled: boolean }>;
  decide(call: HeldCall, verdict: "approved" | "denied" | "output", output?: string): Promise<HeldCall>;
}

export function useConversation(client: TurnkeepClient, channel: string): Conversation;
