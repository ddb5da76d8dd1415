"""The command line: a table of verbs, a file for each, imported when its verb is asked for.

Exit codes: 0 done, 1 it failed, 2 it was called or set up wrongly, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from turnkeep.cli.exit_codes import FAILED, INTERRUPTED, WRONG
from turnkeep.lean_dataclass import dataclass

WITHOUT_VERB = "serve"
ENV_FILE = "--env-file"


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb lives, and its line in the overview."""

    module: str
    summary: str


VERBS = {
    "dev": Verb("turnkeep.cli.dev", "everything in one process, for trying out: page, socket, API, worker"),
    "serve": Verb("turnkeep.cli.serve", "the service, or its gateway or worker alone"),
    "worker": Verb("turnkeep.cli.worker", "a worker alone, for any queues"),
    "send": Verb("turnkeep.cli.send", "send a message, stream the answer, end when it is complete"),
    "threads": Verb("turnkeep.cli.threads", "conversations: new, list, show, stats, export, forget, clear"),
    "assistants": Verb("turnkeep.cli.assistants", "who answers: create, import, list, show, use, update, delete"),
    "queue": Verb("turnkeep.cli.queue", "how much waits; dead letters; pause and resume a channel"),
    "top": Verb("turnkeep.cli.top", "watch the fleet, what waits, the last hour and the newest threads"),
    "workers": Verb("turnkeep.cli.workers", "the processes that run with this store"),
    "sinks": Verb("turnkeep.cli.sinks", "deliveries to the outside: list, parked, redrive, discard"),
    "tools": Verb("turnkeep.cli.tools", "tools of MCP servers: what they look like, accept a change"),
    "actions": Verb("turnkeep.cli.actions", "tool calls that wait: list, approve, deny, submit"),
    "keys": Verb("turnkeep.cli.keys", "API keys: create, list, revoke"),
    "audit": Verb("turnkeep.cli.audit", "who came in or did not, who decided, changed or deleted what"),
    "trace": Verb("turnkeep.cli.trace", "the life of one message"),
    "doctor": Verb("turnkeep.cli.doctor", "check settings, store, model and sandbox"),
    "simulate": Verb("turnkeep.cli.simulate", "an OpenAI-compatible server whose model is made of rules"),
    "demo": Verb("turnkeep.cli.demo", "watch bursts of messages become turns"),
    "backup": Verb("turnkeep.cli.backup", "copy the store to a file while it runs"),
    "vacuum": Verb("turnkeep.cli.vacuum", "write the store anew, without what was deleted"),
    "repartition": Verb("turnkeep.cli.repartition", "copy a Redis store into another number of partitions"),
    "restore": Verb("turnkeep.cli.restore", "put a backup in the place of the store"),
    "completion": Verb("turnkeep.cli.completion", "words for the tab key of bash, zsh and fish"),
}


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag in place of a verb: it takes so many operands, each put into `form`."""

    verb: str
    words: tuple[str, ...]
    takes: int = 0
    form: str = "{}"

    def translate(self, operands: Sequence[str], rest: Sequence[str]) -> list[str]:
        """The same, said with the verb. What follows ``--`` is never taken for an option."""
        if self.form == "{}":
            return [*self.words, *rest, *(("--", *operands) if operands else ())]
        return [*self.words, *(self.form.format(operand) for operand in operands), *rest]


FLAGS = {
    "--test-message": Flag("send", ("--as-test",), takes=2),
    "--generate-uuid": Flag("threads", ("new",)),
    "--generate-thread": Flag("threads", ("new", "--by-id")),
    "--show-thread-stats": Flag("threads", ("stats",)),
    "--clear-all-threads": Flag("threads", ("clear",)),
    "--clear-old-threads": Flag("threads", ("clear",), takes=1, form="--older-than={}d"),
    "--create-assistant": Flag("assistants", ("create",)),
    "--delete-assistant": Flag("assistants", ("delete",), takes=1),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    try:
        code = _main(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has seen enough; nothing more is written, at the end of the process neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _main(arguments: list[str]) -> int:
    if arguments[:1] in (["--help"], ["-h"]) or arguments == ["help"]:
        print(overview())
        return 0
    if arguments[:1] == ["--version"]:
        print(f"turnkeep {version()}")
        return 0
    file, arguments = named_file(arguments)
    verb, rest = choose_verb(arguments)
    if verb not in VERBS:
        print(f"turnkeep: {_no_such_verb(verb)}", file=sys.stderr)
        return WRONG
    if file is not None:
        from pathlib import Path

        from turnkeep.cli.context import env_file

        env_file.set(Path(file))
    return _run(verb, rest)


def named_file(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The file of settings that is named, anywhere before ``--``; and the other words."""
    file: str | None = None
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return file, [*rest, word, *words]
        name, equals, value = word.partition("=")
        if name == ENV_FILE:
            file = value if equals else next(words, "")
        else:
            rest.append(word)
    return file, rest


def choose_verb(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The verb that was asked for, and its own arguments."""
    if arguments and arguments[0] == "help":
        return arguments[1], ["--help"]
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], list(arguments[1:])
    for index, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if flag := FLAGS.get(name):
            after = [value, *arguments[index + 1 :]] if equals else list(arguments[index + 1 :])
            return flag.verb, flag.translate(after[: flag.takes], [*arguments[:index], *after[flag.takes :]])
    return WITHOUT_VERB, list(arguments)


def _run(verb: str, rest: list[str]) -> int:
    from importlib.util import find_spec

    if missing := [name for name in ("typer", "rich") if find_spec(name) is None]:
        print(f"turnkeep: {missing[0]} is not installed: pip install 'turnkeep[server]'", file=sys.stderr)
        return WRONG
    # here and not above: without typer and rich the overview and the version come at once
    from turnkeep.cli import output

    try:
        import typer.main

        command = output.hide_types_of_flags(typer.main.get_command(import_module(VERBS[verb].module).app))
        code = command(args=rest, prog_name=f"turnkeep {verb}", standalone_mode=False)
    except Exception as error:
        return output.report_failure(f"turnkeep {verb}", error, as_json="--json" in rest)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def version() -> str:
    from importlib import metadata

    return metadata.version("turnkeep")


def _no_such_verb(verb: str) -> str:
    import difflib

    close = difflib.get_close_matches(verb, VERBS, 1)
    hint = f", did you mean {close[0]!r}?" if close else ","
    return f"there is no command {verb!r}{hint} `turnkeep --help` lists them all"


def overview() -> str:
    """What `turnkeep --help` says."""
    verbs = "\n".join(f"  {name:<12}{verb.summary}" for name, verb in VERBS.items())
    flags = "\n".join(f"  {name:<22}= turnkeep {_spelling(flag)}" for name, flag in FLAGS.items())
    return f"""\
turnkeep keeps the turns of a conversation: bursts of messages become one streamed answer, and nothing is lost.

turnkeep                    start the service
turnkeep COMMAND --help     what a command takes; --json is for machines, everywhere
--env-file FILE             settings of a file that is yours; .env is read without, but runs no code

{verbs}

The same as flags:

{flags}

exit codes: 0 done, 1 it failed, 2 it was called or set up wrongly, 130 interrupted"""


def _spelling(flag: Flag) -> str:
    operands = {"send": "CHANNEL TEXT", "assistants": "ID"}.get(flag.verb, "N") if flag.takes else ""
    text = flag.form.format(operands) if flag.form != "{}" else operands
    return " ".join(word for word in (flag.verb, *flag.words, text) if word)
