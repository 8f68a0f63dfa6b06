"""Whole agents whose clocks are wrong, at the real doors of a real server: HTTPS, and mosquitto with mutual TLS."""

from __future__ import annotations

import datetime as dt
import logging
import time

from control_plane.identity.authority import SERVER_LIFE

DAY_MS = 86_400_000


class WrongClock:
    """A machine whose clock stood at ``at_ms`` when the agent started, and runs."""

    def __init__(self, at_ms: int) -> None:
        self._ahead_ms = at_ms - time.monotonic_ns() // 1_000_000

    def now_ms(self) -> int:
        return self._ahead_ms + time.monotonic_ns() // 1_000_000

    wall_ms = now_ms


def is_in_touch(house, agent):
    """Whether the first poll brought the assignment, and MQTT the news of it."""
    device = house.device(agent.device.me.device)
    return agent.device.voice.gen and device["online"] and device["reported_gen"] == device["desired_gen"]


def test_a_device_that_wakes_in_1970_reaches_its_first_poll_and_the_broker(house, site, until):
    """It has never seen any metadata, and the server's certificates are newer than the agent's program."""
    house.start()
    folder = site.enrol("cam-1")
    agent = site.run(folder, WrongClock(5_000))
    until(lambda: agent.device.link.route == "mqtt", "the broker in use")
    until(lambda: is_in_touch(house, agent), "its first assignment taken and told of")
    assert agent._trust_ms() > 1_600_000_000_000, "the signed metadata have told it the time"
    site.stop(agent)
    polls = site.run(folder, WrongClock(5_000), mqtt=False)
    until(lambda: polls.device.voice.gen, "a poll without the broker")


def test_a_clock_after_the_end_of_the_servers_certificates_refuses_both_doors(house, site, until, caplog):
    caplog.set_level(logging.INFO, "agent.runner.link")
    house.start()
    folder = site.enrol("cam-1")
    late_ms = time.time_ns() // 1_000_000 + SERVER_LIFE // dt.timedelta(milliseconds=1) + DAY_MS
    agent = site.run(folder, WrongClock(late_ms))

    def refused(what):
        return any(what in line and "[TRUST_CLOCK]" in line for line in caplog.messages)

    until(lambda: refused("no connection to the broker"), "the broker refused")
    until(lambda: refused("the desired state cannot be asked for"), "the server refused")
    assert agent.device.voice.gen == 0
    assert house.device("cam-1")["last_seen_ms"] is None, "nothing was said to them"
    site.stop(agent)
    right = site.run(folder)
    until(lambda: is_in_touch(house, right), "all is well by the right clock")
