"""A device whose certificate has expired: mosquitto refuses it, HTTPS renews it on the proof of its key."""

from __future__ import annotations

import datetime as dt
import shutil
import time

from agent.identity import load_identity
from agent.mqtt import Edges, MqttLink
from bundles.errors import TryAgain
from control_plane.identity.authority import Authority


def now_ms():
    return time.time_ns() // 1_000_000


def is_taken(house, identity, until):
    """Whether the broker takes the certificate of ``identity``."""
    states = []
    edges = Edges(lambda *_: None, lambda up, _: states.append(up), lambda _: b"{}")
    link = MqttLink(identity.device, "127.0.0.1", house.ports["--mqtt-port"], identity.broker_context, edges)
    try:
        link.connect()  # TLS 1.3: our half of the handshake is over before the broker has judged the certificate
    except TryAgain:
        return False
    until(lambda: states, "the broker's answer")
    link.close()
    return states[0]


def test_an_expired_device_renews_over_https_and_is_back_on_mqtt(house, site, until):
    house.start()
    folder = site.enrol("cam-1")
    identity = load_identity(folder / "identity")
    assert is_taken(house, identity, until)
    authority = Authority.open_or_create(house.data / "keys", "device-ca", now_ms())
    issued = authority.issue_device("cam-1", identity.key.public_key(), now_ms(), dt.timedelta(seconds=3))
    (folder / "identity" / "cert.pem").write_bytes(issued.certificate_pem)
    until(lambda: now_ms() > issued.expires_ms + 1000, "the certificate expired")
    expired = load_identity(folder / "identity")
    assert not is_taken(house, expired, until), "an expired certificate is no login"

    agent = site.run(folder)
    until(lambda: agent.device.link.route == "mqtt" and house.device("cam-1")["online"], "back on MQTT")
    renewed = agent.credentials.identity
    assert renewed.not_after.timestamp() * 1000 > now_ms() + 300 * 86_400_000
    assert renewed.key.public_key() != identity.key.public_key(), "with a new key"
    site.stop(agent)
    assert is_taken(house, load_identity(folder / "identity"), until)


def test_a_revoked_device_whose_certificate_has_expired_is_given_none(house, site, until, caplog):
    house.start()
    folder = site.enrol("cam-1")
    identity = load_identity(folder / "identity")
    authority = Authority.open_or_create(house.data / "keys", "device-ca", now_ms())
    issued = authority.issue_device("cam-1", identity.key.public_key(), now_ms(), dt.timedelta(seconds=1))
    (folder / "identity" / "cert.pem").write_bytes(issued.certificate_pem)
    copy = site.folder / "copy"
    shutil.copytree(folder, copy)
    house.do("device", "revoke", "cam-1", "--reason", "stolen")
    until(lambda: now_ms() > issued.expires_ms + 1000, "the certificate expired")
    caplog.set_level("INFO", "agent.runner.link")
    agent = site.run(copy)
    until(lambda: any("[DEVICE_REVOKED]" in line for line in caplog.messages), "the poll refused")
    assert agent.credentials.identity.key.public_key() == identity.key.public_key()
    assert agent.device.link.route != "mqtt"
