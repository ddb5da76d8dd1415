// A NestJS provider: one socket to turnkeep for the whole application, reopened when it is lost, resumed without holes.

import { Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from "@nestjs/common";
import { Observable, Subject } from "rxjs";

export interface Frame {
  type: "status" | "response" | "error";
  status: string;
  message: string;
  channel?: string;
  message_id?: string | null;
  message_ids?: string[];
  final_message?: boolean;
  offset?: number;
  epoch?: string;
  more?: boolean;
}

export interface Receipt {
  channel: string;
  message_id: string;
  thread_id: string;
  status: "accepted" | "delayed";
}

interface Position {
  offset: number;
  epoch: string;
}

@Injectable()
export class AssistantService implements OnModuleInit, OnModuleDestroy {
  private readonly logger = new Logger(AssistantService.name);
  private readonly base = process.env.TURNKEEP_URL ?? "http://127.0.0.1:8080";
  private readonly channels = new Map<string, Subject<Frame>>();
  private readonly positions = new Map<string, Position>();
  private socket: WebSocket | undefined;
  private closing = false;

  onModuleInit(): void {
    this.connect();
  }

  onModuleDestroy(): void {
    this.closing = true;
    this.socket?.close();
  }

  /** Durable when this resolves. Safe to repeat with the same id. */
  async send(channel: string, text: string, messageId: string = crypto.randomUUID()): Promise<Receipt> {
    const answer = await fetch(`${this.base}/api/channels/${encodeURIComponent(channel)}/messages`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ message: text, message_id: messageId }),
    });
    if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
    return (await answer.json()) as Receipt;
  }

  /** Every frame of a channel, for as long as anybody listens. */
  frames(channel: string): Observable<Frame> {
    let subject = this.channels.get(channel);
    if (!subject) {
      subject = new Subject<Frame>();
      this.channels.set(channel, subject);
      this.subscribe(channel);
    }
    return subject.asObservable();
  }

  private connect(): void {
    this.socket = new WebSocket(`${this.base.replace(/^http/, "ws")}/ws`);
    this.socket.onopen = () => this.channels.forEach((_, channel) => this.subscribe(channel));
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(String(data)) as Frame);
    this.socket.onclose = () => {
      if (this.closing) return;
      this.logger.warn("the socket is lost, opening another one");
      setTimeout(() => this.connect(), 500 + Math.random() * 1000);
    };
  }

  private subscribe(channel: string): void {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    this.socket.send(JSON.stringify({ action: "subscribe", channel, ...this.positions.get(channel) }));
  }

  private take(frame: Frame): void {
    if (frame.channel === undefined) return;
    if (frame.offset !== undefined && frame.epoch !== undefined && !frame.more) {
      this.positions.set(frame.channel, { offset: frame.offset, epoch: frame.epoch });
    }
    this.channels.get(frame.channel)?.next(frame);
  }
}
