from __future__ import annotations

import datetime
import stat
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tuf.api.metadata import Metadata, Root

from bundles.errors import AskPerson, TrustRefused
from bundles.trust.device.client import TrustStore
from bundles.trust.drafting.drafts import encode_drafts
from bundles.trust.drafting.statements import set_server_cas
from bundles.trust.fetch import folder_fetch
from bundles.trust.profiles import profile_name
from bundles.trust.publishing.reading import read_state
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.publishing.status import describe
from bundles.trust.roles import Lifetimes, is_demo
from bundles.trust.signing.ceremony import PROFILES, hold_ceremony
from bundles.trust.signing.signatures import add_signatures
from bundles.trust.signing.signers import load_signer


def now():
    return int(time.time() * 1000)


def hold(folder, profile="team", teams=("vision",), passphrase=None, **options):
    return hold_ceremony(folder, PROFILES[profile], teams, passphrase=passphrase, now_ms=now(), **options)


@pytest.mark.parametrize("profile", ["solo", "team"])
@pytest.mark.parametrize("scheme", ["ed25519", "ecdsa"])
def test_server_and_device_work_with_what_it_makes(tmp_path, profile, scheme):
    made = hold(tmp_path / "c", profile, scheme=scheme)
    keys = {role: load_signer(made.server / "keys" / f"{role}.pem") for role in ("snapshot", "timestamp")}
    OnlineRepository(made.server / "metadata", keys["snapshot"], keys["timestamp"], now).resign(force=True)
    fetch = folder_fetch(made.server / "metadata")
    with TrustStore(tmp_path / "d", made.root.read_bytes(), device="d", fetch=fetch) as store:
        assert store.refresh(now()).timestamp_version == 2


def test_server_gets_the_online_keys_only(tmp_path):
    made = hold(tmp_path / "c")
    assert {path.stem for path in (made.server / "keys").glob("*.pem")} == {"snapshot", "timestamp", "director"}
    names = {path.stem for path in made.offline_keys}
    assert names == {
        *("root-1", "root-2", "root-3", "targets-1", "targets-2"),
        *("revocation-1", "revocation-2", "team-vision"),
    }
    assert not list(made.server.rglob("root*.pem"))


def test_profiles_ask_for_as_many_signatures_as_they_say(tmp_path):
    thresholds = {}
    for profile in ("solo", "team"):
        made = hold(tmp_path / profile, profile)
        status = describe(made.folder, now())
        thresholds[profile] = {role.role: (len(role.keys), role.threshold) for role in status.roles}
        assert bool(status.remarks) == (profile == "solo")
    assert thresholds["team"]["root"] == (3, 2)
    assert thresholds["team"]["targets"] == (2, 2)
    assert thresholds["solo"]["root"] == thresholds["solo"]["targets"] == (2, 1)


def test_offline_keys_are_encrypted_and_private(tmp_path):
    made = hold(tmp_path / "c", "solo", passphrase=b"correct horse")
    for path in made.offline_keys:
        assert b"ENCRYPTED" in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "c" / "keys").stat().st_mode) == 0o700


def test_second_ceremony_in_one_place_is_refused_and_changes_nothing(tmp_path):
    made = hold(tmp_path / "c")
    before = {path: path.read_bytes() for path in (tmp_path / "c").rglob("*") if path.is_file()}
    with pytest.raises(AskPerson) as caught:
        hold(tmp_path / "c")
    assert caught.value.code == "TRUST_CEREMONY"
    with pytest.raises(AskPerson) as caught:
        hold(tmp_path / "c", server=tmp_path / "elsewhere")
    assert caught.value.code == "KEY_EXISTS"
    assert {path: path.read_bytes() for path in before} == before
    assert made.root.exists()


@pytest.mark.parametrize("team", ["Vision", "", "a/b", "..", "*", "vi sion"])
def test_team_name_that_no_path_can_hold_is_refused(tmp_path, team):
    with pytest.raises(AskPerson) as caught:
        hold(tmp_path / "c", teams=(team,))
    assert caught.value.code == "TRUST_CEREMONY"
    assert not (tmp_path / "c" / "keys").exists()


def test_lifetimes_are_those_of_the_design(tmp_path):
    made = hold(tmp_path / "c")
    days = {
        role.role: round((role.expires_ms - now()) / 86_400_000)
        for role in describe(made.folder, now()).roles
        if role.expires_ms
    }
    offline = {"root": 365, "targets": 365, "team-vision": 730, "revocation": 3650}
    assert days == {**offline, "snapshot": 30, "timestamp": 14}
    assert Lifetimes().timestamp_s == 14 * 86_400


def test_expired_role_is_remarked(tmp_path):
    made = hold(tmp_path / "c")
    remarks = describe(made.folder, now() + 20 * 86_400_000).remarks
    assert remarks == ["timestamp has expired."]


def test_folder_without_a_repository_is_named(tmp_path):
    with pytest.raises(AskPerson) as caught:
        describe(tmp_path, now())
    assert caught.value.code == "TRUST_REPOSITORY"


def authorities(count):
    """Self-signed certificates, as DER."""
    made = []
    for number in range(count):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"server CA {number}")])
        start = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), number + 1, start, start.replace(year=2099))
        made.append(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER))
    return made


def test_regulated_profile_asks_two_of_every_team(tmp_path):
    made = hold(tmp_path / "c", "regulated")
    found = {role.role: (len(role.keys), role.threshold) for role in describe(made.folder, now()).roles}
    assert found["root"] == (5, 3)
    assert found["targets"] == (3, 2)
    assert found["team-vision"] == (2, 2)
    assert found["revocation"] == (3, 1)
    assert {"team-vision-1", "team-vision-2", "revocation-3"} <= {path.stem for path in made.offline_keys}


def test_second_root_key_of_one_person_revokes(tmp_path):
    made = hold(tmp_path / "c", "solo")
    state = read_state(folder_fetch(made.server / "metadata"), made.root.read_bytes())
    second = load_signer(made.folder / "keys" / "root-2.pem").public_key.keyid
    assert state.targets.get_delegated_role("revocation").keyids == [second]
    assert profile_name(state.root) == "solo"


def test_backup_key_lies_in_another_place_only(tmp_path):
    made = hold(tmp_path / "c", "solo", passphrase=b"secret", backup=tmp_path / "usb")
    assert {path.name for path in (tmp_path / "usb").iterdir()} == {"root-2.pem", "root-2.pub"}
    assert not (made.folder / "keys" / "root-2.pem").exists()
    assert tmp_path / "usb" / "root-2.pem" in made.offline_keys
    assert stat.S_IMODE((tmp_path / "usb" / "root-2.pem").stat().st_mode) == 0o600
    with pytest.raises(AskPerson) as caught:
        hold(tmp_path / "d", "solo", backup=tmp_path / "d" / "keys")
    assert caught.value.code == "TRUST_CEREMONY"
    assert not (tmp_path / "d").exists()


def test_demo_keys_are_marked_and_no_real_device_takes_them(tmp_path):
    made = hold(tmp_path / "c", demo=True)
    assert is_demo(Metadata[Root].from_file(str(made.root)).signed)
    options = {"device": "d", "fetch": folder_fetch(made.server / "metadata")}
    with pytest.raises(AskPerson) as caught:
        TrustStore(tmp_path / "d", made.root.read_bytes(), **options)
    assert caught.value.code == "TRUST_DEMO_KEYS"
    with TrustStore(tmp_path / "d", made.root.read_bytes(), allow_demo=True, **options) as store:
        assert store.refresh(now()).timestamp_version == 1
    assert not is_demo(Metadata[Root].from_file(str(hold(tmp_path / "e").root)).signed)


def test_server_cas_are_signed_into_the_targets_role(tmp_path):
    certificates = authorities(2)
    made = hold(tmp_path / "c", server_cas=certificates)
    fetch = folder_fetch(made.server / "metadata")
    with TrustStore(tmp_path / "d", made.root.read_bytes(), device="d", fetch=fetch) as store:
        store.refresh(now())
        assert store.server_cas == certificates


def test_one_server_ca_alone_is_refused_before_any_key_is_made(tmp_path):
    [one] = authorities(1)
    for certificates in ([one], [one, one], [one, b"garbage"]):
        with pytest.raises(TrustRefused) as caught:
            hold(tmp_path / "c", server_cas=certificates)
        assert caught.value.code == "TRUST_UNSIGNED_TARGETS"
        assert not (tmp_path / "c").exists()


def test_server_cas_are_exchanged_one_after_the_other(tmp_path):
    """The spare comes into use, and a new spare beside it: devices follow without losing the server."""
    first, second, third = authorities(3)
    made = hold(tmp_path / "c", server_cas=[first, second])
    fetch, root = folder_fetch(made.server / "metadata"), made.root.read_bytes()
    online = [load_signer(made.server / "keys" / f"{role}.pem") for role in ("snapshot", "timestamp")]
    with TrustStore(tmp_path / "d", root, device="d", fetch=fetch) as store:
        store.refresh(now())
        state = read_state(fetch, root)
        drafts = encode_drafts(set_server_cas(state, [second, third], now()))
        holders = [load_signer(made.folder / "keys" / f"targets-{n}.pem") for n in (1, 2)]
        repository = OnlineRepository(made.server / "metadata", *online, now)
        repository.publish(add_signatures(state, drafts, holders))
        store.refresh(now())
        assert store.server_cas == [second, third]
