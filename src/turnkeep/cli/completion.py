"""`turnkeep completion`: a script for the shell, and what it asks at each press of the tab key.

typer's own completion takes a program for one command tree; here each verb is a tree of its own,
imported when it is asked for. So the script hands over the words, and one verb at most is imported
to answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main

from turnkeep.cli import ENV_FILE, FLAGS, VERBS, output
from turnkeep.cli.arguments import JsonOption

app = typer.Typer(add_completion=False, no_args_is_help=True)


# Where there is nothing of ours to offer, each falls back to files: many options take one.
SCRIPTS = {
    "bash": """\
# turnkeep completion bash > ~/.local/share/bash-completion/completions/turnkeep
_turnkeep() {
    local IFS=$'\\n'
    COMPREPLY=($(turnkeep completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _turnkeep turnkeep
""",
    "zsh": """\
#compdef turnkeep
# turnkeep completion zsh > "${fpath[1]}/_turnkeep"
_turnkeep() {
    local -a found
    found=("${(@f)$(turnkeep completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[*]}" ]]; then compadd -- $found; else _files; fi
}
if [ "$funcstack[1]" = "_turnkeep" ]; then _turnkeep "$@"; else compdef _turnkeep turnkeep; fi
""",
    "fish": """\
# turnkeep completion fish > ~/.config/fish/completions/turnkeep.fish
complete -c turnkeep -a '(turnkeep completion words -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
""",
}


@app.command()
def bash(*, as_json: JsonOption = False) -> None:
    """Print what teaches bash; its first line says where to put it."""
    _print("bash", as_json=as_json)


@app.command()
def zsh(*, as_json: JsonOption = False) -> None:
    """Print what teaches zsh; its second line says where to put it."""
    _print("zsh", as_json=as_json)


@app.command()
def fish(*, as_json: JsonOption = False) -> None:
    """Print what teaches fish; its first line says where to put it."""
    _print("fish", as_json=as_json)


def _print(shell: str, *, as_json: bool) -> None:
    output.emit({"shell": shell, "script": SCRIPTS[shell]}) if as_json else print(SCRIPTS[shell], end="")


@app.command()
def words(
    line: Annotated[list[str] | None, typer.Argument(metavar="[WORD]…", help="Words typed; the last is begun.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Print what may follow, one a line: what the script of a shell asks for."""
    candidates = complete(line or [""])
    output.emit(candidates) if as_json else print("\n".join(candidates))


def complete(line: Sequence[str]) -> list[str]:
    """What the last word, which may be empty, can become."""
    *before, prefix = line
    if before[-1:] == [ENV_FILE]:
        return []
    path = _without_file(before)
    candidates = _of_verb(path, prefix) if path else [*VERBS, *FLAGS, ENV_FILE, "--help", "--version"]
    return [candidate for candidate in candidates if candidate.startswith(prefix)]


def _without_file(before: Sequence[str]) -> list[str]:
    words = iter(before)
    return [word for word in words if not (word == ENV_FILE and (next(words, None) or True))]


def _of_verb(path: Sequence[str], prefix: str) -> list[str]:
    if path[0] not in VERBS:
        return []
    command: Any = typer.main.get_command(import_module(VERBS[path[0]].module).app)
    option: Any = None
    for word in path[1:]:
        children = getattr(command, "commands", {})
        if word in children:
            command, option = children[word], None
        else:
            option = next((one for one in command.params if word in one.opts and not one.is_flag), None)
    if option is not None:  # its value is the user's own, and may be a file
        return []
    return [*_below(command, prefix), ENV_FILE] if prefix.startswith("-") else list(_below(command, prefix))


def _below(command: Any, prefix: str) -> Iterator[str]:
    yield from getattr(command, "commands", {})
    if prefix.startswith("-"):
        yield from (name for one in command.params if one.param_type_name == "option" for name in one.opts)
        yield "--help"
