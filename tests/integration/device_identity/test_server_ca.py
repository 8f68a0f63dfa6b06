"""The server's CA is exchanged for its spare, from the ceremony to the day the old one is refused. Real commands."""

from __future__ import annotations

import logging
import shutil
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from bundles.errors import TryAgain

SPARE = ("--certificate", "ceremony/keys/server-ca-spare.pem", "--key", "ceremony/keys/server-ca-spare.key")
SIGN = ("--metadata", "data", "--root", "ceremony/root.json", "--signer", "ceremony/keys/root-1.pem")


def der(path):
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


def is_in_touch(house, agent):
    return (
        agent.device.link.route == "mqtt" and agent.device.voice.gen and house.device(agent.device.me.device)["online"]
    )


def test_devices_follow_the_server_to_its_spare_and_the_old_ca_is_refused_afterwards(house, site, until, caplog):
    caplog.set_level(logging.INFO, "agent.runner.link")
    keys, offline = house.data / "keys", house.home / "ceremony" / "keys"
    first, spare = der(keys / "server-ca.pem"), der(offline / "server-ca-spare.pem")
    house.start()
    awake = site.run(site.enrol("awake"))
    asleep = site.enrol("asleep")
    slept = site.run(asleep)
    assert awake.credentials.identity.pins() == [first], "what enrolment gave"
    for agent in (awake, slept):
        until(lambda agent=agent: is_in_touch(house, agent), "in touch")
        until(lambda agent=agent: agent.credentials.pins() == [first, spare], "the signed set taken")
        assert agent.credentials.identity.pins() == [first, spare], "and on disk"
    site.stop(slept)
    stale = site.enrol("stale")  # it never gets as far as metadata

    house.fail("FOLDER_IN_USE", "server", "adopt-ca", *SPARE, "--dir", "data")
    house.stop()
    stranger = ("--certificate", "other/server-ca-spare.pem", "--key", "other/server-ca-spare.key")
    house.do("trust", "key", "server-ca", "other")
    house.fail("CA_NOT_PINNED", "server", "adopt-ca", *stranger, "--dir", "data")
    (house.home / "old").mkdir()
    for suffix in ("pem", "key"):
        shutil.copy(keys / f"server-ca.{suffix}", house.home / "old")
    said = house.call("server", "adopt-ca", *SPARE, "--dir", "data")
    assert said.returncode == 0, said.stderr
    assert "server-ca-retired" in said.stderr
    assert der(keys / "server-ca.pem") == spare
    assert stat.S_IMODE((keys / "server-ca-retired.key").stat().st_mode) == 0o600
    with pytest.raises(TypeError):
        load_pem_private_key((keys / "server-ca-retired.key").read_bytes(), password=None)
    house.do("server", "adopt-ca", *SPARE, "--dir", "data")  # again changes nothing
    house.start()
    until(lambda: is_in_touch(house, awake), "the device that ran meanwhile follows")
    slept = site.run(asleep)
    until(lambda: is_in_touch(house, slept), "the device that slept through it follows")
    left_behind = site.run(stale)
    until(lambda: any("[SERVER_CERTIFICATE]" in line for line in caplog.messages), "without the pin nobody follows")
    assert left_behind.device.voice.gen == 0
    site.stop(left_behind)

    house.do("trust", "key", "server-ca", "offline-2")
    cas = ("--ca", "ceremony/keys/server-ca-spare.pem", "--ca", "offline-2/server-ca-spare.pem")
    house.do("trust", "rotate", "server-ca", *cas, *SIGN, "--out", "event")
    house.do("trust", "publish", "event", "--root", "ceremony/root.json")
    third = der(house.home / "offline-2" / "server-ca-spare.pem")
    for agent in (awake, slept):
        agent.schedule.soon(agent.device.trust.refresh)  # as it does every few hours
        until(lambda agent=agent: agent.credentials.pins() == [spare, third], "the new set taken")
    house.stop()
    back = ("--certificate", "old/server-ca.pem", "--key", "old/server-ca.key")
    house.fail("CA_NOT_PINNED", "server", "adopt-ca", *back, "--dir", "data")

    kept = {suffix: (keys / f"server-ca.{suffix}").read_bytes() for suffix in ("pem", "key")}
    for suffix in kept:  # whoever stole the old key poses as the server
        shutil.copy(house.home / "old" / f"server-ca.{suffix}", keys)
    caplog.clear()
    house.start()
    for door in ("no connection to the broker", "the desired state cannot be asked for"):
        until(lambda door=door: any(door in line and "[SERVER_CERTIFICATE]" in line for line in caplog.messages), door)
    for agent in (awake, slept):
        with pytest.raises(TryAgain) as caught:
            agent.door.time_ms()
        assert caught.value.code == "SERVER_CERTIFICATE"
        assert agent.device.link.route != "mqtt"
    house.stop()
    for suffix, data in kept.items():
        (keys / f"server-ca.{suffix}").write_bytes(data)
    house.start()
    for agent in (awake, slept):
        until(lambda agent=agent: is_in_touch(house, agent), "back at the honest server")
