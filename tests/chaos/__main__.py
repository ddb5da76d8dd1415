"""`python -m tests.chaos`: break real processes at random, and look whether anything is lost or doubled.

The last line are the figures; the exit code is 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import orjson

from tests.chaos.judge import Judgement
from tests.chaos.plan import ACTS, Plan
from tests.chaos.programs import StormError
from tests.chaos.storm import rage

SHOWN = 20
"""Violations that are shown one by one."""


def main(arguments: Sequence[str] | None = None) -> int:
    told = _arguments().parse_args(arguments)
    seed = secrets.randbelow(1_000_000) if told.seed is None else told.seed
    seconds = told.seconds or told.minutes * 60
    plan = Plan(
        seed,
        seconds,
        told.store,
        told.workers,
        told.gateways,
        told.clients,
        planted=told.planted,
        folder=told.keep,
        acts=tuple(told.acts.split(",")) if told.acts else ACTS,
    )
    stream = sys.stderr if told.json else sys.stdout
    _say(f"seed {seed}", stream)
    try:
        judgement = asyncio.run(rage(plan, lambda line: _say(line, stream)))
    except StormError as error:
        _say(f"the storm could not begin: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    _show(seed, judgement, as_json=told.json)
    return 1 if judgement.violations else 0


def _show(seed: int, judgement: Judgement, *, as_json: bool) -> None:
    if as_json:
        _say(orjson.dumps({"seed": seed, **asdict(judgement)}).decode())
        return
    for violation in judgement.violations[:SHOWN]:
        _say(f"violation: {violation}")
    if len(judgement.violations) > SHOWN:
        _say(f"violation: and {len(judgement.violations) - SHOWN} more")
    _say(judgement.faults)
    _say(judgement.streams)
    _say(judgement.sinks)
    _say(judgement.line)


def _say(line: str, stream: TextIO = sys.stdout) -> None:
    stream.write(line + "\n")
    stream.flush()


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="the same seed breaks the same things at the same times")
    parser.add_argument("--minutes", type=float, default=1.0, help="length of the storm (1)")
    parser.add_argument("--seconds", type=float, help="the same in seconds")
    parser.add_argument("--store", choices=("redis", "sqlite"), default="redis")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--clients", type=int, default=8, help="channels, each with two people and a listener")
    parser.add_argument("--planted", metavar="BUG", help="break the product itself, to see that it is noticed")
    parser.add_argument("--acts", metavar="ACT,ACT", help=f"break only this: {', '.join(dict.fromkeys(ACTS))}")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave logs, ledgers and data there")
    parser.add_argument("--json", action="store_true", help="figures and violations as JSON, progress on stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())
