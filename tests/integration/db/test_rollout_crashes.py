"""The server dies in the middle of things, and its threads meet on one rollout: nothing is lost or doubled."""

from __future__ import annotations

import threading
from collections import Counter

import msgspec
import pytest
from sqlmodel import select

from control_plane.core.rollout import decode_state
from control_plane.core.states import DeviceState
from control_plane.db.tables import Desired, DeviceExecution, RolloutRow
from control_plane.services import audit, rollouts
from control_plane.services.rollouts import driving


class ServerDied(Exception):
    """The process ended here."""


def _assert_rows_match_tallies(fleet, rollout: str) -> None:
    with fleet.db.read() as session:
        state = decode_state(msgspec.json.decode(session.get(RolloutRow, rollout).state_json))
        rows = session.exec(
            select(DeviceExecution.wave, DeviceExecution.state).where(DeviceExecution.rollout == rollout)
        ).all()
        assert audit.verify(session).is_whole
    counted = Counter(rows)
    for wave in state.waves:
        told = {(wave.index, name.value): wave.tally.of(name) for name in DeviceState}
        assert {key: count for key, count in told.items() if count} == {
            key: count for key, count in counted.items() if key[0] == wave.index
        }


@pytest.mark.parametrize("fate", ["good", "fails"])
def test_a_server_that_dies_at_every_effect_ends_the_same_way(fleet, monkeypatch, fate):
    died = set()
    carry_out = driving.carry_out

    def dying(run, effect):
        followed = carry_out(run, effect)
        if effect not in died:
            died.add(effect)
            raise ServerDied
        return followed

    def again(call):
        def until_done(*arguments, **named):
            for _ in range(200):
                try:
                    return call(*arguments, **named)
                except ServerDied:
                    continue  # started again; the broker delivers again what was not acknowledged
            raise AssertionError("it never got through")

        return until_done

    old = fleet.already_on(fleet.release("1.0.0", 1))
    new = fleet.release("1.1.0", 2, fate=fate)
    monkeypatch.setattr(driving, "carry_out", dying)
    monkeypatch.setattr(rollouts, "tick", again(rollouts.tick))
    fleet.deliver, fleet.approve = again(fleet.deliver), again(fleet.approve)
    rollout = fleet.create(new).id
    fleet.approve(rollout)
    shown = fleet.run_until(rollout, "completed", "rolled_back")
    assert {type(effect).__name__ for effect in died} >= {"OfferWave", "Record", "Notify"}
    assert shown.rollout.phase == ("completed" if fate == "good" else "rolled_back")
    assert {robot.active for robot in fleet.robots.values()} == {new if fate == "good" else old}
    _assert_rows_match_tallies(fleet, rollout)


def test_reports_ticks_and_people_at_once_leave_one_story(fleet):
    fleet.already_on(fleet.release("1.0.0", 1))
    rollout = fleet.create(fleet.release("1.1.0", 2)).id
    fleet.approve(rollout)
    fleet.now += 1000
    batches = []
    for _ in range(6):
        fleet.now += 1000
        batch = []
        with fleet.db.read() as session:
            for robot in fleet.robots.values():
                fleet._work(robot, session.get(Desired, robot.id))
                batch += fleet._messages(robot)
        batches.append(batch)
    errors: list[BaseException] = []

    def guarded(work):
        def run():
            try:
                work()
            except BaseException as error:  # a thread's failure must fail the test
                errors.append(error)

        return run

    def tick_often():
        for n in range(6):
            rollouts.tick(fleet.db, fleet.now + n * 500)

    def pause_and_resume():
        fleet.steer(rollouts.pause, rollout)
        fleet.steer(rollouts.resume, rollout)

    halves = [[item for batch in batches[part::2] for item in batch] for part in range(2)]
    work = [tick_often, pause_and_resume, *(lambda half=half: fleet.deliver(half) for half in halves)]
    threads = [threading.Thread(target=guarded(one)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    _assert_rows_match_tallies(fleet, rollout)


def test_a_rollout_whose_rows_were_tampered_with_stops_alone(fleet):
    fleet.already_on(fleet.release("1.0.0", 1))
    one = {"waves": [{"rest": True, "soak_s": 8}], "selector": {"devices": ["cam-00"]}}
    broken = fleet.create(fleet.release("1.1.0", 2), **one)
    whole = fleet.create(fleet.release("1.2.0", 3), waves=[{"rest": True, "soak_s": 8}])
    fleet.approve(broken.id)
    with fleet.db.write() as session:
        row = session.exec(select(DeviceExecution).where(DeviceExecution.rollout == broken.id)).one()
        row.state = "activating"
        row.execution_json = row.execution_json.replace('"state":"offered"', '"state":"activating"')
        session.add(row)
    fleet.approve(whole.id)
    fleet.run_until(whole.id, "completed")
    shown = fleet.show(broken.id).rollout
    assert (shown.phase, shown.confirmed) == ("running", 0)
    with fleet.db.read() as session:
        assert audit.verify(session).is_whole
