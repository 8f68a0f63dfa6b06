"""What a hostile device can do at the real broker: be heard as itself, and nothing else. Deliveries are counted.

The attacks that the trust design lists, with their teeth, are in ``tests/attacks/server``.
"""

from __future__ import annotations

import time

import pytest


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.02)


def drained(thing):
    found = []
    while not thing.arrived.empty():
        found.append(thing.arrived.get())
    return found


def test_a_revoked_device_is_thrown_out_and_stays_out_with_every_certificate_it_had(site):
    first = site.enrol("cam-1")
    second = site.renew("cam-1")
    thing, bystander = site.thing("cam-1", first, clean=False), site.thing("cam-2")
    assert thing.connect("wg/1/d/cam-1/down/#")
    assert bystander.connect("wg/1/d/cam-2/down/#")
    site.revoke("cam-1")
    assert thing.is_up, "neither the database nor the list ends a session that stands"
    site.revocations.round()
    until(lambda: not thing.is_up)
    for pair in (first, second):
        assert not site.thing("cam-1", pair).connect(), "the list refuses it"
    site.tell("cam-2", b"still served")
    assert bystander.arrived.get(timeout=20) == ("wg/1/d/cam-2/down/desired", b"still served")
    assert bystander.ends == 0
    assert site.evicted == ["cam-1"]
    site.revocations.round()
    assert site.evicted == ["cam-1"], "told once"


def test_a_session_that_could_not_be_ended_is_ended_in_a_later_round(site):
    pair = site.enrol("cam-1")
    thing = site.thing("cam-1", pair)
    assert thing.connect()
    site.revoke("cam-1")
    port, site.port = site.port, 1
    site.revocations.round()
    assert site.evicted == []
    site.port = port
    site.revocations.round()
    until(lambda: not thing.is_up)
    assert site.evicted == ["cam-1"]


def test_the_list_is_written_anew_each_day(site):
    before = site.files.crl.read_bytes()
    site.revocations.round()
    assert site.files.crl.read_bytes() == before
    real = site.clock_ms
    site.clock_ms = lambda: real() + 24 * 3_600_000
    site.revocations.round()
    assert site.files.crl.read_bytes() != before


@pytest.mark.parametrize("name", ["+/+", "cam-1/down"])
def test_a_certificate_with_a_pattern_for_a_name_hears_and_says_nothing(site, name):
    victim = site.thing("cam-1")
    assert victim.connect("wg/1/d/cam-1/down/#")
    odd = site.thing("odd", site.forge(name))
    if odd.connect(
        "#",
        "wg/1/d/+/down/#",
        "wg/1/d/#",
        "wg/1/d/cam-1/down/desired",
        f"wg/1/d/{name}/down/#",
    ):
        odd.say("wg/1/d/cam-1/up/event", b"forged")
        odd.say("wg/1/d/cam-1/down/desired", b"forged", retain=True)
    site.tell("cam-1", b"secret")
    assert victim.arrived.get(timeout=20)[1] == b"secret"
    victim.say("wg/1/d/cam-1/up/event", b"honest")
    until(lambda: site.heard)
    time.sleep(0.3)  # whatever else was to come has come; nothing is waited for that must not come
    assert {payload for _, _, payload in site.heard} == {b"honest"}
    assert drained(odd) == []
    assert drained(victim) == []


def test_a_device_that_asks_for_the_control_planes_name_is_only_itself(site):
    pair = site.enrol("cp-ingest")
    nosy = site.thing("cp-ingest", pair, client_id="cp.ingest")
    nosy.connect("wg/1/d/+/up/#", "wg/1/d/+/down/#")
    honest = site.thing("cam-1")
    assert honest.connect()
    honest.say("wg/1/d/cam-1/up/event", b"one")
    until(lambda: site.heard)
    assert site.ingest.is_connected, "the control plane's own session was not taken over"
    assert drained(nosy) == []
