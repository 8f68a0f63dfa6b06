"""Commands and support bundles in the database, on SQLite and PostgreSQL: parts, bounds, expiry, the audit."""

from __future__ import annotations

import hashlib
import itertools
import json

import pytest
from sqlmodel import select

from bundles.errors import MessageRefused
from bundles.wire import commands as wire
from bundles.wire.codec import encode
from bundles.wire.commands import CommandResult
from bundles.wire.messages import ModelReported, Reported
from bundles.wire.topics import UP_REPORTED
from control_plane.db.queries.commands import read_bundle, show_command
from control_plane.db.tables import DeadLetter, Decision, Device, DeviceCommand, DiagnosisPart
from control_plane.errors import Conflict, NotAllowed, NotFound, RequestRefused, TooLarge
from control_plane.services import answers, audit, commands, devices, diagnoses, intake
from control_plane.services.commands import Asked
from control_plane.services.diagnoses import KEEPING, Keeping
from control_plane.services.reports import Inbound
from control_plane.workers.commands import CommandPublisher

NOW = 1_800_000_000_000
MINUTE = 60_000
BUNDLE = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(10_000))
"""320,000 bytes: three parts."""


class Desk:
    """A database with two devices, and a clock that the test sets."""

    def __init__(self, database) -> None:
        self.db, self.now, self._ids = database, NOW, itertools.count(1)
        with database.write() as session:
            for device in ("cam-1", "cam-2"):
                session.add(Device(id=device, public_key_pem=device, enrolled_ms=NOW))

    def ask(self, do="diagnose", device="cam-1", may=lambda _team: None, **more):
        with self.db.write() as session:
            return commands.ask(
                session, Asked(device, do, **more), actor="ada", may=may, now_ms=self.now,
                random_bytes=lambda count: next(self._ids).to_bytes(count, "big"),
            )  # fmt: skip

    def take(self, leaf: str, payload: bytes, device="cam-1") -> None:
        with self.db.write() as session:
            answers.take_in(session, device, leaf, payload, self.now)

    def part(self, command: str, number: int, content=BUNDLE, device="cam-1") -> None:
        piece = content[number * wire.PART_BYTES : (number + 1) * wire.PART_BYTES]
        self.take(wire.part_leaf(command, number), piece, device)

    def result(self, command: str, ok=True, device="cam-1", content=BUNDLE, **more) -> None:
        data = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} if ok else {}
        result = CommandResult(command, ok, data=data, **more)
        self.take(wire.result_leaf(command), wire.encode(result), device)

    def diagnosed(self, device="cam-1", content=BUNDLE) -> str:
        command = self.ask(device=device, is_forced=True).id
        with self.db.write() as session:
            answers.take_bundle(session, device, command, content, self.now)
        self.result(command, device=device, content=content)
        return command

    def show(self, command: str, device="cam-1"):
        with self.db.read() as session:
            return show_command(session, device, command)

    def bundle(self, command: str, device="cam-1") -> bytes:
        with self.db.read() as session:
            return read_bundle(session, device, command)

    def kept(self) -> list[str]:
        with self.db.read() as session:
            ids = session.exec(select(DeviceCommand.id).where(DeviceCommand.is_kept).order_by(DeviceCommand.id)).all()
            parts = set(session.exec(select(DiagnosisPart.command)).all())
            assert parts == set(ids), "parts are there of what is kept, and of nothing else"
            return list(ids)

    def actions(self) -> list[tuple[str, str]]:
        with self.db.read() as session:
            assert audit.verify(session).is_whole
            return [(row.actor, row.action) for row in session.exec(select(Decision).order_by(Decision.id)).all()]

    def round(self, keeping=KEEPING, teller=None) -> None:
        CommandPublisher(self.db, teller, lambda: self.now, 30.0, keeping).round()


@pytest.fixture
def desk(database):
    return Desk(database)


def test_a_bundle_is_kept_once_it_is_whole_in_whatever_order_it_came(desk):
    for order in ((0, 1, 2, "result"), ("result", 2, 0, 1), (1, "result", 1, 0, 2)):
        command = desk.ask(why="it is odd", is_forced=True).id
        for step in order[:-1]:
            desk.result(command) if step == "result" else desk.part(command, step)
            assert desk.show(command).state == "waiting", order
            with pytest.raises(NotFound):
                desk.bundle(command)
        desk.result(command) if order[-1] == "result" else desk.part(command, order[-1])
        view = desk.show(command)
        assert (view.state, view.bundle_bytes, view.why) == ("done", len(BUNDLE), "it is odd"), order
        assert desk.bundle(command) == BUNDLE
        desk.result(command, ok=False, code="LATE")
        desk.part(command, 0, b"x" * 100)
        assert desk.bundle(command) == BUNDLE, "what comes twice changes nothing"
    assert desk.actions() == [("ada", "device.diagnose"), ("device:cam-1", "device.answer")] * 3


def test_parts_of_two_bundles_are_not_mixed(desk):
    """The agent ended in the middle and made another bundle for the same command."""
    command, other = desk.ask().id, BUNDLE[::-1]
    for number in (0, 1):
        desk.part(command, number)
    desk.part(command, 2, other)
    desk.result(command, content=other)
    assert desk.show(command).state == "waiting"
    desk.part(command, 0, other)
    desk.part(command, 1, other)
    assert desk.bundle(command) == other


def test_nobody_answers_for_another_device_or_puts_in_what_was_not_asked_for(desk):
    command, status = desk.ask().id, desk.ask("status").id
    desk.part(command, 0, device="cam-2")
    desk.result(command, device="cam-2")
    desk.part(status, 0)
    desk.part("f" * 24, 0)
    assert desk.show(command).state == "waiting"
    assert desk.kept() == []
    with desk.db.write() as session, pytest.raises(NotFound):
        answers.take_bundle(session, "cam-2", command, b"x", desk.now)


def test_an_answer_that_makes_no_sense_is_set_aside_and_the_rest_of_the_batch_is_stored(desk):
    command, other = desk.ask().id, desk.ask("status").id
    bad = [
        ("result", b"no json"),
        ("result", wire.encode(CommandResult("f" * 24, True))),
        ("result", wire.encode(CommandResult(command, True, data={"sha256": "x", "bytes": 1}))),
        ("part/8", b"x"),
        ("part/0", b"x" * (wire.PART_BYTES + 1)),
    ]
    batch = [Inbound("cam-1", f"up/cmd/{command}/{leaf}", payload) for leaf, payload in bad]
    batch.insert(2, Inbound("cam-1", wire.result_leaf(other), wire.encode(CommandResult(other, True, data={"a": 1}))))
    with desk.db.write() as session:
        outcome = intake.take_in(session, batch, bucket_ms=1000, now_ms=desk.now)
    assert (outcome.unreadable, desk.show(other).state, desk.show(command).state) == (5, "done", "waiting")
    with desk.db.read() as session:
        assert len(session.exec(select(DeadLetter)).all()) == 5
    assert desk.kept() == []


def test_a_bundle_beyond_its_size_is_refused_and_one_of_just_that_size_is_not(desk):
    command = desk.ask().id
    with desk.db.write() as session, pytest.raises(TooLarge):
        answers.take_bundle(session, "cam-1", command, b"x" * (wire.MAX_BUNDLE_BYTES + 1), desk.now)
    whole = (BUNDLE * 4)[: wire.MAX_BUNDLE_BYTES]
    with desk.db.write() as session:
        answers.take_bundle(session, "cam-1", command, whole, desk.now)
    desk.result(command, content=whole)
    assert desk.bundle(command) == whole
    later = desk.ask(is_forced=True).id
    data = {"sha256": "a" * 64, "bytes": wire.MAX_BUNDLE_BYTES + 1}
    with pytest.raises(MessageRefused):
        desk.take(wire.result_leaf(later), wire.encode(CommandResult(later, True, data=data)))


def test_a_diagnosis_that_fails_leaves_no_parts(desk):
    command = desk.ask().id
    desk.part(command, 0)
    desk.result(command, ok=False, code="COMMAND_INTERRUPTED", detail="The agent stopped.")
    assert (desk.show(command).state, desk.show(command).code) == ("failed", "COMMAND_INTERRUPTED")
    assert desk.kept() == []


def test_what_nobody_answers_expires_and_leaves_no_parts(desk):
    command = desk.ask(life_s=60).id
    desk.part(command, 0)
    desk.now += MINUTE
    desk.round()
    assert desk.show(command).state == "waiting"
    desk.now += 1
    desk.round()
    assert (desk.show(command).state, desk.show(command).code) == ("expired", "COMMAND_EXPIRED")
    assert desk.kept() == []
    assert desk.actions()[-1] == ("system:commands", "device.command.expired")
    desk.result(command)
    assert desk.show(command).state == "expired"
    with desk.db.read() as session:
        assert commands.waiting_for(session, "cam-1", desk.now) == []


def test_the_newest_bundles_of_a_device_are_kept(desk):
    made = []
    for _ in range(KEEPING.each + 2):
        made.append(desk.diagnosed())
        desk.now += MINUTE
    other = desk.diagnosed("cam-2")
    assert desk.kept() == sorted([*made[2:], other])
    assert desk.show(made[0]).state == "done", "the command stays, and says what became of it"


def test_bundles_go_when_they_are_old_and_the_oldest_when_the_disk_has_its_fill(desk):
    first = desk.diagnosed()
    desk.now += 10 * MINUTE
    second, third = desk.diagnosed(), desk.diagnosed("cam-2")
    desk.round(Keeping(total_bytes=3 * len(BUNDLE)))
    assert desk.kept() == [first, second, third]
    desk.round(Keeping(total_bytes=3 * len(BUNDLE) - 1))
    assert desk.kept() == [second, third]
    waiting = desk.ask(is_forced=True).id
    desk.part(waiting, 0)
    desk.round(Keeping(total_bytes=2 * len(BUNDLE)))
    with desk.db.read() as session:
        assert session.get(DiagnosisPart, (waiting, 0)) is not None, "what is on its way counts, and stays"
        assert session.get(DeviceCommand, second).is_kept is False
    desk.result(waiting, ok=False)
    desk.now += int(KEEPING.days * diagnoses.DAY_MS)
    desk.round()
    assert desk.kept() == [third]
    desk.now += 1
    desk.round()
    assert desk.kept() == []


def test_the_oldest_commands_make_room(desk, monkeypatch):
    monkeypatch.setattr(commands, "KEPT_COMMANDS", 3)
    made = []
    for _ in range(6):
        made.append(desk.diagnosed())
        desk.now += MINUTE
    with desk.db.read() as session:
        assert sorted(session.exec(select(DeviceCommand.id)).all()) == made[2:]


def test_a_device_that_ends_takes_its_bundles_along_and_is_asked_nothing_more(desk):
    kept, waiting = desk.diagnosed(), desk.ask("status").id
    with desk.db.write() as session:
        devices.end(session, "cam-1", "retired", actor="ada", reason="old", now_ms=desk.now)
    assert desk.kept() == []
    assert (desk.show(waiting).state, desk.show(waiting).code) == ("withdrawn", "DEVICE_ENDED")
    assert desk.show(kept).state == "done"
    with pytest.raises(Conflict) as caught:
        desk.ask("status")
    assert caught.value.code == "DEVICE_NOT_ENROLLED"


def test_what_cannot_be_asked_is_refused_and_leaves_nothing(desk):
    for asked, error, code in (
        ({"do": "shell"}, RequestRefused, "COMMAND_UNKNOWN"),
        ({"do": "diagnose", "life_s": commands.MAX_LIFE_S + 1}, RequestRefused, "COMMAND_LIFE"),
        ({"do": "diagnose", "device": "nobody"}, NotFound, "DEVICE_UNKNOWN"),
        ({"do": "rollback"}, RequestRefused, "COMMAND_MODEL"),
    ):
        with pytest.raises(error) as caught:
            desk.ask(**asked)
        assert caught.value.code == code
    assert desk.actions() == []


def test_asking_again_waits_unless_it_is_forced(desk):
    command = desk.ask("status").id
    with pytest.raises(Conflict) as caught:
        desk.ask("status")
    assert (caught.value.code, caught.value.details) == ("COMMAND_UNDER_WAY", {"command": command})
    desk.result(command)
    with pytest.raises(Conflict) as caught:
        desk.ask("status")
    assert caught.value.code == "COMMAND_TOO_SOON"
    assert desk.ask("selftest").state == desk.ask("status", is_forced=True).state == "waiting"
    desk.now += MINUTE
    desk.ask("selftest", is_forced=True)


def test_a_roll_back_names_the_release_to_leave_and_asks_who_may(desk):
    models = {
        name: ModelReported(sha256=letter * 64) for name, letter in (("vision/digits", "a"), ("audio/words", "b"))
    }
    said = Reported(
        device="cam-1", boot_epoch="0" * 16, session=1, beat=1, at_ms=NOW, gen=0, uptime_ms=1, models=models
    )  # fmt: skip
    with desk.db.write() as session:
        intake.take_in(session, [Inbound("cam-1", UP_REPORTED, encode(said))], bucket_ms=1000, now_ms=NOW)
    with pytest.raises(RequestRefused) as caught:
        desk.ask("rollback")
    assert "audio/words, vision/digits" in caught.value.remedy
    asked = []
    desk.ask("rollback", model="vision/digits", may=asked.append)
    assert asked == ["vision"]
    with desk.db.read() as session:
        (command,) = commands.waiting_for(session, "cam-1", NOW)
    assert command.args == {"model": "vision/digits", "actor": "ada", "sha256": "a" * 64}

    def refuse(team):
        raise NotAllowed(f"Not for {team}.", code="TEAM_REQUIRED", remedy="Ask.")

    with pytest.raises(NotAllowed):
        desk.ask("rollback", model="audio/words", may=refuse, is_forced=True)


class Teller:
    """The broker's end."""

    is_connected = True

    def __init__(self):
        self.told = []

    def publish(self, device, leaf, payload, *, retain, expiry_s=None):
        self.told.append((device, leaf, json.loads(payload)["do"], retain, expiry_s))
        return object()


def test_a_command_is_told_again_until_it_is_answered_and_does_not_pile_up_at_the_broker(desk):
    teller = Teller()
    command = desk.ask("status").id
    desk.round(teller=teller)
    desk.round(teller=teller)
    assert teller.told == [("cam-1", f"down/cmd/{command}", "status", False, 30)]
    desk.now += 30_000
    desk.round(teller=teller)
    assert len(teller.told) == 2
    desk.now += commands.LIFE_S["status"] * 1000 - 40_000
    desk.round(teller=teller)
    assert teller.told[-1][-1] == 10, "never longer than the command lives"
    desk.result(command)
    desk.now += 30_000
    desk.round(teller=teller)
    assert len(teller.told) == 3


def test_a_device_that_polls_hears_how_many_wait(desk):
    for do in ("status", "selftest", "diagnose"):
        desk.ask(do)
    with desk.db.read() as session:
        assert commands.count_waiting(session, "cam-1", desk.now) == 3
        assert commands.count_waiting(session, "cam-2", desk.now) == 0
        assert commands.count_waiting(session, "cam-1", desk.now + 2 * 3_600_000) == 1, "the two that live an hour"
