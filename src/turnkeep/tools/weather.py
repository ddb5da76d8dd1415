"""`get_weather`: the weather now, from OpenWeather or a server that speaks like it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import aiohttp
from pydantic import Field

from turnkeep.errors import ToolFailed
from turnkeep.tools.http_request import answer_of
from turnkeep.tools.tool import Tool, tool

ENDPOINT = "https://api.openweathermap.org/data/2.5/weather"
TIMEOUT = 10.0
ANSWER_CAP = 256 * 1024


def weather_tool(key: str, endpoint: str = ENDPOINT) -> Tool:
    """The tool for one API key. The key goes to `endpoint` only and into no message."""

    @tool(effect="pure", timeout=TIMEOUT + 2.0)
    async def get_weather(
        city: Annotated[str, Field(description="Name of the city, such as 'Makati'.")],
        country: Annotated[str | None, Field(description="Two-letter country code, such as 'PH'.")] = None,
    ) -> dict[str, Any]:
        """The current weather of a city: temperature in °C, wind in m/s, humidity and a few words."""
        place = f"{city.strip()},{country.strip()}" if country and country.strip() else city.strip()
        if not city.strip() or len(place) > 200:
            raise ToolFailed("the name of the city is empty or too long")
        status, answer = await _request(endpoint, {"q": place, "units": "metric", "appid": key})
        if status != 200:
            raise ToolFailed(_refusal(status, place))
        return _summary(answer)

    return get_weather


async def _request(endpoint: str, query: Mapping[str, str]) -> tuple[int, Any]:
    """Status and JSON. No failure names the address: the query holds the key."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(endpoint, params=query, allow_redirects=False) as response,
        ):
            body = await answer_of(response, ANSWER_CAP)
            return response.status, json.loads(body) if response.status == 200 else None
    except TimeoutError:
        raise ToolFailed(f"the weather service gave no answer within {TIMEOUT:g} seconds") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ToolFailed(f"the weather service gave no usable answer ({type(error).__name__})") from None


def _refusal(status: int, place: str) -> str:
    if status == 404:
        return f"the weather service knows no city {place!r}"
    if status == 401:
        return "the weather service refuses the API key"
    if status == 429:
        return "the weather service asks to wait: too many requests"
    return f"the weather service answered with status {status}"


def _summary(answer: Any) -> dict[str, Any]:
    """What a person wants to know of the answer; fields that it does not have are null."""
    if not isinstance(answer, dict):
        raise ToolFailed("the weather service gave no usable answer")
    main, wind, place = (_part(answer, name) for name in ("main", "wind", "sys"))
    words = answer.get("weather")
    descriptions = [one.get("description") for one in words if isinstance(one, dict)] if isinstance(words, list) else []
    timestamp = answer.get("dt")
    return {
        "city": answer.get("name"),
        "country": place.get("country"),
        "description": ", ".join(str(text) for text in descriptions if text) or None,
        "temperature": main.get("temp"),
        "feels_like": main.get("feels_like"),
        "humidity": main.get("humidity"),
        "pressure": main.get("pressure"),
        "wind_speed": wind.get("speed"),
        "units": "°C, m/s, %, hPa",
        "observed_at": datetime.fromtimestamp(timestamp, UTC).isoformat() if isinstance(timestamp, int) else None,
    }


def _part(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = answer.get(name)
    return part if isinstance(part, dict) else {}
