"""Try the README on a machine that nobody prepared: a Debian root with python3, pip and git, made by debootstrap.

    python3 scripts/bare_machine.py [--suite bookworm] [--as root|ordinary] [--without-apt] [--cut-off] [--keep FOLDER]
                                    [--first-minutes] [-- WORDS…]

Run as root on Debian or Ubuntu with debootstrap. Clones this repository (what is committed) into the root, measures
how long `dev.py up` takes from the bare clone until the page answers, then runs `dev.py test WORDS…`. Prints the last
lines of both and ends with the code of the test. `--keep` uses and leaves a root in FOLDER, so that an ordinary user
can be tried where root has installed the programs. `--cut-off` runs the tests once more where nothing is as usual: no
network but a loopback without IPv6, the ports of RabbitMQ, Redis and the page taken, a HOME that cannot be written.
`--first-minutes` follows README, tutorial and the "Coming from" pages there instead (`scripts/first_minutes.py`).
Only the network and the certificates of this machine are shared.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = "python3,python3-pip,git,ca-certificates"
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
USER = "ordinary"
PATIENCE = 300.0
"""Seconds until a page that does not answer is a failure."""

ENTER = """
mount --bind "$1" "$1" && mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && mount --rbind /sys "$1/sys"
mount -t tmpfs tmpfs "$1/dev/shm" && mount -t tmpfs tmpfs "$1/tmp" && chmod 1777 "$1/tmp"
root=$1 user=$2 folder=$3; shift 3
home=$folder
if [ -n "$UNWRITABLE_HOME" ]; then home=/proc; fi
cd "$root" && pivot_root . mnt && umount -l /mnt
path=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec setpriv --reuid="$user" --regid="$user" --init-groups --pdeathsig KILL \\
    env -i HOME="$home" LANG=C PATH="$path" CI="$CI" \\
    sh -c 'cd "$1"; shift; exec "$@"' sh "$folder/a clone für tests" "$@"
"""
"""In a mount and process namespace of its own, so that nothing of it is left when it ends. The root is changed by
pivot_root: in a mere chroot the kernel refuses the user namespaces that the sandbox of the tools is made of. A
change of the user clears what `unshare --kill-child` has set, so it is set again."""

CUT_OFF = """
import fcntl, os, pathlib, socket, struct, subprocess, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:  # SIOCSIFFLAGS: loopback up and running
    fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", 0x41))
pathlib.Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
taken = [socket.create_server(("127.0.0.1", port)) for port in (5672, 6379, 8080)]
sys.exit(subprocess.run(sys.argv[1:], env=os.environ | {"UNWRITABLE_HOME": "1"}).returncode)
"""


@dataclass(frozen=True)
class Machine:
    """A root and who works there."""

    root: Path
    user: str

    @property
    def home(self) -> str:
        return "/root" if self.user == "root" else f"/home/{self.user}"

    def command(self, *words: str) -> list[str]:
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
        return [*namespaces, "sh", "-ec", ENTER, "enter", str(self.root), self.user, self.home, *words]

    def cut_off(self, *words: str) -> list[str]:
        return ["unshare", "--net", sys.executable, "-c", CUT_OFF, *self.command(*words)]

    def clone(self) -> None:
        """A blank and an umlaut in the path: where people keep their projects."""
        target = self.root / self.home.lstrip("/") / "a clone für tests"
        shutil.rmtree(target, ignore_errors=True)
        run(["git", "clone", "--quiet", str(REPOSITORY), str(target)])
        run(["chroot", str(self.root), "chown", "-R", self.user, self.home])


def main(arguments: Sequence[str]) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--suite", default="bookworm", help="the release of Debian (bookworm)")
    options.add_argument("--mirror", default="", help="where debootstrap fetches from (its own default)")
    options.add_argument("--as", dest="user", choices=["root", USER], default="root", help="who works there (root)")
    options.add_argument("--without-apt", action="store_true", help="a system that can install nothing more")
    options.add_argument("--cut-off", action="store_true", help="the tests once more, where nothing is as usual")
    options.add_argument("--first-minutes", action="store_true", help="the pages of somebody new, instead of the tests")
    options.add_argument("--keep", type=Path, help="use the root in this folder, and leave it")
    options.add_argument("words", nargs="*", help="arguments of dev.py test")
    given = options.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        root = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bare-machine-")))
        make_root(root, given.suite, given.mirror)
        if given.without_apt:
            (root / "usr/bin/apt-get").unlink(missing_ok=True)
        machine = Machine(root, given.user)
        machine.clone()
        say(f"{given.suite}, as {given.user}, {'without' if given.without_apt else 'with'} apt")
        if given.first_minutes:
            return run_first_minutes(machine, given.words)
        time_up(machine)
        code = test("dev.py test", machine.command, given.words)
        if given.cut_off:
            code = code or test("dev.py test, cut off", machine.cut_off, ["--no-install", *given.words])
        return code


def make_root(root: Path, suite: str, mirror: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)  # a temporary folder is its owner's alone, and nobody else could enter "/" then
    if not (root / "usr/bin/git").exists():
        if shutil.which("debootstrap") is None:
            raise SystemExit("bare_machine: there is no debootstrap; install it (apt-get install debootstrap)")
        say(f"debootstrap {suite} (a minute or two)")
        options = ["--variant=minbase", f"--include={PACKAGES}", suite, str(root)]
        run(["debootstrap", *options, *filter(None, [mirror])], quietly=True)
        run(["chroot", str(root), "useradd", "--create-home", USER])
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")  # as every installer does
    for path in (CERTIFICATES, Path("etc/resolv.conf")):
        if Path("/", path).exists():
            shutil.copyfile(Path("/", path), root / path)


def time_up(machine: Machine) -> None:
    """From the bare clone to the page, then the end that Ctrl-C brings."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    start = time.monotonic()
    with subprocess.Popen(machine.command("python3", "dev.py", "up", "--port", port)) as process:
        while not answers(f"http://127.0.0.1:{port}/"):
            if process.poll() is not None or time.monotonic() - start > PATIENCE:
                process.kill()
                raise SystemExit("bare_machine: dev.py up gave no page")
            time.sleep(0.1)
        say(f"dev.py up: bare clone to page in {time.monotonic() - start:.1f} s")
        process.kill()


def run_first_minutes(machine: Machine, pages: Sequence[str]) -> int:
    command = machine.command("python3", "scripts/first_minutes.py", *pages)
    return subprocess.run(command, check=False).returncode


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except OSError:
        return False


def test(name: str, inside: Callable[..., list[str]], words: Sequence[str]) -> int:
    start = time.monotonic()
    code = subprocess.run(inside("python3", "dev.py", "test", *words), check=False).returncode
    say(f"{name} {' '.join(words)}: code {code} in {time.monotonic() - start:.0f} s")
    return code


def run(command: Sequence[str], *, quietly: bool = False) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL if quietly else None)
    if done.returncode:
        raise SystemExit(f"bare_machine: {' '.join(command[:3])} … failed ({done.returncode})")


def say(text: str) -> None:
    print(f"bare_machine: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
