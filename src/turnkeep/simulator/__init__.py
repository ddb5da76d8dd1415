"""An OpenAI-compatible server for development and tests; its model is made of rules.

async with serve(Simulator(seed=7)) as url:
    client = AsyncOpenAI(base_url=url, api_key="any")
"""

from __future__ import annotations

from turnkeep.simulator.api import Simulator
from turnkeep.simulator.exchanges import Exchange, ExchangeLedger
from turnkeep.simulator.faults import Fault, Faults
from turnkeep.simulator.listener import inside, run, serve
from turnkeep.simulator.options import Options, StreamPace
from turnkeep.simulator.persona import AnswerPlan, AnswerScript, CallStep, Refuse, Say, Think
from turnkeep.simulator.prompt import Prompt
from turnkeep.simulator.quirks import QUIRKS

__all__ = [
    "QUIRKS",
    "AnswerPlan",
    "AnswerScript",
    "CallStep",
    "Exchange",
    "ExchangeLedger",
    "Fault",
    "Faults",
    "Options",
    "Prompt",
    "Refuse",
    "Say",
    "Simulator",
    "StreamPace",
    "Think",
    "inside",
    "run",
    "serve",
]
