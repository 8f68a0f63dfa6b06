from __future__ import annotations

import stat
import time

import pytest

from bundles.errors import AskPerson
from bundles.trust.ceremony import PROFILES, hold_ceremony
from bundles.trust.client import TrustStore
from bundles.trust.fetch import folder_fetch
from bundles.trust.repository import OnlineRepository
from bundles.trust.roles import Lifetimes
from bundles.trust.signers import load_signer
from bundles.trust.status import describe


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
    assert names == {"root-1", "root-2", "root-3", "targets-1", "targets-2", "team-vision"}
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
    assert days == {"root": 365, "targets": 365, "snapshot": 30, "timestamp": 14, "team-vision": 730}
    assert Lifetimes().timestamp_s == 14 * 86_400


def test_expired_role_is_remarked(tmp_path):
    made = hold(tmp_path / "c")
    remarks = describe(made.folder, now() + 20 * 86_400_000).remarks
    assert remarks == ["timestamp has expired."]


def test_folder_without_a_repository_is_named(tmp_path):
    with pytest.raises(AskPerson) as caught:
        describe(tmp_path, now())
    assert caught.value.code == "TRUST_REPOSITORY"
