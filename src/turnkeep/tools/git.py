"""`git_operation`: version control of the workspace, in which nothing can start a program.

The model names a verb, options from a short list, revisions and paths; there is no command line.
git runs in the sandbox and may not start another process there: hooks, filters, drivers, monitors,
submodules and repositories within the repository, whose configuration nobody looks at, all need
one. Besides, hooks are off, configuration outside the repository is not read, a repository whose
own configuration could start programs is refused by name, and no verb reaches the network.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field

from turnkeep.errors import ToolFailed
from turnkeep.tools import thread_pool
from turnkeep.tools.program import ProgramResult
from turnkeep.tools.sandbox import Sandbox, SandboxedProgram
from turnkeep.tools.tool import OUTPUT_CAP, Tool, ToolContext, tool
from turnkeep.tools.workspace import Workspace
from turnkeep.tools.workspaces import Workspaces

TIMEOUT = 30.0
LONGEST_WORD = 80
"""Characters of a refused word that come back in the refusal."""

GitVerb = Literal[
    "init", "status", "add", "commit", "diff", "log", "show", "branch", "switch", "restore", "tag", "blame",
    "ls-files", "rev-parse", "rm", "mv",
]  # fmt: skip
GIT_VERBS: tuple[str, ...] = get_args(GitVerb)

# Lists of what is allowed, not of what is not: some of git's options run programs (`--ext-diff`,
# `--upload-pack`, `grep -O`), and every release brings new ones.
_OUTPUT_OPTIONS = r"--stat|--name-only|--name-status|--numstat|--summary|-U\d+|--unified=\d+|-w|-M|-C|-p|--patch"
_RANGE_OPTIONS = (
    r"-\d+|-n\d+|--max-count=\d+|--skip=\d+|--oneline|--graph|--all|--follow|--reverse|--first-parent|--merges"
)
_FILTER_OPTIONS = r"--no-merges|--decorate|--since=[^\x00]+|--until=[^\x00]+|--author=[^\x00]+|--grep=[^\x00]+"
_OPTIONS = {
    "status": r"-s|--short|-b|--branch|--porcelain|--ignored|-uno|-unormal|-uall",
    "add": r"-A|--all|-u|--update|-N|--intent-to-add|-n|--dry-run",
    "commit": r"-a|--all|--amend|--allow-empty",
    "diff": rf"--cached|--staged|--check|--word-diff|{_OUTPUT_OPTIONS}",
    "log": rf"{_RANGE_OPTIONS}|{_FILTER_OPTIONS}|{_OUTPUT_OPTIONS}",
    "show": rf"--oneline|{_OUTPUT_OPTIONS}",
    "branch": r"-l|--list|-a|--all|-r|-v|-vv|--show-current|-d|--delete|-D|-m|--move|--merged|--no-merged",
    "switch": r"-c|--create|--detach",
    "restore": r"-S|--staged|-W|--worktree|--source=\w[\w./@^~{}-]*",
    "tag": r"-l|--list|-d|--delete|-n\d*",
    "blame": r"-L\d+,\d+|-w",
    "ls-files": r"-m|--modified|-o|--others|-c|--cached|-d|--deleted|--exclude-standard",
    "rev-parse": r"--short|--abbrev-ref|--verify",
    "rm": r"--cached|-r|-n|--dry-run",
    "mv": r"-n|--dry-run",
}
_REVISION = re.compile(r"[\w@][\w./@^~{}:+-]*")
_ALWAYS = {
    # a template would put hooks into the new repository
    "init": ["--template=", "--initial-branch=main"],
    "status": ["--ignore-submodules=all"],
    "commit": ["--no-verify", "--no-edit", "--no-gpg-sign", "--cleanup=strip"],
    "diff": ["--no-ext-diff", "--no-textconv", "--ignore-submodules=all"],
    "log": ["--no-ext-diff", "--no-textconv", "--ignore-submodules=all"],
    "show": ["--no-ext-diff", "--no-textconv", "--ignore-submodules=all"],
    "switch": ["--no-recurse-submodules"],
    "restore": ["--no-recurse-submodules"],
}
_MESSAGE_VERBS = ("commit", "tag")
_WITHOUT_PATHS = ("init", "commit", "branch", "switch", "tag", "rev-parse")

_HARMLESS = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|autocrlf|eol"
    r"|safecrlf|quotepath|abbrev|compression|sharedrepository|whitespace|commentchar|untrackedcache|preloadindex)"
    r"|(user|author|committer)\.(name|email)|init\.defaultbranch|branch\..*|remote\..*\.(url|pushurl|fetch|tagopt|prune)"
    r"|submodule\..*\.(url|active|branch)|(color|status|advice|pull|push|fetch|feature|index)\..*|extensions\.objectformat"
    r"|log\.(date|decorate|abbrevcommit|follow)|merge\.(ff|conflictstyle|renames)|commit\.(gpgsign|verbose|cleanup)"
    r"|diff\.(algorithm|renames|renamelimit|mnemonicprefix|context|noprefix|colormoved|colormovedws|indentheuristic)"
)
"""Settings of a repository that start no program and read no file elsewhere.

All others make it refused.
"""

_OVERRIDES = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.pager": "cat",
    "core.editor": "false",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.sshCommand": "false",
    "credential.helper": "",
    "protocol.allow": "never",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "log.showSignature": "false",
    "submodule.recurse": "false",
    "diff.ignoreSubmodules": "all",
    "color.ui": "false",
    # the workspace may be another user's; git's own check for that (CVE-2022-24765) is about
    # configuration that starts programs, which is looked through here
    "safe.directory": "*",
}
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
    "XDG_CONFIG_HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "false",
    "GIT_SSH_COMMAND": "false",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "false",
    "GIT_SEQUENCE_EDITOR": "false",
}


def git_tool(
    workspaces: Workspaces, sandbox: Sandbox, *, name: str = "turnkeep", email: str = "turnkeep@localhost"
) -> Tool:
    """The tool, for the workspace of whoever calls.

    `name` and `email` sign commits where the repository does not say who does.
    """
    program = shutil.which("git", path=f"{os.defpath}:/usr/local/bin") or "git"
    identity = {"user.name": name, "user.email": email}

    @tool(effect="effect", timeout=TIMEOUT + 10.0, output_cap=OUTPUT_CAP + 1024)
    async def git_operation(
        operation: GitVerb,
        context: ToolContext,
        arguments: Annotated[list[str] | None, Field(description="Options, then revisions or branch names.")] = None,
        paths: Annotated[list[str] | None, Field(description="Relative to the workspace; '.' is everything.")] = None,
        message: Annotated[str | None, Field(description="For commit, and for tag to annotate it.")] = None,
    ) -> str:
        """Use git in the workspace: status, add, commit, diff, log and more. Nothing reaches the network."""
        words = command_words(operation, arguments or [], paths or [], message=message)
        workspace = await thread_pool.shared_threads.run(lambda: workspaces.of(context.tenant))
        return await Repository(workspace, sandbox, program=program, identity=identity).run(operation, words)

    return git_operation


def command_words(operation: str, arguments: list[str], paths: list[str], *, message: str | None) -> list[str]:
    """The words after ``git``. Everything that is not on the lists is refused with a sentence."""
    options = [_option(operation, word) for word in arguments if word.startswith("-")]
    revisions = [_revision(word) for word in arguments if not word.startswith("-")]
    words = [operation, *_ALWAYS.get(operation, []), *options]
    if message is not None:
        if operation not in _MESSAGE_VERBS or "\0" in message:
            raise ToolFailed(f"{operation} takes no message")
        words += ["-a"] if operation == "tag" else []
        words += [f"--message={message}"]
    elif operation == "commit" and "--amend" not in options:
        raise ToolFailed("commit needs a message")
    if paths and operation in _WITHOUT_PATHS:
        raise ToolFailed(f"{operation} takes no paths")
    if operation in _WITHOUT_PATHS:
        return [*words, *revisions]
    return [*words, *revisions, "--", *[_path(path) for path in paths]]


def _option(operation: str, word: str) -> str:
    if re.fullmatch(_OPTIONS.get(operation, "(?!)"), word) is None:
        raise ToolFailed(f"{operation} does not take {word[:LONGEST_WORD]!r} here; allowed: {_option_words(operation)}")
    return word


def _option_words(operation: str) -> str:
    """The options of a verb as words."""
    words = _OPTIONS.get(operation, "none")
    for pattern, word in ((r"[^\x00]+", "TEXT"), (r"\w[\w./@^~{}-]*", "REVISION"), (r"\d+", "N"), (r"\d*", "N")):
        words = words.replace(pattern, word)
    return words.replace("|", " ")


def _revision(word: str) -> str:
    if not _REVISION.fullmatch(word):
        raise ToolFailed(
            f"{word[:LONGEST_WORD]!r} is no revision or name; paths belong into `paths`, a message into `message`"
        )
    return word


def _path(path: str) -> str:
    parts = path.split("/")
    if not path or path.startswith(("/", "~", "-")) or ".." in parts or "\0" in path:
        raise ToolFailed(f"{path[:LONGEST_WORD]!r} is no path beneath the workspace")
    # also `.GIT`: on a file system without case it is the same directory
    if any(part.lower() == ".git" for part in parts):
        raise ToolFailed(f"{path[:LONGEST_WORD]!r} is inside the repository's own directory")
    return path


class Repository:
    """The repository of a workspace: ``.git`` directly beneath the root and nothing else."""

    def __init__(self, workspace: Workspace, sandbox: Sandbox, *, program: str, identity: Mapping[str, str]) -> None:
        self._workspace = workspace
        self._sandbox = sandbox
        self._program = program
        self._identity = identity

    async def run(self, operation: str, words: list[str]) -> str:
        """What git says.

        A repository that is no plain directory, or could start programs, is refused.
        """
        if operation != "init" and not await thread_pool.shared_threads.run(self._exists):
            raise ToolFailed("there is no repository in the workspace; use init first")
        settings = await self._settings() if operation != "init" else set()
        overrides = _OVERRIDES | {key: value for key, value in self._identity.items() if key not in settings}
        config = [word for key, value in overrides.items() for word in ("-c", f"{key}={value}")]
        result = await self._execute([*config, *words])
        return result.text_for_model(TIMEOUT) or "done, git said nothing"

    def _exists(self) -> bool:
        with self._workspace.hold_directory(".git") as directory:
            return directory is not None

    async def _settings(self) -> set[str]:
        """The names that the repository's configuration sets, all of them harmless."""
        # --no-includes: an include shows as its own name, which is not among the harmless ones
        listing = await self._execute(["config", "--local", "--list", "--name-only", "--no-includes", "-z"])
        if listing.exit_code != 0:
            raise ToolFailed("the configuration of the repository cannot be read")
        names = {name for name in listing.output.split("\0") if name}
        harmful = sorted(name for name in names if not _HARMLESS.fullmatch(name))
        if harmful:
            raise ToolFailed(
                f"the repository sets {', '.join(harmful)[:200]}, which could start programs or read other files;"
                " remove it from .git/config"
            )
        return names

    async def _execute(self, words: list[str]) -> ProgramResult:
        root = self._sandbox.inside(self._workspace.root)
        # named, so that git looks for no repository above the workspace and follows no `.git`
        # file elsewhere
        own = {"GIT_DIR": f"{root}/.git", "GIT_COMMON_DIR": f"{root}/.git", "GIT_WORK_TREE": root}
        return await self._sandbox.run(
            SandboxedProgram(
                words=[self._program, *words],
                workspace=self._workspace.root,
                timeout=TIMEOUT,
                output_cap=OUTPUT_CAP,
                environment={**_ENVIRONMENT, **own, "GIT_CEILING_DIRECTORIES": os.path.dirname(root)},
                # the configuration of nested repositories and submodules is seen by nobody
                # beforehand, and its filters were run by `add`: so nothing may start at all
                programs=False,
                watch=self._workspace.quota.wait_exceeded,
            )
        )
