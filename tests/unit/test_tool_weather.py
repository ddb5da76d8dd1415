"""The weather tool against a server that answers as OpenWeather documents it."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from turnkeep.clock import SystemClock
from turnkeep.tools import ToolContext
from turnkeep.tools.execution import Result, ToolRequest, call
from turnkeep.tools.weather import weather_tool

KEY = "0123456789abcdef0123456789abcdef"

DOCUMENTED: dict[str, Any] = {
    "coord": {"lon": 121.0445, "lat": 14.5547},
    "weather": [{"id": 501, "main": "Rain", "description": "moderate rain", "icon": "10d"}],
    "base": "stations",
    "main": {
        "temp": 28.48,
        "feels_like": 32.74,
        "temp_min": 27.56,
        "temp_max": 30.05,
        "pressure": 1015,
        "humidity": 74,
        "sea_level": 1015,
        "grnd_level": 1003,
    },
    "visibility": 10000,
    "wind": {"speed": 3.62, "deg": 349, "gust": 5.18},
    "rain": {"1h": 3.16},
    "clouds": {"all": 100},
    "dt": 1661870592,
    "sys": {"type": 2, "id": 2075663, "country": "PH", "sunrise": 1661834187, "sunset": 1661882248},
    "timezone": 28800,
    "id": 1703417,
    "name": "Makati City",
    "cod": 200,
}


@dataclass
class Station:
    """A local server in the place of OpenWeather's."""

    url: str = ""
    status: int = 200
    body: str = field(default_factory=lambda: json.dumps(DOCUMENTED))
    asked: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        return web.Response(status=self.status, text=self.body, content_type="application/json")


@pytest.fixture
async def station() -> AsyncIterator[Station]:
    served = Station()
    app = web.Application()
    app.router.add_get("/data/2.5/weather", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/data/2.5/weather"
    yield served
    await runner.cleanup()


async def ask(station: Station, **arguments: Any) -> Result:
    made = weather_tool(KEY, station.url)
    return await call(made, ToolRequest("call_1", made.name, json.dumps(arguments)), ToolContext(), clock=SystemClock())


async def test_the_weather_of_a_city_in_a_country(station: Station) -> None:
    result = await ask(station, city="Makati", country="PH")

    assert station.asked == [{"q": "Makati,PH", "units": "metric", "appid": KEY}]
    assert json.loads(result.output) == {
        "city": "Makati City",
        "country": "PH",
        "description": "moderate rain",
        "temperature": 28.48,
        "feels_like": 32.74,
        "humidity": 74,
        "pressure": 1015,
        "wind_speed": 3.62,
        "units": "°C, m/s, %, hPa",
        "observed_at": "2022-08-30T14:43:12+00:00",
    }


async def test_the_country_may_be_left_out(station: Station) -> None:
    await ask(station, city=" Makati ", country=None)

    assert station.asked[0]["q"] == "Makati"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, '{"cod":"404","message":"city not found"}', "knows no city 'Makati'"),
        (401, '{"cod":401, "message": "Invalid API key."}', "refuses the API key"),
        (429, '{"cod":429}', "too many requests"),
        (500, "oops", "status 500"),
        (302, "", "status 302"),
        (200, "no JSON", "no usable answer"),
        (200, "[]", "no usable answer"),
        (200, "x" * 300_000, "longer than"),
    ],
)
async def test_failures_are_told_without_the_key(status: int, body: str, words: str, station: Station) -> None:
    station.status, station.body = status, body

    result = await ask(station, city="Makati")

    assert result.status == "error"
    assert words in result.output
    assert KEY not in result.output


@pytest.mark.parametrize("body", ["{}", '{"main": 3, "weather": [1], "dt": "x"}', '{"weather": "rain", "sys": []}'])
async def test_an_answer_with_less_in_it_is_told_with_nulls(body: str, station: Station) -> None:
    station.body = body

    told = json.loads((await ask(station, city="Makati")).output)

    assert told["temperature"] is None
    assert told["description"] is None


async def test_a_service_that_is_not_there_is_told(station: Station) -> None:
    station.url = "http://127.0.0.1:1/"

    assert "no usable answer (ClientConnectorError)" in (await ask(station, city="Makati")).output


async def test_a_city_needs_a_name(station: Station) -> None:
    assert "empty or too long" in (await ask(station, city="  ")).output
    assert station.asked == []
