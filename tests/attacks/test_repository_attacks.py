"""Attacks 1 to 12 of the trust design: a hostile repository, with the keys a test says were stolen."""

from __future__ import annotations

import copy
import json

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Targets

from bundles.errors import TrustRefused, TryAgain
from bundles.trust.roles import utc
from bundles.wire.messages import DesiredModel

HARDWARE = "cam-a"


def authorize(lab, store, wanted, *, now_ms=None):
    return store.authorize("vision/digits", wanted, hardware=HARDWARE, now_ms=now_ms or lab.now())


def refused(code, action, *arguments, **options):
    with pytest.raises(TrustRefused) as caught:
        action(*arguments, **options)
    assert caught.value.code == code
    assert caught.value.remedy
    return caught.value


def test_the_honest_repository_is_accepted(lab):
    """Without this, every refusal below would prove nothing."""
    wanted = lab.publish("1.0.0", 1)
    store = lab.store()
    summary = store.refresh(lab.now())
    assert summary.timestamp_version == lab.repository.timestamp_version
    bundle = authorize(lab, store, wanted)
    assert (bundle.sha256, bundle.role) == (wanted.sha256, "team-vision")


def test_attack_01_whole_old_repository_served_again(lab):
    lab.publish("1.0.0", 1)
    old = {path.name: path.read_bytes() for path in lab.repository_folder.iterdir()}
    lab.publish("1.1.0", 2)
    store = lab.store()
    store.refresh(lab.now())
    before = store.floors
    lab.served.update(old)
    refused("TRUST_ROLLBACK_TIMESTAMP", store.refresh, lab.now())
    assert store.floors == before


def test_attack_03_snapshot_rolled_back_with_stolen_online_keys(lab):
    lab.publish("1.0.0", 1)
    lab.publish("1.1.0", 2)
    store = lab.store()
    store.refresh(lab.now())
    before = store.floors
    lab.serve_state({"targets": 1, "team-vision": 2, "team-audio": 1}, snapshot=9, timestamp=99)
    error = refused("TRUST_ROLLBACK_TEAM", store.refresh, lab.now())
    assert error.details["role"] == "team-vision"
    assert store.floors == before


@pytest.mark.parametrize("file", ["snapshot.json", "targets.json", "team-vision.json", "timestamp.json", "*"])
@pytest.mark.parametrize("damage", ["truncated", "zeroed", "garbage", "deleted"])
def test_attack_05_old_team_role_behind_a_damaged_cache(lab, file, damage):
    """The attack that made durable floors mandatory: with its cache damaged, TUF's own client accepts this."""
    old = lab.publish("1.0.0", 1)
    new = lab.publish("1.1.0", 2)
    with lab.store() as store:
        store.refresh(lab.now())
        authorize(lab, store, new)
    for path in (lab.folder / "dev-1" / "metadata").glob(file):
        if path.is_dir():
            continue
        size = path.stat().st_size
        match damage:
            case "truncated":
                path.write_bytes(path.read_bytes()[: size // 2])
            case "zeroed":
                path.write_bytes(bytes(size))
            case "garbage":
                path.write_bytes(b"\xff{]" * 7)
            case "deleted":
                path.unlink()
    lab.serve_state({"targets": 1, "team-vision": 2, "team-audio": 1}, snapshot=9, timestamp=99)
    with lab.store() as store:
        before = store.floors

        def attack():
            store.refresh(lab.now())
            authorize(lab, store, old)

        refused("TRUST_ROLLBACK_TEAM", attack)
        assert store.floors.releases == before.releases
        assert store.floors.roles["team-vision"].version == 3


def test_attack_05_old_targets_behind_a_lost_cache(lab):
    """The same with the targets role: floors catch at the refresh what the lost cache does not."""
    renewed = copy.deepcopy(lab.repository.targets)
    renewed.version, renewed.expires = 2, utc(lab.now() + 10**9)
    metadata = Metadata(renewed)
    for key in lab.some("targets1", "targets2"):
        metadata.sign(key, append=True)
    lab.repository.publish({"2.targets.json": metadata.to_bytes()})
    with lab.store() as store:
        store.refresh(lab.now())
    for path in (lab.folder / "dev-1" / "metadata").glob("*.json"):
        path.unlink()
    lab.serve_state({"targets": 1, "team-vision": 1, "team-audio": 1}, snapshot=9, timestamp=99)
    with lab.store() as store:
        refused("TRUST_ROLLBACK_TARGETS", store.refresh, lab.now())


def test_attack_05_floors_damaged_fail_closed(lab):
    wanted = lab.publish("1.0.0", 1)
    with lab.store() as store:
        store.refresh(lab.now())
        authorize(lab, store, wanted)
        before = store.floors
    first, second = lab.folder / "dev-1" / "floors.json", lab.folder / "dev-1" / "floors.backup.json"
    first.write_bytes(first.read_bytes()[:-9])
    with lab.store() as store:
        assert store.floors == before
    second.unlink()
    refused("TRUST_CACHE_CORRUPT", lab.store)
    first.unlink()
    refused("TRUST_CACHE_CORRUPT", lab.store)


@pytest.mark.parametrize(
    ("days", "code"), [(15, "TRUST_EXPIRED_TIMESTAMP"), (40, "TRUST_EXPIRED_TIMESTAMP"), (400, "TRUST_EXPIRED_ROOT")]
)
def test_attack_06_freeze_by_the_devices_clock(lab, days, code):
    """Served unchanged for ever: TUF's client reads the host's clock, the store its own, later one."""
    store = lab.store()
    store.refresh(lab.now())
    refused(code, store.refresh, lab.now() + days * 86_400_000)


def test_attack_06_expired_metadata_by_the_hosts_clock(lab):
    store = lab.store()
    lab.serve_state({"targets": 1, "team-vision": 1, "team-audio": 1}, snapshot=2, timestamp=2, life_ms=-60_000)
    refused("TRUST_EXPIRED_TIMESTAMP", store.refresh, lab.now())


def test_attack_06_what_was_fetched_long_ago_authorises_nothing_new(lab):
    wanted = lab.publish("1.0.0", 1)
    store = lab.store()
    store.refresh(lab.now())
    refused("TRUST_EXPIRED_TIMESTAMP", authorize, lab, store, wanted, now_ms=lab.now() + 20 * 86_400_000)


def test_attack_07_fast_forward_is_recovered_by_rotating_the_online_keys(lab):
    lab.publish("1.0.0", 1)
    store = lab.store()
    store.refresh(lab.now())
    lab.serve_state({"targets": 1, "team-vision": 2, "team-audio": 1}, snapshot=2**30, timestamp=2**30)
    store.refresh(lab.now())
    lab.served.clear()
    refused("TRUST_ROLLBACK_TIMESTAMP", store.refresh, lab.now())

    honest = Metadata[Root].from_bytes(lab.root())
    root = Root.from_dict(honest.signed.to_dict())
    for role in ("snapshot", "timestamp"):
        root.revoke_key(lab.keys[role].public_key.keyid, role)
        lab.keys[role] = CryptoSigner.generate_ed25519()
        root.add_key(lab.keys[role].public_key, role)
    root.version = 2
    metadata = Metadata(root)
    for key in lab.some("root1", "root3"):
        metadata.sign(key, append=True)
    lab.served["2.root.json"] = metadata.to_bytes()
    lab.serve_state({"targets": 1, "team-vision": 2, "team-audio": 1}, snapshot=5, timestamp=5)
    assert store.refresh(lab.now()).timestamp_version == 5


def test_attack_08_files_of_two_states_mixed(lab):
    lab.publish("1.0.0", 1)
    lab.publish("1.1.0", 2)
    lab.served["3.snapshot.json"] = lab.honest("2.snapshot.json")
    refused("TRUST_MIX", lab.store().refresh, lab.now())


def test_attack_09_role_missing_from_the_snapshot(lab):
    wanted = lab.publish("1.0.0", 1)
    lab.serve_state({"targets": 1, "team-audio": 1}, snapshot=3, timestamp=3)
    store = lab.store()
    store.refresh(lab.now())
    refused("TRUST_MIX", authorize, lab, store, wanted)


def resign_targets(lab, *names, version=1, change=None):
    targets = Targets.from_dict(lab.repository.targets.to_dict())
    targets.version = version
    if change:
        change(targets)
    metadata = Metadata(targets)
    for name in names:
        metadata.sign(lab.keys[name], append=True)
    return metadata


def test_attack_10_threshold_short(lab):
    lab.served["1.targets.json"] = resign_targets(lab, "targets1").to_bytes()
    error = refused("TRUST_THRESHOLD", lab.store().refresh, lab.now())
    assert (error.details["signed"], error.details["threshold"]) == (1, 2)


def test_attack_10_one_signature_twice(lab):
    metadata = resign_targets(lab, "targets1")
    first = lab.keys["targets1"].public_key.keyid
    second = lab.keys["targets2"].public_key.keyid
    forged = copy.copy(metadata.signatures[first])
    forged.keyid = second
    metadata.signatures[second] = forged
    lab.served["1.targets.json"] = metadata.to_bytes()
    refused("TRUST_THRESHOLD", lab.store().refresh, lab.now())


def test_attack_10_forged_signature(lab):
    stranger = CryptoSigner.generate_ed25519()
    metadata = resign_targets(lab)
    metadata.sign(stranger)
    lab.served["1.targets.json"] = metadata.to_bytes()
    refused("TRUST_UNSIGNED_TARGETS", lab.store().refresh, lab.now())


def test_attack_11_team_role_signed_with_another_teams_key(lab):
    wanted = lab.publish("1.0.0", 1)
    metadata = Metadata[Targets].from_bytes(lab.honest("2.team-vision.json"))
    metadata.sign(lab.keys["audio"])
    lab.served["2.team-vision.json"] = metadata.to_bytes()
    store = lab.store()
    store.refresh(lab.now())
    refused("TRUST_UNSIGNED_TEAM", authorize, lab, store, wanted)


def test_attack_11_team_lists_a_bundle_of_another_team(lab):
    """With the audio team's key stolen, and the online keys: vision's devices still take nothing of it."""
    signed, wanted = lab.sign_release("9.9.9", 99)
    listing = Metadata[Targets].from_bytes(signed.data).signed.targets
    role = Metadata(Targets(2, expires=utc(lab.now() + 10**9), targets=listing))
    role.sign(lab.keys["audio"])
    lab.served["2.team-audio.json"] = role.to_bytes()
    lab.serve_state({"targets": 1, "team-vision": 1, "team-audio": 2}, snapshot=2, timestamp=2)
    store = lab.store()
    store.refresh(lab.now())
    refused("TRUST_NOT_LISTED", authorize, lab, store, wanted)


@pytest.mark.parametrize(
    "path",
    [
        "vision/../audio/bundle.json",
        "vision/digits//bundle.json",
        "vision/./1.0.0/bundle.json",
        "vision/digits/%2e%2e/bundle.json",
        "vision/digits/1.0.0/../bundle.json",
        "Vision/digits/1.0.0/bundle.json",
        "vision/digits/1.0.0/bundle.json/",
        "vision/dígits/1.0.0/bundle.json",
        "/vision/digits/1.0.0/bundle.json",
        ".director/never",
        "",
    ],
)
def test_attack_11_path_tricks(lab, path):
    wanted = lab.publish("1.0.0", 1)
    store = lab.store()
    store.refresh(lab.now())
    forged = DesiredModel(path, wanted.sha256, wanted.length, wanted.counter)
    refused("TRUST_NOT_LISTED", authorize, lab, store, forged)


def next_root(lab, version, *names, change=None):
    root = Root.from_dict(Metadata[Root].from_bytes(lab.root()).signed.to_dict())
    root.version = version
    if change:
        change(root)
    metadata = Metadata(root)
    for name in names:
        metadata.sign(lab.keys[name], append=True)
    return metadata.to_bytes()


def test_attack_12_root_signed_by_too_few(lab):
    lab.served["2.root.json"] = next_root(lab, 2, "root1")
    refused("TRUST_ROOT_SIG", lab.store().refresh, lab.now())


def test_attack_12_root_signed_only_by_its_own_new_keys(lab):
    thieves = {name: CryptoSigner.generate_ed25519() for name in ("root1", "root2")}

    def take_over(root):
        for key in list(root.roles["root"].keyids):
            root.revoke_key(key, "root")
        for signer in thieves.values():
            root.add_key(signer.public_key, "root")

    lab.keys.update(thieves)
    lab.served["2.root.json"] = next_root(lab, 2, "root1", "root2", change=take_over)
    refused("TRUST_ROOT_SIG", lab.store().refresh, lab.now())


def test_attack_12_root_version_skipped(lab):
    lab.served["2.root.json"] = next_root(lab, 3, "root1", "root2")
    refused("TRUST_ROLLBACK_ROOT", lab.store().refresh, lab.now())


def test_attack_12_newer_root_hidden_after_the_cache_is_lost(lab):
    lab.served["2.root.json"] = next_root(lab, 2, "root1", "root2")
    with lab.store() as store:
        assert store.refresh(lab.now()).root_version == 2
    for path in (lab.folder / "dev-1" / "metadata").rglob("*.json"):
        path.unlink()
    lab.served.clear()
    with lab.store() as store:
        refused("TRUST_ROLLBACK_ROOT", store.refresh, lab.now())


def test_attack_13_oversize_metadata(lab):
    lab.served["timestamp.json"] = b" " * 20_000 + lab.honest("timestamp.json")
    refused("TRUST_LENGTH", lab.store().refresh, lab.now())


@pytest.mark.parametrize("page", [b"<html>Please sign in</html>", b"", b"{}", b"[1]", b"\x00" * 100])
def test_attack_25_captive_portal_answers_everything(lab, page):
    lab.served["timestamp.json"] = page
    store = lab.store()
    refused("TRUST_UNSIGNED_TIMESTAMP", store.refresh, lab.now())
    lab.served.clear()
    store.refresh(lab.now())


def test_attack_25_forbidden_everywhere(lab):
    from bundles.errors import TryAgain

    lab.served.update({"timestamp.json": 403, "2.root.json": 403})
    with pytest.raises(TryAgain) as caught:
        lab.store().refresh(lab.now())
    assert caught.value.code == "METADATA_UNREACHABLE"


def test_attack_19_clock_in_1970(lab):
    """Without a clock, time is what the newest timestamp proves: an old state is still seen to be expired."""
    store = lab.store()
    store.refresh(lab.now())
    proven = store.floors.clock_ms
    assert abs(proven - lab.now()) < 60_000
    summary = store.refresh(0)
    assert summary.age_s == 0
    assert store.floors.clock_ms == proven


def test_attack_19_clock_ten_years_ahead_then_back(lab):
    wanted = lab.publish("1.0.0", 1)
    store = lab.store()
    refused("TRUST_EXPIRED_ROOT", store.refresh, lab.now() + 3650 * 86_400_000)
    store.refresh(lab.now())
    authorize(lab, store, wanted)


def test_snapshot_meta_of_targets_is_what_the_device_loads(lab):
    """A snapshot naming a version that is not served gives a network error, and nothing is loaded."""
    from bundles.errors import TryAgain

    lab.serve_state({"targets": 7, "team-vision": 1, "team-audio": 1}, snapshot=2, timestamp=2)
    store = lab.store()
    with pytest.raises(TryAgain):
        store.refresh(lab.now())
    assert store.floors.roles == {}
    assert MetaFile(7).version == 7


def test_a_refresh_that_broke_off_in_the_middle_is_made_again_and_refuses_nothing(lab):
    """The server dies between timestamp and snapshot: that is no mix-and-match, and must not end in a refusal."""
    store = lab.store()
    store.refresh(lab.now())
    wanted = lab.publish("2.0.0", 20)
    document = lab.desired(1, wanted)
    newest = f"{json.loads(lab.honest('timestamp.json'))['signed']['meta']['snapshot.json']['version']}.snapshot.json"
    lab.served[newest] = 503
    with pytest.raises(TryAgain):
        store.refresh(lab.now())
    with pytest.raises(TryAgain) as caught:
        store.accept_desired(document, lab.now())
    assert caught.value.code == "METADATA_NOT_REFRESHED"
    del lab.served[newest]
    store.refresh(lab.now())
    assert store.accept_desired(document, lab.now()).gen == 1
