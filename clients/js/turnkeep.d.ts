export type BusyPolicy = "collect" | "queue" | "steer" | "interrupt" | "rollback" | "reject";

/** Times in seconds, `not_before` in Unix seconds. */
export interface Wishes {
  instructions?: string;
  on_busy?: BusyPolicy;
  window?: number;
  max_wait?: number;
  not_before?: number;
  flush?: boolean;
  metadata?: Record<string, string>;
  model?: string;
  effort?: string;
  format?: Record<string, unknown>;
  parameters?: Record<string, unknown>;
}

export type Part =
  | { type: "text"; text: string }
  | { type: "image"; image_url?: string; file_id?: string; detail?: string }
  | { type: "file"; file_id?: string; file_url?: string; file_data?: string; filename?: string };

export interface Receipt {
  channel: string;
  message_id: string;
  thread_id: string;
  status: "accepted" | "delayed";
  position: number;
  due_in: number | null;
  idempotent: boolean;
  steer?: "accepted";
}

/** What sending gives: also whether the message was there before. */
export interface SentReceipt extends Receipt {
  repeated: boolean;
}

export interface HeldCall {
  call_id: string;
  name: string;
  arguments: string;
  digest: string;
  kind: "approval" | "output";
  decision?: string;
  output?: string;
  by?: string;
  /** Seconds since 1970. */
  decided_at?: number;
  self_approval?: boolean;
  /** What its tool lets people see who may not decide; absent: the name alone. */
  show?: "arguments" | "all";
  /** Something of it is kept from this credential, and empty. */
  withheld?: true;
}

interface Place {
  message: string;
  timestamp: number;
  message_id: string | null;
  thread_id: string | null;
  channel: string;
  /** Absent on what is said beside the log. */
  offset?: number;
  epoch?: string;
  more?: true;
  run_id?: string;
  attempt?: number;
  message_ids?: string[];
}

export interface StatusFrame extends Place {
  type: "status";
  status:
    | "subscribed" | "started" | "processing" | "responding" | "completed" | "accepted" | "edited" | "withdrawn"
    | "steered" | "decided" | "paused" | "resumed" | "reasoning" | "tool_call" | "tool_result" | "source" | "file" | "step";
  final_message: boolean;
  recovered?: boolean;
  top?: number;
  tools?: string[];
  calls?: HeldCall[];
  phase?: string;
  reason?: string;
  error_details?: string;
  remedy?: string;
  detail?: Record<string, unknown>;
  place?: number;
}

export interface ResponseFrame extends Place {
  type: "response";
  status: "in_progress" | "completed";
  final_message: boolean;
  delta?: string;
  snapshot?: true;
  outcome?: "completed" | "cancelled" | "incomplete";
  usage?: Record<string, number | null>;
  author?: string;
}

export interface ErrorFrame extends Place {
  type: "error";
  status: "error";
  error_details: string;
  code: string;
  final_message?: undefined;
}

export type Frame = StatusFrame | ResponseFrame | ErrorFrame;

export interface Item {
  turn: number;
  at: number;
  kind: string;
  content?: Part[];
  text?: string;
  message_id?: string;
  [field: string]: unknown;
}

export interface Message {
  message_id: string;
  status: "delayed" | "waiting" | "running" | "answered" | "cancelled" | "withdrawn" | "dead";
  run_id: string | null;
  content?: Part[];
  [field: string]: unknown;
}

export interface Transcript {
  items: Item[];
  summary: string | null;
  complete: boolean;
  open: Message[];
}

export interface OutboxEntry {
  channel: string;
  message: string | Part[];
  messageId: string;
  wishes: Wishes;
}

export interface StreamOptions {
  /** A position, as `positionOf(frame)`. */
  after?: string;
  deltas?: boolean;
  everything?: boolean;
  signal?: AbortSignal;
  onState?: (state: "live" | "away") => void;
}

export interface CallOptions {
  signal?: AbortSignal;
  idempotencyKey?: string;
}

export interface SendOptions extends Wishes {
  messageId?: string;
  signal?: AbortSignal;
}

export interface ClientOptions {
  url?: string;
  key?: string | (() => string | Promise<string>);
  storage?: Pick<Storage, "length" | "key" | "getItem" | "setItem" | "removeItem"> | null;
}

export class TurnkeepError extends Error {
  constructor(code: string, message: string, status?: number);
  readonly code: string;
  readonly status: number;
}

export class TurnkeepClient {
  constructor(options?: ClientOptions);
  readonly outbox: OutboxEntry[];
  send(channel: string, message: string | Part[], options?: SendOptions): Promise<SentReceipt>;
  post(channel: string, message: string | Part[], options?: Wishes & { messageId?: string }): { messageId: string; sent: Promise<SentReceipt> };
  resumeOutbox(): Promise<PromiseSettledResult<SentReceipt>[]>;
  ask(channel: string, message: string | Part[], options?: SendOptions & { onText?: (text: string) => void }): Promise<string>;
  stream(channel: string, options?: StreamOptions): AsyncGenerator<Frame, void, void>;
  subscribe(
    channel: string,
    onFrame: (frame: Frame) => void,
    options?: Omit<StreamOptions, "signal"> & { onError?: (error: unknown) => void },
  ): { close(): void };
  messages(channel: string, options?: { limit?: number }): Promise<Transcript>;
  cancel(channel: string, options?: CallOptions): Promise<{ cancelled: boolean }>;
  flush(channel: string, options?: CallOptions): Promise<{ flushed: boolean }>;
  edit(channel: string, messageId: string, message: string, options?: CallOptions): Promise<Message>;
  withdraw(channel: string, messageId: string, options?: CallOptions): Promise<Message>;
  regenerate(channel: string, options?: CallOptions): Promise<{ receipts: Receipt[] }>;
  decide(
    channel: string,
    call: Pick<HeldCall, "call_id" | "digest">,
    decision: "approved" | "denied" | "output",
    output?: string,
    options?: CallOptions,
  ): Promise<HeldCall>;
  call<Answer = unknown>(method: string, path: string, body?: unknown, options?: CallOptions): Promise<Answer>;
}

export function positionOf(frame: Pick<Frame, "epoch" | "offset">): string;
export function newId(prefix?: string): string;
export function textAfter(text: string, frame: Frame): string;
