"""What the system call filter of the sandbox decides, call by call, on both machines that it is made for."""

from __future__ import annotations

import os
import platform
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator

import pytest

from turnkeep.tools import confine

Decide = Callable[..., int]
"""A number of a call and its arguments, to what the kernel would do."""

ALLOW, KILL = confine.ALLOW, confine.KILL
NOT_PERMITTED, NO_ACCESS, NO_SUCH_CALL = (
    confine.REFUSE | code for code in (confine.EPERM, confine.EACCES, confine.ENOSYS)
)
READ = {"x86_64": 0, "aarch64": 63}
SET_USER_ID, ORDINARY = 0o4755, 0o755


def decision(rules: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What these rules return for one call, as the kernel reads them: jumps go forward, and never beyond the end."""
    data = struct.pack("=II8x6Q", number, architecture, *(*arguments, *[0] * 6)[:6])
    lines = list(struct.iter_unpack("=HBBI", rules))
    place, loaded = 0, 0
    while True:
        code, then, otherwise, value = lines[place]
        place += 1
        match code:
            case confine.LOAD:
                [loaded] = struct.unpack_from("=I", data, value)
            case confine.JUMP_EQUAL:
                place += then if loaded == value else otherwise
            case confine.JUMP_AT_LEAST:
                place += then if loaded >= value else otherwise
            case confine.JUMP_ANY_BIT:
                place += then if loaded & value else otherwise
            case confine.RETURN:
                return int(value)
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


@pytest.fixture(params=sorted(confine.ARCHITECTURES))
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    return str(request.param)


@pytest.fixture
def column(machine: str) -> int:
    return confine.ARCHITECTURES[machine][1]


def rules_of(machine: str, *, programs: bool) -> Decide:
    rules = confine.system_call_filter(programs=programs)
    architecture = confine.ARCHITECTURES[machine][0]
    return lambda number, *arguments: decision(rules, architecture, number, *arguments)


@pytest.fixture
def decide(machine: str) -> Decide:
    return rules_of(machine, programs=True)


@pytest.fixture
def decide_alone(machine: str) -> Decide:
    """For a program that may start no other."""
    return rules_of(machine, programs=False)


def numbers(calls: dict[str, tuple[int | None, ...]], column: int) -> Iterator[tuple[str, int]]:
    for name, places in calls.items():
        number = places[column]
        if number is not None:  # a call that this machine does not have
            yield name, number


def test_calls_that_no_tool_needs_are_refused(decide: Decide, column: int) -> None:
    decisions = {name: decide(call[column]) for name, call in confine.DENIED_CALLS.items()}
    assert decisions == dict.fromkeys(confine.DENIED_CALLS, NO_ACCESS)


def test_calls_that_hide_what_they_do_are_said_not_to_exist(decide: Decide, column: int) -> None:
    assert {decide(call[column]) for call in confine.OPAQUE_CALLS.values()} == {NO_SUCH_CALL}


def test_everything_else_is_allowed(decide: Decide, decide_alone: Decide, machine: str) -> None:
    assert decide(READ[machine]) == decide_alone(READ[machine]) == ALLOW


def test_a_program_of_another_architecture_is_killed(machine: str) -> None:
    rules = confine.system_call_filter(programs=True)
    for other, (architecture, _) in confine.ARCHITECTURES.items():
        assert (decision(rules, architecture, READ[machine]) == KILL) is (other != machine)


def test_the_twins_of_the_calls_of_x86_do_not_exist(decide: Decide, machine: str) -> None:
    assert decide(0x40000000 | READ["x86_64"]) == (NO_SUCH_CALL if machine == "x86_64" else ALLOW)


def test_no_file_gets_a_mode_that_gives_rights(decide: Decide, column: int) -> None:
    modes = {name: call[2] for name, call in confine.MODES.items()}
    places = {name: call[:2] for name, call in confine.MODES.items()}
    for name, number in numbers(dict(places), column):
        before = [0] * modes[name]
        assert (name, decide(number, *before, SET_USER_ID)) == (name, NOT_PERMITTED)
        assert (name, decide(number, *before, ORDINARY)) == (name, ALLOW)


@pytest.mark.parametrize(
    ("flags", "mode", "becomes"),
    [
        (os.O_CREAT, SET_USER_ID, NOT_PERMITTED),
        (os.O_CREAT, ORDINARY, ALLOW),
        (0x400000, SET_USER_ID, NOT_PERMITTED),  # the bit of O_TMPFILE that is its own
        (0, SET_USER_ID, ALLOW),  # nobody reads the mode then
    ],
)
def test_nor_does_a_file_that_is_made(decide: Decide, column: int, flags: int, mode: int, becomes: int) -> None:
    places = {name: call[2] for name, call in confine.OPENING.items()}
    for name, number in numbers({name: call[:2] for name, call in confine.OPENING.items()}, column):
        assert (name, decide(number, *[0] * places[name], flags, mode)) == (name, becomes)


def test_who_may_start_no_program_can_make_threads_only(decide_alone: Decide, decide: Decide, column: int) -> None:
    clone = confine.CLONE[column]
    assert (decide_alone(clone, 0), decide_alone(clone, confine.ONLY_A_THREAD)) == (NOT_PERMITTED, ALLOW)
    assert decide(clone, 0) == ALLOW
    for _, number in numbers(dict(confine.FORKS), column):
        assert (decide_alone(number), decide(number)) == (NOT_PERMITTED, ALLOW)


@pytest.mark.parametrize("namespace", [1 << bit for bit in range(32) if confine.NEW_NAMESPACES & 1 << bit])
@pytest.mark.parametrize("makes", [0, confine.ONLY_A_THREAD])
def test_nothing_is_made_in_a_namespace_of_its_own(
    decide: Decide, decide_alone: Decide, column: int, namespace: int, makes: int
) -> None:
    clone = confine.CLONE[column]
    assert decide(clone, makes | namespace) == decide_alone(clone, makes | namespace) == NO_ACCESS


@pytest.mark.parametrize("family", range(48))
def test_sockets_are_of_the_families_that_a_namespace_holds(decide: Decide, column: int, family: int) -> None:
    allowed = family in confine.FAMILIES.values()
    assert decide(confine.SOCKET[column], family) == (ALLOW if allowed else NO_ACCESS)


def test_nobody_types_into_our_terminal(decide: Decide, column: int) -> None:
    for request in (confine.TIOCSTI, confine.TIOCLINUX):
        assert decide(confine.IOCTL[column], 0, request) == NO_ACCESS
    assert decide(confine.IOCTL[column], 0, 0x5401) == ALLOW  # TCGETS


def test_a_machine_without_rules_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(OSError, match="no system call filter for s390x"):
        confine.system_call_filter(programs=True)


def test_a_call_that_fails_says_what_was_tried() -> None:
    assert confine.check(3, "subreaper") == 3
    with pytest.raises(OSError, match="death signal"):
        confine.check(-1, "death signal")


def test_descendants_are_found_at_any_depth() -> None:
    nest = "echo $$; sh -c 'sleep 60 & echo $! $$; wait' & wait"
    with subprocess.Popen(["sh", "-c", nest], stdout=subprocess.PIPE, text=True, start_new_session=True) as top:
        try:
            assert top.stdout is not None
            lines = [top.stdout.readline(), top.stdout.readline()]
            assert sorted(confine.descendants_of(top.pid)) == sorted(map(int, lines[1].split()))
            assert int(lines[0]) == top.pid
        finally:
            os.killpg(top.pid, signal.SIGKILL)


def test_the_threads_of_a_user_are_counted() -> None:
    assert confine.threads_of(os.getuid()) >= len(os.listdir("/proc/self/task"))
    assert confine.threads_of(2**31 - 7) == 0
