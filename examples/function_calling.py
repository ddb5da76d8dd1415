"""Function calling: `python examples/function_calling.py "What is the weather in Manila?"`.

`get_weather` is a tool: a function with types and a docstring. What no tool is there for comes to
`handle_requires_action`, in the form of the Assistants API; it may also return None and let a person answer later with
`submit_tool_outputs`.
"""

import asyncio
import json
import sys
from typing import Any

from turnkeep import AssistantMessageQueue, tool

WEATHER = {"Manila": 31, "Baguio": 19}


@tool(effect="pure")
def get_weather(location: str) -> dict[str, Any]:
    """The temperature in a city, in degrees Celsius.

    Args:
        location: the city, in English
    """
    return {"location": location, "celsius": WEATHER.get(location)}


async def handle_requires_action(thread_id: str, run_id: str, tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    outputs = []
    for call in tool_calls:
        arguments = json.loads(call["function"]["arguments"])
        result = {"error": f"there is no {call['function']['name']}", "given": arguments}
        outputs.append({"tool_call_id": call["id"], "output": json.dumps(result)})
    return outputs


async def main(text: str) -> None:
    queue = AssistantMessageQueue(tools=[get_weather], handle_requires_action=handle_requires_action)
    queue.start_worker()
    async with queue:
        print(await queue.ask("weather", text))


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is the weather in Manila?"))
