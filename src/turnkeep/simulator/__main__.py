"""`python -m turnkeep.simulator`: the simulator in a process of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from turnkeep.simulator.listener import DEV_LEDGER, new_key, run
from turnkeep.simulator.options import Options, StreamPace
from turnkeep.simulator.quirks import QUIRKS


def main() -> None:
    arguments = _arguments().parse_args()
    options = Options(
        quirk=arguments.quirk,
        ledger_file=arguments.ledger,
        ledger_limit=None if arguments.unbounded else DEV_LEDGER,
        split=arguments.split,
        ping=arguments.ping,
    )
    pace = StreamPace(arguments.first / 1000, arguments.token / 1000)
    run(arguments.host, arguments.port, seed=arguments.seed, pace=pace, options=options, key=arguments.key or new_key())


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m turnkeep.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0 takes any free port")
    parser.add_argument("--key", help="what has to be shown as a bearer; else one is made and said")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=float, default=150.0, help="milliseconds before the first token")
    parser.add_argument("--token", type=float, default=20.0, help="milliseconds between tokens")
    parser.add_argument("--quirk", choices=sorted(QUIRKS), default="openai")
    parser.add_argument("--ledger", type=Path, help="append what was asked to this JSONL file")
    parser.add_argument("--unbounded", action="store_true", help="keep every exchange in memory")
    parser.add_argument("--split", action="store_true", help="cut streams at arbitrary bytes")
    parser.add_argument("--ping", type=float, help="seconds between comment lines while waiting")
    return parser


if __name__ == "__main__":
    main()
