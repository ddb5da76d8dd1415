"use node";
// A Convex action that hands a user's message to RabbitMQ. The conversation's document id is the channel: no mapping to
// keep. Schedule it from the mutation that stores the message, and a failed action can be run again as it is: the
// document id of the message is its `message_id`, so a repeat changes nothing.
//
// Variables of the deployment: RABBITMQ_URL, EXCHANGE_NAME, ROUTING_KEY.

import { connect } from "amqplib";
import { internalActionGeneric } from "convex/server";
import { v } from "convex/values";

export interface Input {
  channel: string;
  message_id: string;
  message: string;
}

/** Publish one message and wait for the broker's confirm. */
export async function sendToRabbitMQ(input: Input): Promise<void> {
  const connection = await connect(process.env.RABBITMQ_URL ?? "amqp://guest:guest@localhost:5672/");
  try {
    const channel = await connection.createConfirmChannel();
    channel.publish(
      process.env.EXCHANGE_NAME ?? "cosmo_exchange",
      process.env.ROUTING_KEY ?? "cosmo_key",
      Buffer.from(JSON.stringify(input)),
      { persistent: true, contentType: "application/json" },
    );
    await channel.waitForConfirms();
  } finally {
    await connection.close();
  }
}

export const sendMessage = internalActionGeneric({
  args: { conversationId: v.string(), messageId: v.string(), text: v.string() },
  returns: v.null(),
  handler: async (_context, { conversationId, messageId, text }) => {
    await sendToRabbitMQ({ channel: conversationId, message_id: messageId, message: text });
    return null;
  },
});
