"""The clock, demo keys, the server's pins, and how old the metadata is."""

from __future__ import annotations

import base64
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tuf.api.exceptions import SlowRetrievalError
from tuf.api.metadata import Metadata, Timestamp

from bundles.errors import AskPerson, TrustRefused
from bundles.trust.device.client import BUILT_MS, TrustStore
from bundles.trust.device.summary import age_level
from bundles.trust.fetch import BASE, SLOW_S, TufFetcher
from bundles.trust.roles import utc

DAY_MS = 86_400_000


def refused(code, action, *arguments, **options):
    with pytest.raises(TrustRefused) as caught:
        action(*arguments, **options)
    assert caught.value.code == code
    assert caught.value.remedy


def ca(name):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, start, start + datetime.timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.DER)


def stamp(holders, signed_ms, *, version):
    """With the stolen timestamp key: claim to sign at ``signed_ms``."""
    path = holders.metadata / "timestamp.json"
    metadata = Metadata[Timestamp].from_file(str(path))
    metadata.signed.version, metadata.signed.expires = version, utc(signed_ms + 14 * DAY_MS)
    metadata.sign(holders.keys["timestamp"])
    metadata.to_file(str(path))


@pytest.mark.parametrize("days", [366, 3650])
def test_attack_19_timestamp_from_after_the_offline_roles_end_is_refused_and_moves_no_clock(holders, days):
    with holders.store() as store:
        store.refresh(holders.now())
        before = store.floors
        stamp(holders, holders.now() + days * DAY_MS, version=7)
        refused("TRUST_CLOCK", store.refresh, holders.now())
        assert store.floors == before
        assert abs(store.clock_ms(0) - holders.now()) < 60_000


def test_newest_timestamp_raises_the_clock_of_a_device_without_one(holders):
    claimed = holders.now() // 1000 * 1000 + 3 * DAY_MS
    stamp(holders, claimed, version=2)
    with holders.store() as store:
        store.refresh(0)
        assert (store.clock_ms(0), store.clock_ms(2**50)) == (claimed, 2**50)


def test_clock_of_a_new_device_is_at_least_its_programs_age(holders):
    with holders.store() as store:
        assert store.clock_ms(0) == BUILT_MS


def test_repository_that_states_no_timestamp_life_proves_no_time(holders):
    root = Metadata.from_bytes(holders.root)
    del root.signed.unrecognized_fields["x-timestamp-life-s"]
    for name in ("root1", "root2"):
        root.sign(holders.keys[name], append=name != "root1")
    holders.root = root.to_bytes()
    with holders.store() as store:
        store.refresh(holders.now())
        assert store.floors.clock_ms == 0


def demo_root(holders):
    root = Metadata.from_bytes(holders.root)
    root.signed.unrecognized_fields["x-demo"] = True
    for name in ("root1", "root2"):
        root.sign(holders.keys[name], append=name != "root1")
    return root


def test_demo_keys_are_refused_from_the_start_unless_allowed(holders):
    holders.root = demo_root(holders).to_bytes()
    with pytest.raises(AskPerson) as caught:
        holders.store()
    assert caught.value.code == "TRUST_DEMO_KEYS"
    assert not (holders.folder / "dev-1").exists()
    with holders.store(allow_demo=True) as store:
        store.refresh(holders.now())


def test_root_that_becomes_a_demos_is_refused_and_nothing_is_authorised(holders):
    wanted = holders.publish("1.0.0", 1)
    root = demo_root(holders)
    root.signed.version = 2
    for name in ("root1", "root2"):
        root.sign(holders.keys[name], append=name != "root1")
    with holders.store() as store:
        store.refresh(holders.now())
        (holders.metadata / "2.root.json").write_bytes(root.to_bytes())
        for action in (
            lambda: store.refresh(holders.now()),
            lambda: store.authorize("vision/digits", wanted, hardware="x", now_ms=holders.now()),
        ):
            with pytest.raises(AskPerson) as caught:
                action()
            assert caught.value.code == "TRUST_DEMO_KEYS"


def test_pins_are_kept_for_a_start_without_network_and_follow_the_targets_role(holders):
    first, spare, third = ca("one"), ca("two"), ca("three")

    def pin(*certificates):
        def change(targets):
            targets.unrecognized_fields["x-server-cas"] = [base64.b64encode(der).decode() for der in certificates]

        return change

    with holders.store() as store:
        store.refresh(holders.now())
        assert store.server_cas == []
        holders.repository().publish(holders.sign_role("targets", pin(first, spare), "targets"))
        store.refresh(holders.now())
    with holders.store() as store:
        assert store.server_cas == [first, spare]
        holders.repository().publish(holders.sign_role("targets", pin(spare, third), "targets"))
        store.refresh(holders.now())
        assert store.server_cas == [spare, third]


@pytest.mark.parametrize("fault", ["one only", "one twice", "no certificate", "no list"])
def test_pins_that_cannot_be_used_are_refused_and_those_before_stay(holders, fault):
    one = base64.b64encode(ca("one")).decode()
    good = [one, base64.b64encode(ca("two")).decode()]
    bad = {"one only": [one], "one twice": [one, one], "no certificate": [one, "AAAA"], "no list": {}}[fault]

    def pin(value):
        return lambda targets: targets.unrecognized_fields.update({"x-server-cas": value})

    holders.repository().publish(holders.sign_role("targets", pin(good), "targets"))
    with holders.store() as store:
        store.refresh(holders.now())
        before = store.server_cas
        holders.serve(holders.sign_role("targets", pin(bad), "targets"))
        refused("TRUST_UNSIGNED_TARGETS", store.refresh, holders.now())
        assert store.server_cas == before
        assert len(before) == 2


@pytest.mark.parametrize(
    ("days", "level"), [(0, "fresh"), (13.9, "fresh"), (14, "warn"), (41.9, "warn"), (42, "alarm"), (900, "alarm")]
)
def test_age_warns_at_one_life_and_alarms_at_three(days, level):
    assert age_level(int(days * 86_400), 14 * 86_400) == level


def test_age_is_told_though_everything_has_expired(holders):
    with holders.store() as store:
        assert store.summary(holders.now()) is None
        store.refresh(holders.now())
    with holders.store() as store:
        levels = [store.summary(holders.now() + days * DAY_MS).level for days in (1, 20, 60)]
        assert levels == ["fresh", "warn", "alarm"]


def test_attack_13_file_that_comes_a_byte_at_a_time_is_cut_off():
    clock = [0.0]

    def dribble(name, max_length):
        for _ in range(10_000):
            clock[0] += 1.0
            yield b" "

    fetcher = TufFetcher(dribble, lambda: clock[0])
    with pytest.raises(SlowRetrievalError):
        fetcher.download_bytes(BASE + "timestamp.json", 16_384)
    assert clock[0] == SLOW_S + 1


def test_attack_13_slow_repository_has_its_own_code(holders, monkeypatch):
    def dribble(name, max_length):
        for byte in b"".join(holders.fetch(name, max_length)):
            yield bytes([byte])

    monkeypatch.setattr("bundles.trust.fetch.SLOW_S", -1.0)
    with TrustStore(holders.folder / "slow", holders.root, device="d", fetch=dribble) as store:
        refused("TRUST_SLOW", store.refresh, holders.now())
