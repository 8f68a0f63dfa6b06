"""Commands are carried out at most once each, whatever comes twice, too late, too often or in the middle of a stop."""

import errno
import threading
import time

import msgspec
import pytest

from agent.runner import commands as module
from agent.runner.commands import REMEMBERED, WAITING, Commands, Done
from agent.runner.schedule import Schedule, SteadyClock
from bundles.errors import Refused
from bundles.wire.commands import Command, encode

NOW = 1_000_000


class Bench:
    """Commands on a real line. ``gate`` holds doings up while it is cleared."""

    def __init__(self, folder):
        self.path = folder / "commands.json"
        self.now = NOW
        self.done, self.sent, self.told = [], [], []
        self.gate, self.is_lost = threading.Event(), False
        self.gate.set()
        self.result = Done({"x": 1}, detail="fine")
        self.start()

    def start(self):
        """Start (again), as after the agent's end."""
        self.schedule = Schedule(SteadyClock().now_ms, workers=2)
        self.thread = threading.Thread(target=self.schedule.run, daemon=True)
        doings = dict.fromkeys(("diagnose", "status", "rollback"), self._do)
        self.commands = Commands(
            self.schedule, doings, self._send, self.path, lambda: self.now, lambda command: self.told.append(command.id)
        )
        self.thread.start()

    def stop(self):
        self.schedule.stop()
        self.gate.set()
        self.thread.join(10)

    def take(self, name, do="status", *, life_ms=1000, issued_ms=NOW):
        command = Command(name, do, issued_ms, issued_ms + life_ms, {})
        self.take_raw(encode(command))

    def take_raw(self, payload):
        taken = threading.Event()
        self.schedule.soon(lambda: (self.commands.take(payload), taken.set()))
        assert taken.wait(10)

    def results(self, count):
        """Wait for so many results; return (id, ok, code) of each."""
        deadline = time.monotonic() + 20
        while len(self.sent) < count:
            assert time.monotonic() < deadline, self.sent
            time.sleep(0.002)
        return [(result.id, result.ok, result.code) for result, _ in self.sent]

    def _do(self, command):
        self.done.append(command.id)
        self.gate.wait(20)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def _send(self, result, attachment):
        if self.is_lost:
            self.is_lost = False
            raise OSError("no way")
        self.sent.append((result, attachment))


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def no_quiet(monkeypatch):
    monkeypatch.setattr(module, "QUIET_MS", 0)


def test_a_command_is_carried_out_and_answered(bench):
    bench.take("command1")
    assert bench.results(1) == [("command1", True, "")]
    result, attachment = bench.sent[0]
    assert (result.data, result.detail, attachment) == ({"x": 1}, "fine", b"")
    assert bench.told == ["command1"]


def test_one_that_comes_again_is_answered_again_and_not_done_twice(bench, no_quiet):
    bench.take("command1")
    bench.results(1)
    bench.take("command1")
    assert bench.results(2) == [("command1", True, "")] * 2
    bench.stop()
    bench.start()
    bench.take("command1")
    assert bench.results(3) == [("command1", True, "")] * 3
    assert bench.done == ["command1"]


def test_a_burst_of_one_command_is_answered_once(bench):
    for _ in range(50):
        bench.take("command1")
    bench.results(1)
    for _ in range(50):
        bench.take("command1")
    bench.take("command2")
    assert bench.results(2) == [("command1", True, ""), ("command2", True, "")]


def test_a_result_that_did_not_get_through_is_told_when_asked_again(bench):
    bench.is_lost = True
    bench.take("command1")
    bench.take("command2")
    bench.results(1)
    bench.take("command1")
    assert ("command1", True, "") in bench.results(2)
    assert sorted(bench.done) == ["command1", "command2"]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"life_ms": -1}, "COMMAND_EXPIRED"),
        ({"do": "shell"}, "COMMAND_UNKNOWN"),
        ({"do": "selftest"}, "COMMAND_UNKNOWN"),
    ],
)
def test_what_is_too_late_or_unknown_is_refused_and_not_begun(bench, more, code):
    bench.take("command1", **more)
    assert bench.results(1) == [("command1", False, code)]
    assert bench.done == []


def test_a_command_that_waited_beyond_its_life_is_not_begun_later(bench):
    bench.now = NOW + 1001
    bench.take("command1")
    bench.now = NOW  # a clock that is set back makes nothing young again
    bench.take("command2")
    bench.results(2)
    assert bench.done == ["command2"]


@pytest.mark.parametrize("payload", [b"", b'{"v":9}', b'{"id":"../../x","do":"status","issued_ms":1,"expires_ms":2}'])
def test_what_cannot_be_read_is_passed_over(bench, payload):
    bench.take_raw(payload)
    bench.take("command1")
    assert bench.results(1) == [("command1", True, "")]


def test_one_at_a_time_and_a_few_waiting(bench):
    bench.gate.clear()
    for number in range(WAITING + 3):
        bench.take(f"command{number}")
    busy = bench.results(2)
    assert busy == [(f"command{WAITING + 1}", False, "COMMAND_BUSY"), (f"command{WAITING + 2}", False, "COMMAND_BUSY")]
    assert bench.done == ["command0"]
    bench.gate.set()
    bench.results(WAITING + 3)
    assert bench.done == [f"command{number}" for number in range(WAITING + 1)]
    bench.take(f"command{WAITING + 1}")
    bench.results(WAITING + 4)
    assert bench.done[-1] == f"command{WAITING + 1}", "busy is not an outcome: asked again, it is done"


@pytest.mark.parametrize(
    ("error", "code", "detail"),
    [
        (Refused("No.", code="NO_PREVIOUS", remedy="Ask."), "NO_PREVIOUS", "No."),
        (RuntimeError("secret inner words"), "COMMAND_FAILED", "It failed: RuntimeError."),
    ],
)
def test_what_it_raises_becomes_a_code(bench, error, code, detail):
    bench.result = error
    bench.take("command1")
    assert bench.results(1) == [("command1", False, code)]
    assert detail in bench.sent[0][0].detail
    assert "inner" not in bench.sent[0][0].detail


@pytest.mark.parametrize("do", ["diagnose", "status"])
def test_looking_is_begun_once_more_where_the_agent_stopped_in_its_middle(bench, do, no_quiet):
    bench.gate.clear()
    bench.take("command1", do)
    for _ in range(2):
        wait(lambda: bench.done)
        seen = len(bench.done)
        bench.start()  # the agent was killed: what ran there answers no more
        bench.take("command1", do)
        if seen == 1:
            wait(lambda: len(bench.done) == 2)
    assert bench.results(1) == [("command1", False, "COMMAND_INTERRUPTED")]
    assert bench.done == ["command1"] * 2, "one that ends the agent each time is not begun for ever"


def test_a_roll_back_is_not_begun_twice(bench):
    bench.gate.clear()
    bench.take("command1", "rollback")
    wait(lambda: bench.done)
    bench.start()
    bench.take("command1", "rollback")
    assert bench.results(1) == [("command1", False, "COMMAND_INTERRUPTED")]
    assert bench.done == ["command1"]


def test_on_a_full_disk_the_device_can_still_be_looked_at(bench, monkeypatch):
    def full(*_arguments, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_durably", full)
    bench.take("command1", "diagnose")
    bench.take("command2", "rollback")
    bench.take("command3", "status")
    assert bench.results(3) == [
        ("command1", True, ""),
        ("command2", False, "COMMAND_MEMORY"),
        ("command3", True, ""),
    ]
    assert bench.done == ["command1", "command3"]


def test_a_support_bundle_goes_with_its_result_and_is_made_again_when_it_is_gone(bench, no_quiet):
    bench.result = Done({"sha256": "ab" * 32, "bytes": 3}, b"abc")
    bench.take("command1", "diagnose")
    bench.results(1)
    bench.take("command1", "diagnose")
    bench.results(2)
    assert [attachment for _, attachment in bench.sent] == [b"abc"] * 2
    assert bench.done == ["command1"]
    bench.stop()
    bench.start()
    bench.take("command1", "diagnose")
    bench.results(3)
    assert (bench.sent[2][1], bench.done) == (b"abc", ["command1"] * 2)


def test_few_outcomes_are_remembered(bench):
    for number in range(REMEMBERED + 10):
        bench.take(f"command{number}")
        bench.results(number + 1)
    kept = msgspec.json.decode(bench.path.read_bytes())["done"]
    assert [name for name, _ in kept] == [f"command{number}" for number in range(10, REMEMBERED + 10)]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"done": 5}', b'{"done": [["a"]]}', b"\xff"])
def test_a_damaged_memory_is_begun_anew(bench, damage):
    bench.path.write_bytes(damage)
    bench.start()
    bench.take("command1")
    assert bench.results(1) == [("command1", True, "")]


def wait(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
