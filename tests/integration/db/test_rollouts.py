"""Rollouts end to end over the database: promoted, halted and rolled back, steered, and never told twice."""

from __future__ import annotations

import pytest
from sqlmodel import select

from control_plane.db.queries.decisions import list_decisions
from control_plane.db.queries.rollouts import list_executions, list_rollouts
from control_plane.db.tables import Desired, DeviceExecution, Outbox
from control_plane.errors import Conflict, NotAllowed, NotFound, PlanRefused, PolicyRefused, PreconditionFailed
from control_plane.services import audit, devices, rollouts


def _first(fleet) -> str:
    """Have the whole fleet run 1.0.0; return its digest."""
    return fleet.already_on(fleet.release("1.0.0", 1))


def test_a_good_first_release_reaches_every_device(fleet):
    sha256 = fleet.release("1.0.0", 1)
    rollout = fleet.create(sha256).id
    fleet.approve(rollout)
    fleet.run_until(rollout, "completed")
    assert {robot.active for robot in fleet.robots.values()} == {sha256}
    with fleet.db.read() as session:
        (view,), _ = list_rollouts(session)
        states = session.exec(select(DeviceExecution.state, DeviceExecution.active)).all()
        gates, _ = list_decisions(session, kind="gate")
        chain = audit.verify(session)
    assert (view.phase, view.confirmed, view.failed, view.devices) == ("completed", 24, 0, 24)
    assert set(states) == {("confirmed", False)}
    assert chain.is_whole
    assert gates
    assert all(row.body["evidence_sha256"] and row.body["evidence"] for row in gates)
    assert {(one["gate"], one["verdict"]) for one in gates[0].body["results"]} >= {
        ("install", "pass"),
        ("output", "not_applicable"),
        ("error_rate", "pass"),
    }


def test_a_second_release_is_compared_with_the_one_before(fleet):
    old = _first(fleet)
    new = fleet.release("1.1.0", 2)
    rollout = fleet.create(new).id
    assert fleet.show(rollout).rollout.baseline_sha256 == old
    fleet.approve(rollout)
    fleet.run_until(rollout, "completed")
    assert {robot.active for robot in fleet.robots.values()} == {new}
    with fleet.db.read() as session:
        gates, _ = list_decisions(session, subject=f"rollout:{rollout}", kind="gate")
    first_wave = [one for row in gates for one in row.body["results"] if row.body["wave"] == 0]
    assert ("output", "pass") in {(one["gate"], one["verdict"]) for one in first_wave}


@pytest.mark.parametrize("fate", ["fails", "wrong", "bricks"])
def test_a_bad_release_is_halted_and_every_exposed_device_goes_back(fleet, fate):
    old = _first(fleet)
    bad = fleet.release("1.2.0", 3, fate=fate)
    rollout = fleet.create(bad).id
    fleet.approve(rollout)
    asked_before = {device: list(robot.asked) for device, robot in fleet.robots.items()}
    shown = fleet.run_until(rollout, "rolling_back", "rolled_back")
    assert shown.halt is not None
    assert shown.halt.gate == {"fails": "install_cusum", "wrong": "output", "bricks": "install_cusum"}[fate]
    for robot in fleet.robots.values():  # somebody walks over and switches them on again
        if robot.offline:
            robot.offline, robot.phase, robot.target = False, "idle", robot.active
    fleet.run_until(rollout, "rolled_back")
    with fleet.db.read() as session:
        rows = session.exec(select(DeviceExecution).where(DeviceExecution.rollout == rollout)).all()
        kinds = set(session.exec(select(Outbox.kind).where(Outbox.key.startswith(f"rollout:{rollout}"))))
        story = fleet.explain(rollout)
    exposed = {row.device for row in rows if row.wave == 0}
    assert len(exposed) == 17
    assert {robot.active for robot in fleet.robots.values()} == {old}
    for device, robot in fleet.robots.items():
        if device not in exposed:
            assert robot.asked == asked_before[device], "nobody else was ever asked to move"
    assert {"rollout.halted", "rollout.rolled_back"} <= kinds
    assert story.halt is not None
    assert story.halt.numbers


def test_canaries_report_often_only_while_they_are_watched(fleet):
    _first(fleet)
    new = fleet.release("1.1.0", 2)
    rollout = fleet.create(new).id
    fleet.approve(rollout)
    with fleet.db.read() as session:
        assert session.exec(select(Desired.canary)).all().count(True) == 17
    fleet.run_until(rollout, "completed")
    fleet.step()
    with fleet.db.read() as session:
        assert session.exec(select(Desired.canary)).all().count(True) == 0
        gens = session.exec(select(Desired.gen)).all()
    for _ in range(3):
        fleet.step()
    with fleet.db.read() as session:
        assert session.exec(select(Desired.gen)).all() == gens
    assert {robot.active for robot in fleet.robots.values()} == {new}
    assert fleet.show(rollout).rollout.confirmed == 24


def test_a_silent_minority_is_resolved_by_its_deadline_and_named(fleet):
    _first(fleet)
    new = fleet.release("1.1.0", 2)
    rollout = fleet.create(new).id
    fleet.robots["cam-03"].offline = True
    fleet.approve(rollout)
    fleet.run_until(rollout, "completed")
    with fleet.db.read() as session:
        row = session.exec(
            select(DeviceExecution).where(DeviceExecution.rollout == rollout, DeviceExecution.device == "cam-03")
        ).one()
    assert (row.state, row.reason, row.active) == ("deferred", "offline", True)
    fleet.robots["cam-03"].offline = False
    for _ in range(15):
        fleet.step()
    with fleet.db.read() as session:
        rows, _ = list_executions(session, rollout, state="confirmed", limit=100)
    assert len(rows) == 24, "the tail takes in a straggler"
    assert fleet.robots["cam-03"].active == new


def test_the_same_heartbeats_again_change_nothing(fleet):
    rollout = fleet.create(fleet.release("1.0.0", 1)).id
    fleet.approve(rollout)
    sent = []
    deliver = fleet.deliver
    fleet.deliver = lambda items: (sent.extend(items), deliver(items))
    for _ in range(6):
        fleet.step()
    before = fleet.show(rollout)
    deliver(sent)
    deliver(list(reversed(sent)))
    assert fleet.show(rollout) == before


def test_a_pause_recalls_offers_and_a_resume_makes_them_again(fleet):
    _first(fleet)
    new = fleet.release("1.1.0", 2)
    rollout = fleet.create(new).id
    fleet.approve(rollout)
    paused = fleet.steer(rollouts.pause, rollout)
    assert paused.phase == "paused"
    with fleet.db.read() as session:
        assert set(session.exec(select(DeviceExecution.state).where(DeviceExecution.rollout == rollout))) == {"queued"}
    for _ in range(3):
        fleet.step()
    assert new not in {robot.active for robot in fleet.robots.values()}
    fleet.steer(rollouts.resume, rollout)
    fleet.run_until(rollout, "completed")
    assert {robot.active for robot in fleet.robots.values()} == {new}


def test_an_abort_leaves_devices_where_they_are_and_asks_nobody_new(fleet):
    _first(fleet)
    new = fleet.release("1.1.0", 2)
    rollout = fleet.create(new).id
    fleet.approve(rollout)
    for _ in range(8):
        fleet.step()
    fleet.steer(rollouts.abort, rollout)
    for _ in range(30):
        fleet.step()
    active = [robot.active for robot in fleet.robots.values()]
    assert active.count(new) == 17
    assert fleet.show(rollout).rollout.phase == "aborted"


def test_a_roll_back_on_request_needs_nobody_else(fleet):
    old = _first(fleet)
    new = fleet.release("1.1.0", 2)
    rollout = fleet.create(new).id
    fleet.approve(rollout)
    for _ in range(8):
        fleet.step()
    fleet.steer(rollouts.rollback, rollout, actor="ada")
    fleet.run_until(rollout, "rolled_back")
    assert {robot.active for robot in fleet.robots.values()} == {old}


def test_a_newer_rollout_takes_stragglers_over(fleet):
    _first(fleet)
    fleet.robots["cam-03"].offline = True
    one = fleet.create(fleet.release("1.1.0", 2)).id
    fleet.approve(one)
    fleet.run_until(one, "completed")
    newest = fleet.release("1.2.0", 3)
    two = fleet.create(newest).id
    fleet.approve(two)
    fleet.run_until(two, "completed")
    fleet.robots["cam-03"].offline = False
    for _ in range(15):
        fleet.step()
    assert {robot.active for robot in fleet.robots.values()} == {newest}
    with fleet.db.read() as session:
        rows = session.exec(select(DeviceExecution).where(DeviceExecution.device == "cam-03")).all()
    by_rollout = {row.rollout: (row.state, row.active) for row in rows}
    assert by_rollout[one] == ("superseded", False)
    assert by_rollout[two] == ("confirmed", False)


def test_a_device_in_an_open_rollout_is_left_out_of_the_next(fleet):
    _first(fleet)
    one = fleet.create(fleet.release("1.1.0", 2), selector={"devices": ["cam-00", "cam-01"]}).id
    two = fleet.create(fleet.release("1.2.0", 3)).id
    assert fleet.show(two).excluded == {"cam-00": f"busy:{one}", "cam-01": f"busy:{one}"}


def test_a_retired_device_holds_nothing_up(fleet):
    _first(fleet)
    new = fleet.release("1.1.0", 2)
    rollout = fleet.create(new).id
    with fleet.db.write() as session:
        devices.end(session, "cam-05", "retired", reason="", actor="bob", now_ms=fleet.now)
    fleet.robots["cam-05"].offline = True
    fleet.approve(rollout)
    fleet.run_until(rollout, "completed")
    with fleet.db.read() as session:
        skipped, _ = list_executions(session, rollout, state="skipped")
    assert [(row.device, row.reason) for row in skipped] == [("cam-05", "device_retired")]


def test_nothing_but_an_approved_release_is_rolled_out(fleet):
    for stage in ("registered", "rejected", "retired"):
        sha256 = fleet.release(f"0.{len(fleet.fates)}.0", len(fleet.fates) + 1, stage=stage)
        with pytest.raises(Conflict) as caught:
            fleet.create(sha256)
        assert caught.value.code == "RELEASE_NOT_APPROVED"
    with pytest.raises(NotFound):
        fleet.create("f" * 64)


@pytest.mark.parametrize(
    ("more", "kind", "code"),
    [
        ({"selector": {}}, PlanRefused, "PLAN_SELECTOR_EMPTY"),
        ({"selector": {"labels": {"site": "nowhere"}}}, PlanRefused, "PLAN_SELECTOR_EMPTY"),
        ({"waves": [{"percent": 50, "soak_s": 8}, {"percent": 40, "soak_s": 8}]}, PlanRefused, "PLAN_WAVES_SUM"),
        ({"waves": [{"count": 7, "soak_s": 8}]}, PlanRefused, "PLAN_WAVES_SUM"),
        ({"waves": [{"rest": True, "soak_s": 5}]}, PolicyRefused, "POLICY_SOAK"),
        ({"policy": {"quorun": 0.9}}, PolicyRefused, "POLICY_FIELD"),
        ({"profile": {"heartbeats": 3}}, PolicyRefused, "PROFILE_FIELD"),
        ({"profile": {"heartbeat_s": float("nan")}}, PolicyRefused, "PROFILE_FIELD"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_work_is_refused_and_leaves_nothing(fleet, more, kind, code):
    sha256 = fleet.release("1.0.0", 1)
    with pytest.raises(kind) as caught:
        fleet.create(sha256, **more)
    assert caught.value.code == code
    with fleet.db.read() as session:
        assert list_rollouts(session) == ([], None)


def test_the_creator_may_not_approve(fleet):
    rollout = fleet.create(fleet.release("1.0.0", 1)).id
    with pytest.raises(NotAllowed) as caught:
        fleet.approve(rollout, "ada")
    assert caught.value.code == "FOUR_EYES"
    assert fleet.show(rollout).rollout.phase == "pending_approval"


def test_a_verb_for_another_version_or_phase_is_refused(fleet):
    made = fleet.create(fleet.release("1.0.0", 1))
    with pytest.raises(PreconditionFailed):
        fleet.steer(rollouts.abort, made.id, expected=made.version + 1)
    with pytest.raises(Conflict) as caught:
        fleet.steer(rollouts.resume, made.id)
    assert caught.value.code == "ROLLOUT_PHASE"
    running = fleet.approve(made.id)
    fleet.step()
    fleet.step()
    assert fleet.show(made.id).rollout.version == running.version, "reports do not void what an operator has seen"
    assert fleet.steer(rollouts.pause, made.id, expected=running.version).phase == "paused"


def test_an_unapproved_rollout_expires(fleet):
    rollout = fleet.create(fleet.release("1.0.0", 1), policy={"approval_expiry_s": 30}).id
    fleet.run_until(rollout, "expired", seconds=40)


def test_rollouts_are_listed_in_pages_newest_first(fleet):
    sha256 = fleet.release("1.0.0", 1)
    made = []
    for device in list(fleet.robots)[:5]:
        fleet.now += 10
        waves = [{"rest": True, "soak_s": 8}]
        made.append(fleet.create(sha256, selector={"devices": [device]}, waves=waves).id)
    with fleet.db.read() as session:
        one, key = list_rollouts(session, limit=2)
        two, key = list_rollouts(session, limit=2, after=key)
        three, end = list_rollouts(session, limit=2, after=key)
    assert [view.id for view in one + two + three] == made[::-1]
    assert end is None
