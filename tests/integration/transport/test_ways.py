"""MQTT by TCP and by WebSocket, HTTPS polling: chosen, left and come back to, with no report lost or counted twice."""

from __future__ import annotations

import json

import pytest

from agent.core import route
from agent.core.retry import Backoff
from agent.https import DeviceDoor
from bundles.errors import Refused


@pytest.mark.parametrize("way", ["mqtt", "websocket", "https"])
def test_every_way_brings_reports_and_their_acks(site, house, way):
    wire = site.wire(site.enrol(f"by-{way}", websocket=house.websocket), transport=way)
    wire.on_route(way)
    wire.tell(30)
    wire.arrived()
    wire.emptied()


def test_the_best_way_is_taken_where_all_are_open(site, house, gate):
    tcp, ws = gate(house.mqtt), gate(house.websocket)
    wire = site.wire(site.enrol("choosy", mqtt=tcp.port, websocket=ws.port))
    wire.on_route("mqtt")
    assert (tcp.connections, ws.connections) == (1, 0)


def test_ways_are_left_and_come_back_to_under_load_and_nothing_is_lost_or_doubled(site, house, gate, monkeypatch):
    tcp, ws = gate(house.mqtt), gate(house.websocket)
    wire = site.wire(site.enrol("mover", mqtt=tcp.port, websocket=ws.port))
    monkeypatch.setattr("agent.spool.spool.RESEND_MS", 1000)

    def under_load(way):
        for _ in range(10):
            wire.tell(7)
        wire.on_route(way)
        wire.tell(70)

    under_load("mqtt")
    tcp.shut()
    under_load("websocket")
    ws.shut()
    under_load("https")
    ws.open()
    under_load("websocket")
    tcp.open()
    under_load("mqtt")
    tcp.cut()
    under_load("mqtt")
    wire.arrived()


def test_a_way_that_is_worse_is_kept_while_the_better_one_does_not_answer(site, house, gate, until):
    tcp, ws = gate(house.mqtt), gate(house.websocket)
    tcp.shut()
    wire = site.wire(site.enrol("patient", mqtt=tcp.port, websocket=ws.port))
    wire.on_route("websocket")
    before = ws.connections
    until(lambda: wire.link._path.looks >= 3, "looks at the better way")
    assert (wire.route, ws.connections) == ("websocket", before), "the looks have not touched what stands"


def test_a_half_open_broker_is_noticed_by_keepalive(site, house, gate, until):
    tcp = gate(house.mqtt)
    wire = site.wire(site.enrol("frozen", mqtt=tcp.port), keepalive_s=1)
    wire.on_route("mqtt")
    tcp.is_frozen = True
    until(lambda: wire.states and not wire.states[-1][0], "the silence noticed")
    wire.tell(3)
    wire.on_route("https")
    wire.arrived()


def test_a_websocket_port_that_is_something_else_is_named(site, house, until):
    wire = site.wire(site.enrol("astray", websocket=house.https), transport="websocket")
    until(lambda: "WEBSOCKET_BLOCKED" in wire.codes(), "the trouble")
    wire.tell(2)
    wire.arrived()


def test_the_pause_after_a_refusal_that_time_does_not_heal_is_long_and_https_takes_over(site, house, monkeypatch):
    """Another broker than mosquitto may refuse with a reason; here the link is told of one."""
    monkeypatch.setattr(route, "RECONNECT_SLOWLY", Backoff(base_s=3600, cap_s=3600, floor_s=3600))
    wire = site.wire(site.enrol("refused"))
    wire.on_route("mqtt")
    client = wire.transport._client
    wire.transport._refuse(client, "BROKER_QUOTA")
    wire.on_route("https")
    wire.tell(5)
    wire.arrived()
    assert wire.codes() == ["BROKER_QUOTA"]


def test_a_message_larger_than_the_broker_takes_goes_over_https(site, house):
    wire = site.wire(site.enrol("bulky"))
    wire.on_route("mqtt")
    wire.transport._max_packet = 400
    wire.tell(3)
    wire.call(lambda: wire.spool.add_event("note", at_ms=wire.clock.wall_ms(), detail="4", data={"long": "x" * 500}))
    wire.told += 1
    wire.call(wire.link.flush)
    wire.arrived()
    assert wire.route == "mqtt"


def test_what_the_server_tells_of_its_ports_survives_a_renewal(site, house):
    folder = site.enrol("renewed", mqtt=1, websocket=2)
    wire = site.wire(folder, transport="https")
    wire.credentials.renew(wire.door.post_signed)
    said = json.loads((folder / "identity" / "enrolment.json").read_bytes())["mqtt"]
    assert (said["port"], said["websocket_port"]) == (house.mqtt, house.websocket)


@pytest.mark.parametrize("way", ["mqtt", "websocket", "https"])
def test_a_certificate_is_renewed_while_connected_and_no_report_is_lost(site, house, way):
    folder = site.enrol(f"renewing-{way}", websocket=house.websocket)
    wire = site.wire(folder, transport=way)
    wire.on_route(way)
    wire.tell(10)
    before = wire.credentials.identity
    wire.credentials.renew(wire.door.post_signed)
    wire.tell(10)
    wire.call(wire.link.reconnect)
    wire.tell(10)
    wire.on_route(way)
    wire.arrived()
    wire.emptied()
    after = wire.credentials.identity.key.public_key()
    assert after != before.key.public_key()
    if way == "https":
        # Once the new key has signed, the old one is of no use any more.
        old = DeviceDoor(wire.client, wire.device, lambda: before.key)
        with pytest.raises(Refused):
            old.desired()
    else:
        assert wire.shown[-1] == after, "the connection that stands was made with the new certificate"
