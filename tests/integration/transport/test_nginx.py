"""One port for everything by nginx, TLS untouched; and HTTPS polling through an nginx that ends TLS. docs/nginx."""

from __future__ import annotations

import hashlib
import time

import pytest

from agent.https import Door, open_client
from agent.identity import pinned_context
from bundles.errors import TryAgain
from bundles.wire import codec
from bundles.wire.messages import Event, UpEnvelope
from control_plane.identity.authority import Authority


@pytest.mark.parametrize("way", ["mqtt", "websocket", "https"])
def test_one_port_carries_every_way_with_certificates_and_pins(site, house, nginx, way):
    front = nginx("stream")
    url = f"https://127.0.0.1:{front.port}"
    folder = site.enrol(f"one-port-{way}", url=url, mqtt=front.port, websocket=front.port)
    wire = site.wire(folder, transport=way)
    wire.on_route(way)
    wire.tell(20)
    wire.arrived()
    wire.emptied()


def answers_of_every_door(wire, house):
    """Ask every door of the device surface; whatever is signed must fit what arrives."""
    door = wire.door
    metadata = b"".join(door.metadata("1.root.json", 1 << 20))
    assert metadata == (house.data / "metadata" / "1.root.json").read_bytes()
    assert abs(door.time_ms() - time.time() * 1000) < 60_000
    answer = door.desired()
    assert answer is not None
    assert door.desired(answer.etag) is None, "the ETag comes through"
    event = codec.encode(Event(wire.device, "ab" * 8, 1, "e1", 5, "probe", detail="x" * 9000))
    assert door.reports([UpEnvelope("up/event", event)] * 40).upto_seq == 1, "a body of 400 KB comes through"
    with door.blob(f"/v1/blobs/sha256/{hashlib.sha256(b'no such').hexdigest()}", 7, "etag") as blob:
        assert blob.status in (403, 404), "signed with its path, and taken as this device's"
    wire.credentials.renew(door.post_signed)


def test_polling_goes_through_an_nginx_that_ends_tls_with_a_certificate_of_the_pinned_ca(site, house, nginx):
    front = nginx("https", house.authority("server-ca"))
    folder = site.enrol("behind-front", url=f"https://127.0.0.1:{front.port}")
    wire = site.wire(folder, transport="https")
    answers_of_every_door(wire, house)
    wire.tell(20)
    wire.arrived()


def test_with_a_certificate_of_another_ca_it_is_refused_unless_that_is_an_extra_ca(site, house, nginx, tmp_path):
    corporate = Authority.open_or_create(tmp_path, "corporate", int(time.time() * 1000))
    front = nginx("https", corporate)
    url = f"https://127.0.0.1:{front.port}"
    with (
        open_client(url, pinned_context(house.server_ca)) as client,
        pytest.raises(TryAgain) as caught,
    ):
        Door(client).time_ms()
    assert caught.value.code == "SERVER_CERTIFICATE"
    extra = tmp_path / "extra.pem"
    extra.write_bytes(corporate.certificate_pem)
    folder = site.enrol("behind-corporate", url=url, extra_ca_pem=extra.read_text())
    assert (folder / "identity" / "server-ca.pem").read_text() == house.server_ca, "it has not become a pin"
    wire = site.wire(folder, transport="https", extra_ca=str(extra))
    answers_of_every_door(wire, house)
