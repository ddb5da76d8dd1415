"""An OpenAI-compatible server for development and tests; its model is made of rules.

async with serve(Simulator(seed=7)) as url:
    client = AsyncOpenAI(base_url=url, api_key="any")
"""

from __future__ import annotations

from turnkeep.simulator.app import Simulator
from turnkeep.simulator.faults import Fault, Faults
from turnkeep.simulator.ledger import Exchange, Ledger
from turnkeep.simulator.options import Options, Pace
from turnkeep.simulator.persona import Call, Plan, Refuse, Say, Script, Think
from turnkeep.simulator.prompt import Prompt
from turnkeep.simulator.quirks import QUIRKS
from turnkeep.simulator.server import inside, run, serve

__all__ = [
    "QUIRKS",
    "Call",
    "Exchange",
    "Fault",
    "Faults",
    "Ledger",
    "Options",
    "Pace",
    "Plan",
    "Prompt",
    "Refuse",
    "Say",
    "Script",
    "Simulator",
    "Think",
    "inside",
    "run",
    "serve",
]
