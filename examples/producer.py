"""Send a message through RabbitMQ: `python examples/producer.py CHANNEL TEXT`.

Nothing of turnkeep is imported: any AMQP client in any language does the same. The broker confirms, so when this ends
without an error the message is kept. Sending it again with the same `message_id` changes nothing.
"""

import asyncio
import json
import os
import sys
import uuid

import aio_pika

URL = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost:5672/")
EXCHANGE = os.environ.get("EXCHANGE_NAME", "cosmo_exchange")
ROUTING_KEY = os.environ.get("ROUTING_KEY", "cosmo_key")


async def send(channel: str, text: str) -> str:
    """Publish one message and wait for the broker's confirm. Returns its id."""
    message_id = f"msg-{uuid.uuid4()}"
    body = {"channel": channel, "message_id": message_id, "message": text}
    connection = await aio_pika.connect(URL)
    async with connection:
        publishing = await connection.channel(on_return_raises=True)
        exchange = await publishing.get_exchange(EXCHANGE)
        message = aio_pika.Message(
            json.dumps(body).encode(),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await exchange.publish(message, ROUTING_KEY, mandatory=True)
    return message_id


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: producer.py CHANNEL TEXT")
    print(asyncio.run(send(sys.argv[1], sys.argv[2])))
