"""A shop of real processes on this machine, as `till up` makes it, on ports of its own."""

import errno
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# A port is taken from below the range that the kernel draws outgoing connections from.
PORTS = range(11000, 32000, 600)


def binary():
    """The executable: TILL_BIN, else the newest that cargo has built."""
    if "TILL_BIN" in os.environ:
        return pathlib.Path(os.environ["TILL_BIN"]).resolve()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for profile in ("debug", "release") if (path := target / profile / "till").exists()]
    if not built:
        raise RuntimeError("build the executable first (cargo build -p till), or name one in TILL_BIN")
    return max(built, key=lambda path: path.stat().st_mtime)


def alive(pid):
    """True while a process with this id runs (a zombie does not)."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def wait_until(what, condition, seconds):
    """Polls until the condition holds; gives its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still not: {what}")
        time.sleep(0.05)


def _is_free(port):
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            # On a machine without IPv6 nothing listens there.
            if error.errno == errno.EADDRINUSE:
                return False
    return True


class Ports:
    """Where a shop listens: a block of 600 ports that nobody else uses."""

    def __init__(self, replicas):
        bases = list(PORTS)
        random.shuffle(bases)
        for base in bases:
            self.http, self.kv, self.grpc = base, base + 60, base + 100
            groups = [self.http, *(self.grpc + 50 * group for group in range(10))]
            wanted = [self.kv, self.kv + 1, *(group + replica for group in groups for replica in range(replicas))]
            if all(map(_is_free, wanted)):
                return
        raise RuntimeError("no free block of ports")

    def flags(self):
        return ["--http-port", str(self.http), "--grpc-port-base", str(self.grpc), "--kv-port", str(self.kv)]


class Shop:
    """`till up` in a directory. Not started until told."""

    def __init__(self, data_dir, replicas=1, flags=(), environment=()):
        self.data_dir = pathlib.Path(data_dir)
        self.replicas = replicas
        self.ports = Ports(replicas)
        self.flags = list(flags)
        self.environment = dict(environment)
        self.process = None
        self.log = self.data_dir.parent / f"{self.data_dir.name}.log"

    @property
    def urls(self):
        """Of every replica of the REST face."""
        return [f"http://127.0.0.1:{self.ports.http + replica}" for replica in range(self.replicas)]

    @property
    def url(self):
        return self.urls[0]

    def command(self):
        return [
            str(binary()),
            "up",
            "--data-dir",
            str(self.data_dir),
            "--replicas",
            str(self.replicas),
            *self.ports.flags(),
            *self.flags,
        ]

    def start(self, wait_seconds=60.0):
        """Starts it; returns when every role answers (0: at once)."""
        environment = {name: value for name, value in os.environ.items() if name != "PD_ENDPOINTS"}
        environment.update(self.environment)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        if wait_seconds:
            self.wait_ready(wait_seconds)
        return self

    def wait_ready(self, seconds=60.0):
        def ready():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.tail()}"
            status = self.status()
            return status is not None and status["pid"] == self.process.pid and status["ready"]

        wait_until("the shop is ready", ready, seconds)

    def status(self):
        """What up.json says; None before it is there."""
        try:
            return json.loads((self.data_dir / "up.json").read_text())
        except FileNotFoundError:
            return None

    def children(self, role=None):
        """Of all roles, or of one: name -> what up.json says."""
        return {child["name"]: child for child in self.status()["children"] if role in (None, child["role"])}

    def pids(self):
        """Of every child that runs."""
        return [child["pid"] for child in self.children().values() if child["pid"]]

    def kill(self, name, how=signal.SIGKILL):
        """Ends one child, by kill -9 unless another signal is given; returns when up.json shows its successor."""
        before = self.children()[name]
        os.kill(before["pid"], how)

        def restarted():
            now = self.children()[name]
            return now["restarts"] > before["restarts"] and now["pid"]

        return wait_until(f"{name} is restarted", restarted, 30.0)

    def kill_everything(self):
        """kill -9 of the supervisor and of every child, at once."""
        pids = self.pids()
        for pid in (self.process.pid, *pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        wait_until("all are gone", lambda: not any(map(alive, pids)), 10.0)

    def stop(self, seconds=60.0):
        """Stops the shop as Ctrl-C does; returns the exit code."""
        if self.process is None or self.process.poll() is not None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_everything()
            raise

    def tail(self, lines=60):
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def errors(self):
        """Lines of the log at ERROR, panics included."""
        pattern = re.compile(r"\bERROR\b|panicked at")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(errors="replace"))
        return [line for line in plain.splitlines() if pattern.search(line)]

    def openapi(self):
        """The document that the shop publishes about itself."""
        try:
            with urllib.request.urlopen(f"{self.url}/openapi.json", timeout=10) as answer:
                return json.load(answer)
        except urllib.error.URLError as error:
            raise AssertionError(f"no /openapi.json: {error}") from error
