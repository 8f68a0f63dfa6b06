"""The first devices of each failure reason in a wave are asked for a support bundle, by themselves."""

from __future__ import annotations

import hashlib

import pytest
from sqlmodel import select

from bundles.wire import commands as wire
from bundles.wire.commands import CommandResult
from control_plane.db.queries.commands import diagnoses_of_rollout
from control_plane.db.tables import Decision, Device, DeviceCommand
from control_plane.services import answers, audit, diagnoses

WAVES = [{"count": 20, "soak_s": 8}, {"rest": True, "soak_s": 8}]


@pytest.fixture
def halted(fleet):
    """A rollout whose first wave failed on every device that took it."""

    def run(policy=None):
        fleet.already_on(fleet.release("1.0.0", 1))
        bad = fleet.release("2.0.0", 2, fate="fails")
        rollout = fleet.create(bad, waves=WAVES, policy=policy).id
        fleet.approve(rollout)
        fleet.run_until(rollout, "halted", "rolled_back", "rolling_back")
        return rollout

    return run


def asked(fleet, rollout):
    with fleet.db.read() as session:
        return diagnoses_of_rollout(session, rollout)


def test_the_first_devices_of_a_failure_are_asked_and_shown(fleet, halted):
    rollout = halted()
    commands = asked(fleet, rollout)
    assert [(one.do, one.actor, one.wave, one.failure) for one in commands] == [
        ("diagnose", "system:rollout", 1, "golden_mismatch")
    ] * 3
    assert len({one.device for one in commands}) == 3
    assert commands[0].why == f"Among the first 3 that failed for golden_mismatch in wave 1 of {rollout}."
    with fleet.db.read() as session:
        assert audit.verify(session).is_whole
        rows = session.exec(select(Decision).where(Decision.action == "device.diagnose")).all()
    assert {row.actor for row in rows} == {"system:rollout"}
    assert sorted(row.subject for row in rows) == sorted(f"device:{one.device}" for one in commands)

    content = b"a support bundle" * 10
    done = commands[0]
    with fleet.db.write() as session:
        answers.take_bundle(session, done.device, done.id, content, fleet.now)
        data = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        payload = wire.encode(CommandResult(done.id, True, data=data))
        answers.take_in(session, done.device, wire.result_leaf(done.id), payload, fleet.now)
    story = fleet.explain(rollout)
    assert (
        f"Diagnosis of {done.device} (wave 1, golden_mismatch): "
        f"wavegate device diagnosis {done.device} {done.id} --show" in story.text
    )
    assert story.text.count("golden_mismatch): waiting.") == 2
    shown = fleet.show(rollout).diagnoses
    assert [(one.device, one.bundle_bytes) for one in shown] == [
        (one.device, len(content) if one is done else 0) for one in commands
    ]


@pytest.mark.parametrize("most", [0, 1])
def test_the_policy_says_how_many(fleet, halted, most):
    assert len(asked(fleet, halted({"diagnoses": most}))) == most


def test_simulated_and_ended_devices_are_not_asked(fleet):
    with fleet.db.write() as session:
        session.get(Device, "cam-00").tier = "virtual"
        session.get(Device, "cam-01").state = "retired"
        for device in ("cam-00", "cam-01", "cam-02"):
            diagnoses.ask_about_failure(
                session, rollout="r1", wave=0, device=device, failure="x", most=3, now_ms=fleet.now
            )
    assert [one.device for one in asked(fleet, "r1")] == ["cam-02"]


def test_each_reason_and_each_wave_counts_by_itself_and_being_told_twice_is_normal(fleet):
    def fail(device, wave, failure, times=2):
        for _ in range(times):
            with fleet.db.write() as session:
                diagnoses.ask_about_failure(
                    session, rollout="r1", wave=wave, device=device, failure=failure, most=2, now_ms=fleet.now
                )

    for number in range(4):
        fail(f"cam-{number:02}", 0, "health")
        fail(f"cam-{number + 4:02}", 0, "disk")
        fail(f"cam-{number + 8:02}", 1, "health")
    fail("nobody", 0, "other")
    told = [(one.device, one.wave, one.failure) for one in asked(fleet, "r1")]
    assert sorted(told) == [
        ("cam-00", 1, "health"),
        ("cam-01", 1, "health"),
        ("cam-04", 1, "disk"),
        ("cam-05", 1, "disk"),
        ("cam-08", 2, "health"),
        ("cam-09", 2, "health"),
    ]


def test_reasons_without_end_do_not_ask_the_whole_fleet(fleet, monkeypatch):
    monkeypatch.setattr(diagnoses, "MOST_A_WAVE", 5)
    for number in range(20):
        with fleet.db.write() as session:
            diagnoses.ask_about_failure(
                session, rollout="r1", wave=0, device=f"cam-{number:02}", failure=f"made up {number}", most=3,
                now_ms=fleet.now,
            )  # fmt: skip
    with fleet.db.read() as session:
        assert len(session.exec(select(DeviceCommand)).all()) == 5
