"""A chat of Chainlit: each token of the model is shown as it comes. BENCH_MODEL says where the model is."""

import os

import chainlit
import openai

CLIENT = openai.AsyncOpenAI(api_key="sk-bench", base_url=os.environ["BENCH_MODEL"])


@chainlit.on_message
async def answer(message: chainlit.Message) -> None:
    said = chainlit.Message(content="")
    stream = await CLIENT.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": message.content}], stream=True
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            await said.stream_token(chunk.choices[0].delta.content)
    await said.update()
