"""Whatever the broker refuses is seen, told by its code and not asked for over and over; reports arrive meanwhile."""

from __future__ import annotations

import pytest

from agent.core import route
from agent.core.retry import Backoff

SLOWLY = Backoff(base_s=3600, cap_s=3600, floor_s=3600)


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        ({"connack": 0x87}, "BROKER_NOT_AUTHORIZED"),
        ({"connack": 0x84}, "BROKER_PROTOCOL"),
        ({"connack": 0x9D}, "BROKER_MOVED"),
        ({"suback": 0x87}, "BROKER_SUBSCRIPTION"),
        ({"suback": 0x80}, "BROKER_SUBSCRIPTION"),
        ({"puback": 0x97}, "BROKER_QUOTA"),
        ({"puback": 0x87}, "BROKER_NOT_AUTHORIZED"),
        ({"disconnect": 0x96}, "BROKER_QUOTA"),
        ({"disconnect": 0x98}, "BROKER_NOT_AUTHORIZED"),
    ],
    ids=lambda value: "-".join(f"{k}-{v:02x}" for k, v in value.items()) if isinstance(value, dict) else value,
)
def test_a_refusal_that_time_does_not_heal_is_told_and_left_alone(
    site, house, refusing, monkeypatch, until, refused, code
):
    monkeypatch.setattr(route, "RECONNECT_SLOWLY", SLOWLY)
    broker = refusing(**refused)
    wire = site.wire(site.enrol(f"told-{'-'.join(map(str, refused))}-{min(refused.values()):02x}", mqtt=broker.port))
    until(lambda: code in wire.codes(), f"{code}; so far {wire.codes()}")
    wire.on_route("https")
    wire.tell(3)
    wire.arrived()
    assert broker.connections == 1, "it has not been asked again"


@pytest.mark.parametrize("refused", [{"connack": 0x88}, {"connack": 0x89}, {"disconnect": 0x8B}])
def test_a_broker_that_is_busy_is_asked_again_soon(site, house, refusing, monkeypatch, until, refused):
    # What a broker took and did not pass on comes again when its ack stays out.
    monkeypatch.setattr("agent.spool.spool.RESEND_MS", 1000)
    broker = refusing(**refused)
    wire = site.wire(site.enrol(f"busy-{next(iter(refused))}-{min(refused.values()):02x}", mqtt=broker.port))
    until(lambda: broker.connections >= 3, "more tries")
    assert set(wire.codes()) == {"BROKER_BUSY"}
    wire.tell(3)
    wire.arrived()


def test_a_takeover_that_the_broker_tells_of_is_told_as_a_clone(site, house, refusing, until):
    broker = refusing(disconnect=0x8E)
    wire = site.wire(site.enrol("twin", mqtt=broker.port))
    until(lambda: wire.conflicts, "the conflict")
