"""Conditions on a device that really runs: what is put off waits whole, costs nothing, and goes on by itself."""

import json
import time

import numpy as np
import pytest

from agent.client import Client
from agent.conditions import Conditions, Limits, Maintenance, Places
from agent.core import events as ev
from agent.core.health import HealthLimits, judge
from agent.lock import held
from agent.runner.owner import request_retry

NIGHT = 1_795_572_000_000  # 2026-11-25 02:00 UTC
COUNTS = ("attempts", "recoveries", "transitions", "deferrals", "wrong_content", "tried")


@pytest.fixture
def facts(tmp_path):
    folder = tmp_path / "facts"
    folder.mkdir()
    return folder


def limited(rig, facts, *, wall_ms=lambda: NIGHT, network_manager=lambda: "", **limits):
    """Start the device with these limits, and with facts of its own."""
    places = Places(facts / "supplies", facts / "meminfo", facts / "routes", network_manager=network_manager)
    rig.conditions = Conditions(Limits(**{"metered": "no", **limits}), rig.disk / "update.lock", wall_ms, places)
    rig.start()
    return rig


def counts(state):
    return {name: getattr(state, name) for name in COUNTS}


def fetched(rig):
    return dict(rig.asked)


def test_a_lock_puts_the_activation_off_and_nothing_else(make_rig, facts):
    rig = limited(make_rig(), facts)
    first, second = rig.release(1), rig.release(2)
    rig.install(first)
    with held(rig.disk / "update.lock"):
        rig.ask(second)
        before = counts(rig.settle("deferred", first.sha256))
        assert (rig.state().reason, rig.state().code) == ("lock", "CONDITION_LOCK")
        assert before == {**counts(rig.state()), "attempts": 0, "tried": (), "transitions": 0}
        assert rig.answer() == first.sha256
        assert rig.store.slot(second.sha256) is not None, "staged, and kept"
        once = fetched(rig)
        rig.schedule.soon(lambda: request_retry(rig.device.updates, "", "ann"))
        rig.restart()  # a person's wish and a start look again, and the lock still holds
        rig.settle("deferred", first.sha256)
        assert counts(rig.state()) == before
    rig.schedule.soon(lambda: rig.device.updates.offer_all(ev.ConditionsChanged(0)))
    state = rig.settle("confirmed", second.sha256)
    assert fetched(rig) == once, "not a byte was fetched twice"
    assert (state.tried, state.recoveries) == ((), 0)
    assert [p.reason for p in state.history if p.step == "deferred"] == ["lock"]


def test_a_window_opens_and_the_update_goes_on_by_itself(make_rig, facts):
    began = time.monotonic()
    rig = limited(
        make_rig(),
        facts,
        wall_ms=lambda: NIGHT - 1_500 + round((time.monotonic() - began) * 1000),
        windows=[Maintenance("0 2 * * *", 1).window()],
    )
    first, second = rig.release(1), rig.release(2)
    rig.install(first)  # nothing answered before: it did not wait
    began = time.monotonic()  # 1.5 s before the window, again
    rig.ask(second)
    rig.settle("confirmed", second.sha256)
    assert [p.reason for p in rig.state().history if p.step == "deferred"] in ([], ["window"])
    assert rig.conditions.check("activate", 0) is None


def test_a_closed_window_lets_the_download_go_on(make_rig, facts):
    rig = limited(make_rig(), facts, windows=[Maintenance("0 0 30 2 *", 1).window()])
    first, second = rig.release(1), rig.release(2)
    rig.install(first)
    rig.ask(second)
    rig.until(lambda: rig.state().reason == "window", "put off by the window")
    assert rig.blob(second).exists()
    assert "never" in rig.state().detail
    rig.ask(first)
    rig.settle("confirmed", first.sha256)


@pytest.mark.parametrize("reason", ["battery", "metered"])
def test_a_low_battery_and_a_metered_network_put_the_download_off_and_cost_nothing(make_rig, facts, reason):
    supply, connection = facts / "supplies" / "BAT0", facts / "metered"
    supply.mkdir(parents=True)
    for name, said in (("type", "Battery"), ("present", "1"), ("status", "Discharging"), ("capacity", "80")):
        (supply / name).write_text(said)
    (facts / "routes").write_text("Iface Destination\nwwan0 00000000\n")
    connection.write_text("wwan0:no")
    rig = limited(make_rig(), facts, min_battery_percent=30, metered="auto", network_manager=connection.read_text)
    first, second = rig.release(1), rig.release(2)
    rig.install(first)
    spoils, mends = {
        "battery": ((supply / "capacity", "12"), (supply / "status", "Charging")),
        "metered": ((connection, "wwan0:yes (guessed)"), (connection, "wwan0:no")),
    }[reason]
    spoils[0].write_text(spoils[1])
    rig.ask(second)
    before = counts(rig.settle("deferred", first.sha256))
    assert (rig.state().reason, rig.state().code) == (reason, f"CONDITION_{reason.upper()}")
    assert before == {**before, "attempts": 0, "tried": (), "transitions": 0}
    assert rig.asked[second.sha256] == 0, "not a byte"
    assert rig.answer() == first.sha256
    mends[0].write_text(mends[1])
    rig.look_again()
    rig.settle("confirmed", second.sha256)
    assert [p.reason for p in rig.state().history if p.step == "deferred"] == [reason]


def test_a_way_back_does_not_wait_for_the_window(make_rig, facts):
    rig = limited(make_rig(), facts)
    first, second = rig.release(1), rig.release(2)
    rig.install(first, second)
    rig.stop()
    limited(rig, facts, windows=[Maintenance("0 0 30 2 *", 1).window()], min_battery_percent=90)
    (facts / "supplies" / "BAT0").mkdir(parents=True)
    (facts / "supplies" / "BAT0" / "type").write_text("Battery")
    (facts / "supplies" / "BAT0" / "capacity").write_text("3")
    with held(rig.disk / "update.lock"):
        rig.ask(first)
        rig.settle("confirmed", first.sha256)
        assert rig.answer() == first.sha256


def test_too_little_memory_puts_the_trial_off_and_blames_nobody(make_rig, facts):
    (facts / "meminfo").write_text("MemAvailable: 4000000 kB\n")
    rig = limited(make_rig(), facts)
    first, second = rig.release(1), rig.release(2)
    rig.install(first)
    (facts / "meminfo").write_text("MemAvailable: 1000 kB\n")
    rig.ask(second)
    state = rig.settle("deferred", first.sha256)
    assert (state.reason, state.code, state.tried) == ("memory", "CONDITION_MEMORY", ())
    (facts / "meminfo").write_text("MemAvailable: 4000000 kB\n")
    rig.schedule.soon(lambda: request_retry(rig.device.updates, "", "ann"))
    rig.settle("confirmed", second.sha256)


def test_the_status_file_tells_the_story(make_rig, facts):
    rig = limited(make_rig(), facts)
    first, second = rig.release(1), rig.release(2)
    rig.install(first)
    with held(rig.disk / "update.lock"):
        rig.ask(second)
        rig.settle("deferred", first.sha256)

        def told():
            story = json.loads((rig.disk / "status.json").read_bytes())["updates"].get("vision/digits", {})
            return story if story.get("step") == "deferred" else None

        story = rig.until(told, "the status says deferred")
    assert story["waits_for"] == "the end of: lock"
    assert {name: r["version"] for name, r in story["releases"].items()} == {
        "active": "1.0.0", "committed": "1.0.0", "target": "2.0.0",
    }  # fmt: skip
    assert [p["step"] for p in story["history"]][-1] == "deferred"


def test_a_model_that_no_longer_looks_at_its_inputs_is_told_from_a_scene_that_does_not_change(make_rig, facts):
    """Twenty different inputs with one answer are a suspicion; golden inputs through the live engine decide."""
    rig = limited(make_rig(), facts)
    sound, stuck = rig.release(1), rig.release(2, answer="constant", value=0.25)
    rig.install(sound)

    def look():
        with Client(rig.folder / "s", timeout_s=10) as client:
            for n in range(1, 31):  # other inputs each time, with a mean of nothing
                a = n / 32
                client.infer("vision/digits", {"x": np.array([[a, -a, a / 2, -a / 2]], dtype=np.float32)})
        return rig.models.numbers("vision/digits")[1]

    numbers = look()
    assert numbers.distinct_inputs >= 20
    assert judge(numbers, HealthLimits()).verdict == "healthy"
    with held(rig.disk / "update.lock"):
        rig.ask(stuck)
        rig.settle("deferred")
        rig.models.activate(rig.device.steps.bundle(rig.state().target))
        judgement = judge(look(), HealthLimits())
        assert (judgement.verdict, judgement.reason) == ("unhealthy", "constant")
