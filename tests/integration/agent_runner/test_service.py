"""``wavegate-agent run`` as a service manager sees it: what it is told, and how the agent ends."""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

MODEL = "vision/digits"


class Manager:
    """Listens where a service manager would."""

    def __init__(self, folder):
        self.path = folder / "notify"
        self.told: queue.Queue[str] = queue.Queue()
        self.all: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        while data := self._socket.recv(4096):
            self.all.append(data.decode())

    def heard(self, text):
        return any(text in one for one in list(self.all))

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def manager(short_path):
    made = Manager(short_path)
    yield made
    made.close()


@pytest.fixture
def service(server, server_ca, publisher, short_path, probed, tmp_path, manager):
    """An enrolled device whose first release waits, and a function that starts its agent."""
    (tmp_path / "server-ca.pem").write_text(server_ca.pem)
    folder = short_path / "cam-1"
    subprocess.run(
        [
            sys.executable, "-m", "agent.cli", "enroll", "--dir", folder, "--url", server.url, "--token", "good-token",
            "--name", "cam-1", "--hardware", "cam-a", "--ca", tmp_path / "server-ca.pem",
            "--root", publisher.root_path, "--runtime", "onnxruntime",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    probed(folder, "onnxruntime")
    publisher.desire("cam-1", publisher.publish("1.0.0", 1))
    started = []

    def start():
        environment = os.environ | {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"}
        with (short_path / "log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "agent.cli", "run", "--dir", folder, "--verbose"],
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()


def workers_of(pid):
    """Return the processes below an agent: those that run its models, and what they are forked from."""
    parents = {}
    for entry in (path.name for path in Path("/proc").iterdir() if path.name.isdecimal()):
        with contextlib.suppress(OSError):
            stat = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            if stat[0] != "Z":
                parents[int(entry)] = int(stat[1])
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below and child not in below}:
        below |= more
    return below - {pid}


def is_there(pid):
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_tells_that_it_is_ready_how_it_stands_that_it_lives_and_that_it_stops(service, manager, until):
    process = service()
    until(lambda: manager.heard("READY=1"), 60, "ready")
    until(lambda: manager.heard("WATCHDOG=1"), 20, "a ping")
    until(lambda: manager.heard(f"{MODEL} 1.0.0 confirmed"), 60, "the model in its status")
    process.terminate()
    assert process.wait(60) == 0
    assert manager.heard("STOPPING=1")
    assert "WATCHDOG=1" not in manager.all[-1]


def test_a_line_that_hangs_is_not_said_to_live(service, manager, until):
    """SIGSTOP of the whole process would prove little; here the line alone hangs, and the rest goes on."""
    from agent.runner.schedule import Schedule, SteadyClock
    from agent.service.notify import Notifier
    from agent.service.watchdog import Watchdog

    schedule = Schedule(SteadyClock().now_ms)
    thread = threading.Thread(target=schedule.run, daemon=True)
    thread.start()
    Watchdog(schedule, Notifier(str(manager.path)), 0.05, dict).start()
    until(lambda: len(manager.all) >= 3, 20, "pings")
    hangs, goes_on = threading.Event(), threading.Event()

    def hang():
        hangs.set()
        goes_on.wait(60)

    schedule.soon(hang)
    assert hangs.wait(20)
    until(lambda: (count := len(manager.all), time.sleep(0.2)) and len(manager.all) == count, 20, "the last under way")
    before = len(manager.all)
    time.sleep(0.5)  # ten periods
    assert len(manager.all) == before
    goes_on.set()
    until(lambda: len(manager.all) > before, 20, "pings again")
    schedule.stop()
    thread.join(20)


def test_it_stops_though_server_and_worker_hang(service, server, manager, until, capsys):
    process = service()
    until(lambda: manager.heard(f"{MODEL} 1.0.0 confirmed"), 60, "the model at work")
    workers = workers_of(process.pid)
    assert workers, "the model runs in a process of its own"
    port = server.httpd.server_port
    server.stop()
    with socket.create_server(("127.0.0.1", port)):  # takes connections and never says a word
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        process.terminate()
        assert process.wait(60) == 0
        took_s = time.monotonic() - began
    with capsys.disabled():
        print(f" stopped after {took_s:.1f} s", end="")
    until(lambda: not any(map(is_there, workers)), 20, "the end of the workers")
