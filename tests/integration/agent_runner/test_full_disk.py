"""A real agent on a file system that somebody else fills: it answers, says why the update waits, and goes on."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from bundles.wire import codec, topics

MIB = 1024 * 1024
MODEL = "vision/digits"
RESERVE_MIB = 4


@pytest.fixture
def small_disk(short_path):
    """Mount a file system of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = short_path / "disk"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", mount], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no mount here: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


class Device:
    """``wavegate-agent`` in a folder, as processes.

    Attributes:
        folder: the agent's.
        process: the one that runs.
    """

    def __init__(self, folder, log):
        self.folder, self.log, self.process = folder, log, None

    def command(self, *arguments, **options):
        line = [sys.executable, "-m", "agent.cli", *map(str, arguments), "--dir", str(self.folder)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self):
        with self.log.open("ab") as log:
            line = [sys.executable, "-m", "agent.cli", "run", "--verbose", "--dir", str(self.folder)]
            self.process = subprocess.Popen(line, stdout=log, stderr=log)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def answer(self):
        """Ask through the local door, in a process of its own; return the version that answered."""
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return json.loads(self.command("infer", MODEL, "--input", self.log.parent / "zero.npy"))["version"]

    def status(self):
        try:
            return json.loads((self.folder / "status.json").read_text())["models"][MODEL]
        except (OSError, ValueError, KeyError):
            return {}


@pytest.fixture
def device(small_disk, server, server_ca, publisher, probed, tmp_path):
    np.save(tmp_path / "zero.npy", np.zeros((1, 8, 8, 1), np.float32))
    (tmp_path / "server-ca.pem").write_text(server_ca.pem)
    device = Device(small_disk / "cam-1", tmp_path / "agent.log")
    device.command(
        "enroll", "--url", server.url, "--token", "good-token", "--name", "cam-1", "--hardware", "cam-a",
        "--ca", tmp_path / "server-ca.pem", "--root", publisher.root_path, "--runtime", "onnxruntime",
    )  # fmt: skip
    config = device.folder / "config.toml"
    config.write_text(f"reserve_mib = {RESERVE_MIB}\n{config.read_text()}")
    probed(device.folder, "onnxruntime")
    yield device
    if device.process is not None and device.process.poll() is None:
        device.kill()


def free_bytes(path):
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def fill(path, leave_bytes=0):
    """Write until the disk has no more than ``leave_bytes``; to the last byte where that is 0."""
    with path.open("ab", buffering=0) as stream:
        for size in (256 * 1024, 4096, 1):
            try:
                while free_bytes(path.parent) - size >= leave_bytes:
                    stream.write(b"x" * size)
            except OSError:
                continue


def told(server):
    """Return the phases that the device reported, with their reasons, in order."""
    found = []
    for _, leaf, payload in list(server.reports):
        if leaf == topics.UP_EVENT:
            event = codec.decode_up(leaf, payload)
            if event.kind == "phase":
                found.append((event.data["phase"], event.data.get("reason", "")))
    return found


def free_as_reported(server, begun):
    """Return the free bytes that heartbeats told, from a report on."""
    heartbeats = [codec.decode_up(leaf, body) for _, leaf, body in server.reports[begun:] if leaf == topics.UP_REPORTED]
    return [heartbeat.disk_free_bytes for heartbeat in heartbeats if heartbeat.disk_free_bytes is not None]


def test_a_full_disk_does_not_kill_the_agent(device, small_disk, server, publisher, until):
    """Agents of other makers die of a full disk, or start no more: this one needs no room to answer."""
    first, second = publisher.publish("1.0.0", 1), publisher.publish("1.1.0", 2)
    publisher.desire("cam-1", first, rollout="r1")
    device.start()
    until(lambda: device.status().get("phase") == "confirmed", 90, "1.0.0 confirmed")
    somebody_else = small_disk / "somebody-else"

    fill(somebody_else, leave_bytes=(RESERVE_MIB - 1) * MIB)
    publisher.desire("cam-1", second, rollout="r2")
    until(lambda: ("deferred", "disk") in told(server), 60, "the reason reported")
    assert device.answer() == "1.0.0"
    assert free_bytes(small_disk) > (RESERVE_MIB - 2) * MIB, "the reserve is there for journal and spool"

    fill(somebody_else)
    assert free_bytes(small_disk) == 0
    for _ in range(2):
        assert device.answer() == "1.0.0"
    device.kill()
    fill(somebody_else)  # what the kill gave back
    device.start()
    until(lambda: (device.folder / "socket").exists(), 60, "a start without room")
    fill(somebody_else)

    def answers():
        try:
            return device.answer()
        except AssertionError:
            assert device.process.poll() is None, device.log.read_text()[-3000:]
            return None

    assert until(answers, 60, "an answer after a start without room") == "1.0.0"

    begun = len(server.reports)
    fill(somebody_else)
    until(lambda: any(free < MIB for free in free_as_reported(server, begun)), 60, "an operator sees it")
    somebody_else.unlink()
    until(lambda: device.status().get("phase") == "confirmed" and device.status()["version"] == "1.1.0", 90, "1.1.0")
    assert device.answer() == "1.1.0"
    until(lambda: told(server)[-1][0] == "confirmed", 60, "it is reported")
