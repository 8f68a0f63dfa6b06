"""Two agents with one identity against one server, and honest agents that restart or have a bad link."""

from __future__ import annotations

import shutil

import pytest

from agent.runner.link import CLONE_LOSSES


def told_by(house, name):
    events = house.api.get(f"/api/v1/devices/{name}/events", params={"limit": 200}).json()["items"]
    return [event for event in events if event["kind"] == "identity_conflict"]


@pytest.mark.parametrize("by", ["mqtt", "https"])
def test_a_clone_raises_an_alert_that_names_the_device(house, site, until, by):
    house.start()
    folder = site.enrol("cam-1")
    honest = site.enrol("cam-2")
    copy = site.folder / "copy"
    shutil.copytree(folder, copy)
    for place in (folder, copy, honest):
        site.run(place, mqtt=by == "mqtt")
    (alert,) = until(house.alerts, "the alert")
    assert alert["labels"] == {"alert": "identity_conflict", "device": "cam-1"}
    assert alert["severity"] == "critical"
    assert "wavegate device revoke cam-1" in alert["summary"]
    assert "identity_conflict" in house.do("alerts", "list")
    if by == "mqtt":
        until(lambda: told_by(house, "cam-1"), "the devices' own word")
    assert not told_by(house, "cam-2")


def test_honest_restarts_raise_no_alert(house, site, until):
    house.start()
    folder = site.enrol("cam-1")
    for number in range(1, 9):
        agent = site.run(folder)
        until(lambda n=number: house.sighting("cam-1").get("session") == n, "a heartbeat of this session")
        site.stop(agent)
    assert house.sighting("cam-1").get("steps_back", 0) == 0
    assert not house.alerts()


def test_a_flaky_link_raises_no_alert(house, site, until):
    """A cable that is cut again and again; heartbeats go on, over one connection or the next."""
    house.start()
    agent = site.run(site.enrol("cam-1"))
    transport = agent.device.link._transport
    for _ in range(CLONE_LOSSES * 2):
        before = house.sighting("cam-1").get("beat", 0)
        until(lambda: transport.connected, "connected")
        until(lambda n=before: house.sighting("cam-1").get("beat", 0) > n, "a heartbeat")
        transport.drop()
        until(lambda: agent.device.link._up_since_ms == 0, "the loss noticed")
    until(lambda: transport.connected, "connected at last")
    assert house.sighting("cam-1").get("steps_back", 0) == 0
    assert not house.alerts()
