"""Tools in the hands of whoever talks to the model: files, shell, git, queries, requests, and other tenants' tools.

The simulator calls what it is told to, which is what a persuaded model does. `tests/scenario/test_tools_escape.py`
tries the sandbox itself, seven hundred times.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.attack.conftest import Tried
from tests.attack.target import Attempt, Target
from tests.process.served import served
from tests.scenario.tools_escape_ground import beyond_0777
from turnkeep.errors import TurnkeepError
from turnkeep.messages import OutputItem
from turnkeep.tools.addresses import may_reach
from turnkeep.tools.builtin import builtin_tools
from turnkeep.tools.sql import Database, query_statement
from turnkeep.tools.workspaces import Workspaces

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workspace tools are for Linux"),
    pytest.mark.usefixtures("bubblewrap"),
]

SECRET = f"SECRET-{secrets.token_hex(8)}"


@asynccontextmanager
async def armed(folder: Path) -> AsyncIterator[Target]:
    """A service with every built-in tool. Outside its workspaces lies a secret; in the one of tenant `ta` another."""
    for name in ("workspace", "tenants", "outside"):
        (folder / name).mkdir()
    (folder / "outside/secret.txt").write_text(SECRET)
    (folder / "outside/secret.txt").chmod(0o666)
    os.environ["TURNKEEP_CANARY_OF_TOOLS"] = SECRET
    workspaces = Workspaces(folder / "workspace", folder / "tenants")
    (folder / "workspace/link").symlink_to(folder / "outside/secret.txt")
    (folder / "workspace/up").symlink_to("..")
    workspaces.of("ta").write("secret.txt", SECRET.encode())
    allowed = {"ta": ["*"], "tb": ["read_file", "execute_bash"]}
    try:
        async with served(tools=builtin_tools(workspaces=workspaces, bash=True), tenant_tools=allowed) as server:
            yield Target(server)
    finally:
        del os.environ["TURNKEEP_CANARY_OF_TOOLS"]


async def output_of(target: Target, tool: str, arguments: dict[str, Any], *, tenant: str = "default") -> str:
    """What the model was told of a call that somebody talked it into."""
    queue, channel = target.server.queue, f"c-{secrets.token_hex(6)}"
    await queue.ask(channel, f"[[call:{tool} {json.dumps(arguments)}]]", tenant=tenant, timeout=60)
    entries = (await queue.store.history(queue.address(channel, tenant))).entries
    outputs = [entry.item.output for entry in entries if isinstance(entry.item, OutputItem)]
    assert outputs, "the call was not made"
    return outputs[0]


def called(kind: str, name: str, tool: str, tenant: str = "default", **arguments: Any) -> Attempt:
    async def act(target: Target) -> str | None:
        told = await output_of(target, tool, arguments, tenant=tenant)
        return f"told {told[:200]!r}" if SECRET in told or "root:x:" in told else None

    return Attempt(kind, name, act)


# ---------------------------------------------------------------- files, shell, git


def at_files(folder: Path) -> Iterator[Attempt]:
    outside = folder / "outside/secret.txt"
    paths = (
        "../outside/secret.txt", "up/outside/secret.txt", "link", f"{outside}", f"/{outside}",
        "./../outside/secret.txt", "a/../../outside/secret.txt", "up/../outside/secret.txt", "/proc/self/environ",
        "/proc/self/cwd/../link",
        "..\\outside\\secret.txt", "%2e%2e/outside/secret.txt", "~/secret.txt", ".git/config",
        "../tenants/ta/secret.txt", "up/tenants/ta/secret.txt", "\u2025/outside/secret.txt", "/dev/fd/0",
        "/etc/passwd", "link/",
    )  # fmt: skip
    for path in paths:
        yield called("files", f"read {path}", "read_file", path=path)
        yield called("files", f"write {path}", "write_file", path=path, content="owned")


def at_the_shell(folder: Path) -> Iterator[Attempt]:
    outside = folder / "outside/secret.txt"
    commands = (
        f"cat {outside}", "cat link up/outside/secret.txt", "env; cat /proc/*/environ", "cat /etc/passwd /etc/shadow",
        f"cat /proc/1/root{outside}", f"echo owned > {outside}; cat ../outside/secret.txt",
        "cat ../tenants/*/secret.txt",
        "find / -name secret.txt -exec cat {} +", f"chmod 000 {outside}",
        f"touch -d 2001-01-01 {outside}", f"ln {outside} h; cat h", "cp /bin/bash sh; chmod 4755 sh; ./sh -p -c id",
        "kill -9 -1", "echo x > /proc/sys/kernel/core_pattern && cat /proc/self/environ", "mount -t proc p /tmp; id",
        "unshare -Ur cat /etc/shadow", "setsid -f sleep 99", "python3 -c 'import socket; socket.socket(40, 1)'",
        "git init -q x; cd x; git config core.fsmonitor 'cat /etc/passwd'; git status", "dd if=/dev/mem bs=1 count=1",
    )  # fmt: skip
    return (called("shell", command[:40], "execute_bash", command=command, seconds=2) for command in commands)


def at_git(folder: Path) -> Iterator[Attempt]:
    outside = folder / "outside/secret.txt"
    asked: tuple[dict[str, Any], ...] = (
        {"operation": "diff", "arguments": ["--no-index", "/dev/null", f"{outside}"]},
        {"operation": "diff", "paths": [f"{outside}"]},
        {"operation": "log", "arguments": [f"--output={outside}"]},
        {"operation": "commit", "arguments": ["-F", f"{outside}"]},
        {"operation": "add", "paths": ["../outside"]},
        {"operation": "add", "paths": [f"--pathspec-from-file={outside}"]},
        {"operation": "init", "arguments": [f"--template={outside.parent}"]},
        {"operation": "blame", "arguments": [f"--contents={outside}"], "paths": ["a"]},
        {"operation": "clone", "arguments": [f"{outside.parent}"]},
        {"operation": "status", "arguments": ["-c", f"core.fsmonitor=cat {outside}"]},
    )
    return (called("git", json.dumps(one)[:60], "git_operation", **one) for one in asked)


def at_other_tenants() -> Iterator[Attempt]:
    for tenant in ("tb", "nobody", "TA", "ta ", "ta/", "ta/../ta", "default/../ta", "*"):
        for path in ("secret.txt", "../ta/secret.txt", "../../tenants/ta/secret.txt"):
            yield called("tenants", f"{tenant!r} reads {path}", "read_file", tenant, path=path)
        yield called("tenants", f"{tenant!r} in a shell", "execute_bash", tenant, command="cat s* ../*/s*; ls ..")


@pytest.mark.prove
async def test_nobody_gets_more_than_the_tools_give(
    tried: Tried, tmp_path: Path, size: Callable[[int, int], int]
) -> None:
    """In the small form every third."""
    outside = tmp_path / "outside/secret.txt"
    attempts = [*at_files(tmp_path), *at_the_shell(tmp_path), *at_git(tmp_path), *at_other_tenants()]
    async with armed(tmp_path) as target:
        before = outside.stat()
        await tried(target, attempts[:: size(3, 1)])
        after = outside.stat()
        assert SECRET in await output_of(target, "read_file", {"path": "secret.txt"}, tenant="ta"), "what must work"

    assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns)
    assert outside.read_text() == SECRET
    assert sorted(os.listdir(tmp_path / "outside")) == ["secret.txt"]
    assert beyond_0777(tmp_path) == []


# ---------------------------------------------------------------- addresses

NOT_PUBLIC = (
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.0.1",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1",
    "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::", "2002:c0a8:1::", "3fff::1", "3fff:fff::1",
    "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
    "2a00:1450::5efe:7f00:1", "2a00:1450::200:5efe:a00:1", "::ffff:0:127.0.0.1", "e000::1",
    "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1:80", "localhost", "", " 127.0.0.1", "127.0.0.1\n",
)  # fmt: skip


def at_addresses() -> Iterator[Attempt]:
    def attempt(address: str) -> Attempt:
        async def act(_: Target) -> str | None:
            return "may be reached" if may_reach(address, ()) else None

        return Attempt("addresses", repr(address), act)

    return map(attempt, NOT_PUBLIC)


# ---------------------------------------------------------------- queries

STATEMENTS = (
    "SELECT * FROM pragma_table_info('t')", "SELECT * FROM pragma_database_list", "SELECT * FROM pragma_function_list",
    "SELECT * FROM pragma_query_only('0')", "SELECT writefile('@OUT@', 'x')", "SELECT readfile('/etc/passwd')",
    "SELECT load_extension('x')", "SELECT edit('x', 'touch @OUT@')", "SELECT fts3_tokenizer('simple')",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n",
    "SELECT length(randomblob(300000000))", "SELECT length(hex(zeroblob(300000000)))",
    "SELECT length(printf('%300000000d', 1))", "SELECT length(replace(hex(zeroblob(2000000)), '0', hex(zeroblob(99))))",
    "SELECT 'a' LIKE (SELECT group_concat('%a') FROM t a, t b, t c, t d)", "SELECT quote(zeroblob(200000000))",
    "PRAGMA table_info(t)", "ATTACH DATABASE '@OUT@' AS x", "SELECT 1; DROP TABLE t", "DELETE FROM t",
    "VACUUM INTO '@OUT@'",
    "WITH x AS (SELECT 1) DELETE FROM t", "WITH x AS (SELECT 1) INSERT INTO t VALUES (1)", "CREATE TABLE u (a)",
    "REPLACE INTO t VALUES (9)", "UPDATE t SET a = 9", "EXPLAIN SELECT 1", "BEGIN", "REINDEX", "ANALYZE",
    "SELECT sum(a) FROM dbstat", "SELECT * FROM sqlite_dbpage",
)  # fmt: skip


FORBIDDEN = re.compile("pragma|file|extension|edit|tokenizer|dbstat|dbpage", re.IGNORECASE)
"""What may not answer at all; the others may, in their time."""


def at_queries(file: Path) -> Iterator[Attempt]:
    """Each is refused, or ends in its time having read what it may."""
    database = Database("d", f"sqlite:///{file.name}", folder=file.parent)
    made = file.with_name("made")

    def attempt(statement: str) -> Attempt:
        async def act(_: Target) -> str | None:
            begun = time.monotonic()
            try:
                rows = database.read(query_statement(statement.replace("@OUT@", str(made))), {}, rows=10, seconds=1.0)
            except TurnkeepError:
                rows = []
            if made.exists() or (rows and FORBIDDEN.search(statement)):
                return f"gave {rows!r}"[:200]
            took = time.monotonic() - begun
            return f"took {took:.1f} s" if took > 4 else None

        return Attempt("queries", statement[:60], act)

    return map(attempt, STATEMENTS)


async def test_no_request_and_no_query_reaches_what_it_must_not(tried: Tried, tmp_path: Path) -> None:
    file = tmp_path / "data.sqlite3"
    with sqlite3.connect(file) as connection:
        connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3), (4), (5), (6), (7), (8);")
    async with served() as server:
        await tried(Target(server), [*at_addresses(), *at_queries(file)])
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT count(*), sum(a) FROM t").fetchone() == (8, 36)
    assert may_reach("8.8.8.8", ()), "what must work"
    assert may_reach("2606:4700:4700::1111", ()), "what must work"
    assert Database("d", "sqlite:///data.sqlite3", folder=tmp_path).read("SELECT a FROM t", {}, rows=10, seconds=5.0)[
        0
    ] == {"a": 1}


def test_the_tables_hold_enough_attempts(tmp_path: Path) -> None:
    tables = (at_files(tmp_path), at_the_shell(tmp_path), at_git(tmp_path), at_other_tenants(), at_addresses())

    assert len([*itertools.chain(*tables), *at_queries(tmp_path / "data.sqlite3")]) >= 200
