"""RabbitMQ as a way in: the consumer, and the queue of what it could not take."""
