"""Every exchange of keys, end to end: drafted, signed, published, and taken by a device that stays and a new one."""

from __future__ import annotations

import copy

import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from bundles.errors import AskPerson, TrustRefused
from bundles.trust.director import sign_desired
from bundles.trust.drafting import rotation, statements
from bundles.trust.drafting.drafts import Keys, encode_drafts
from bundles.trust.profiles import PROFILES, profile_name
from bundles.trust.publishing.event import apply_event
from bundles.trust.publishing.history import History
from bundles.trust.publishing.state import delegated_names
from bundles.trust.roles import KIT, utc
from bundles.trust.signing.signatures import who_signs
from bundles.wire.messages import Desired

ROOTS, TARGETS = ("root-1", "root-2"), ("targets-1", "targets-2")


def refused(kind, code, action, *arguments, **options):
    with pytest.raises(kind) as caught:
        action(*arguments, **options)
    assert (caught.value.code, bool(caught.value.remedy)) == (code, True)


def served(estate):
    return {path.name: path.read_bytes() for path in estate.metadata.iterdir()}


def desired(estate, device, gen, key="director"):
    now = estate.clock()
    return sign_desired(Desired(device, gen, now, now + 10**9, {}), estate.keys[key])


def test_new_team_lists(estate):
    drafts = rotation.add_team(estate.state(), "radar", Keys(estate.new("team-radar")), estate.clock())
    estate.publish(drafts, *TARGETS, "team-radar")
    estate.accepted(estate.first, estate.release("1", 1, team="radar"))


def test_new_keys_of_a_team_list_and_the_old_one_does_not(estate):
    keys = Keys(estate.new("vision-1", "vision-2"), 2)
    estate.publish(
        rotation.rotate_team(estate.state(), "vision", keys, estate.clock()), *TARGETS, "vision-1", "vision-2"
    )
    estate.accepted(estate.first)
    refused(AskPerson, "KEY_NOT_OF_ROLE", estate.release, "2.0.0", 2, "team-vision")
    refused(TrustRefused, "TRUST_THRESHOLD", estate.release, "2.0.0", 2, "vision-1")
    estate.accepted(estate.first, estate.release("2.0.0", 2, "vision-1", "vision-2"))


def test_removed_team_lists_nothing_any_more_and_may_come_back(estate):
    estate.publish(rotation.remove_team(estate.state(), "vision", estate.clock()), *TARGETS)
    assert estate.repository.listed() == {}
    for device in estate.accepted():
        refused(
            TrustRefused,
            "TRUST_NOT_LISTED",
            device.authorize,
            "vision/m",
            estate.first,
            hardware="any",
            now_ms=estate.clock(),
        )
    drafts = rotation.add_team(estate.state(), "vision", Keys(estate.new("vision-1")), estate.clock())
    assert "3.team-vision.json" in drafts  # not below what devices have seen of that role
    estate.publish(drafts, *TARGETS, "vision-1")
    estate.accepted(estate.release("1.0.0", 1, "vision-1"))


def test_team_cannot_come_back_with_other_content_under_a_used_counter(estate):
    estate.publish(rotation.remove_team(estate.state(), "vision", estate.clock()), *TARGETS)
    drafts = rotation.add_team(estate.state(), "vision", Keys(estate.new("vision-1")), estate.clock())
    estate.publish(drafts, *TARGETS, "vision-1")
    before = served(estate)
    refused(TrustRefused, "TRUST_ROLLBACK_TEAM", estate.release, "9.9.9", 1, "vision-1")
    assert served(estate) == before


def test_root_keys_are_exchanged_by_old_and_new_holders(estate):
    keys = Keys([*estate.new("root-4", "root-5"), estate.keys["root-3"].public_key], 2)
    drafts = rotation.rotate_root(estate.state(), keys, estate.clock())
    before = served(estate)
    for holders in (ROOTS, ("root-4", "root-5")):
        refused(TrustRefused, "TRUST_ROOT_SIG", estate.repository.publish, estate.signed(drafts, *holders))
    assert served(estate) == before
    estate.publish(drafts, *ROOTS, "root-4", "root-5")
    estate.accepted(estate.first)
    again = rotation.rotate_root(estate.state(), keys, estate.clock())
    refused(AskPerson, "KEY_NOT_OF_ROLE", estate.signed, again, *ROOTS)
    estate.publish(again, "root-4", "root-3")
    assert {device.summary(estate.clock()).root_version for device in estate.accepted(estate.first)} == {3}


@pytest.mark.parametrize("holders", [ROOTS, ("root-4", "root-5")])
def test_root_signed_by_one_side_only_is_refused_before_any_device_is_asked(estate, holders):
    drafts = rotation.rotate_root(estate.state(), Keys(estate.new("root-4", "root-5"), 2), estate.clock())
    files = estate.signed(drafts, *holders)
    refused(TrustRefused, "TRUST_ROOT_SIG", apply_event, estate.state(), files, utc(estate.clock()), History())


def test_several_roots_in_one_event(estate):
    first = rotation.rotate_root(estate.state(), Keys(estate.new("a", "b", "c"), 2), estate.clock())
    state = estate.state()
    state.root = first["2.root.json"].signed
    second = rotation.rotate_root(state, Keys(estate.new("d", "e", "f"), 2), estate.clock())
    drafts = {**first, **second}
    assert [len(signing.quorums) for signing in who_signs(estate.state(), encode_drafts(drafts))] == [2, 2]
    estate.publish(drafts, *ROOTS, "a", "b", "d", "e")
    assert {device.summary(estate.clock()).root_version for device in estate.accepted(estate.first)} == {3}


def test_targets_keys_are_exchanged_by_root(estate):
    keys = Keys(estate.new("targets-3", "targets-4"), 2)
    drafts = rotation.rotate_targets(estate.state(), keys, estate.clock())
    half = {"2.root.json": drafts["2.root.json"]}
    refused(TrustRefused, "TRUST_UNSIGNED_TARGETS", estate.publish, half, *ROOTS)
    estate.publish(drafts, *ROOTS, "targets-3", "targets-4")
    estate.accepted(estate.first)
    old = statements.raise_floors(estate.state(), {"vision/m": 1}, estate.clock())
    refused(AskPerson, "KEY_NOT_OF_ROLE", estate.signed, old, *TARGETS)


def test_online_keys_are_exchanged_and_the_server_switches_at_once(estate):
    snapshot, timestamp = estate.new("snapshot-2", "timestamp-2")
    drafts = rotation.rotate_online(estate.state(), snapshot, timestamp, estate.clock())
    refused(AskPerson, "TRUST_REPOSITORY", estate.publish, drafts, *ROOTS)  # the server does not hold them yet
    estate.online["snapshot"].append(estate.keys["snapshot-2"])
    estate.online["timestamp"].insert(0, estate.keys["timestamp-2"])
    estate.reopen()
    assert estate.repository.signing_keys["timestamp"] == estate.keyid("timestamp")
    estate.accepted(estate.first)
    estate.publish(drafts, *ROOTS)
    assert estate.repository.signing_keys == {"snapshot": snapshot.keyid, "timestamp": timestamp.keyid}
    estate.accepted(estate.first)
    assert estate.reopen().signing_keys["timestamp"] == timestamp.keyid
    estate.repository.resign(force=True)
    estate.accepted(estate.first)


def test_exchanged_online_keys_recover_devices_from_a_fast_forward(estate):
    """The recovery that needs no visit: versions learned under the stolen keys no longer bind."""
    honest = (estate.metadata / "timestamp.json").read_bytes()
    far = Metadata(Snapshot(10**9, expires=utc(estate.clock() + 10**9), meta=dict(estate.state().snapshot.meta)))
    far.signed.meta["targets.json"] = MetaFile(10**9)
    far.sign(estate.keys["snapshot"])
    stamp = Metadata(Timestamp(10**9, expires=utc(estate.clock() + 10**9), snapshot_meta=MetaFile(10**9)))
    stamp.sign(estate.keys["timestamp"])
    (estate.metadata / "timestamp.json").write_bytes(stamp.to_bytes())
    (estate.metadata / "1000000000.snapshot.json").write_bytes(far.to_bytes())
    with pytest.raises(Exception, match="targets"):
        estate.device().refresh(estate.clock())
    (estate.metadata / "timestamp.json").write_bytes(honest)
    (estate.metadata / "1000000000.snapshot.json").unlink()
    refused(TrustRefused, "TRUST_ROLLBACK_TIMESTAMP", estate.device().refresh, estate.clock())
    snapshot, timestamp = estate.new("snapshot-2", "timestamp-2")
    estate.online = {
        "snapshot": estate.some("snapshot", "snapshot-2"),
        "timestamp": estate.some("timestamp-2", "timestamp"),
    }
    estate.reopen()
    estate.publish(rotation.rotate_online(estate.state(), snapshot, timestamp, estate.clock()), *ROOTS)
    estate.accepted(estate.first)


def test_server_that_devices_are_ahead_of_advances(estate):
    """A server restored from a backup: devices have seen later versions of it."""
    backup = served(estate)
    for _ in range(4):
        estate.clock.pass_days(16)
        estate.repository.resign()
    estate.accepted(estate.first)
    ahead = estate.repository
    for path in estate.metadata.iterdir():
        path.unlink()
    for name, data in backup.items():
        (estate.metadata / name).write_bytes(data)
    estate.reopen()
    estate.repository.resign(force=True)
    refused(TrustRefused, "TRUST_ROLLBACK_TIMESTAMP", estate.device().refresh, estate.clock())
    estate.repository.advance(to_timestamp=ahead.timestamp_version + 10, to_snapshot=ahead.snapshot_version + 10)
    estate.accepted(estate.first)
    assert estate.repository.timestamp_version == ahead.timestamp_version + 10
    assert estate.reopen().snapshot_version == ahead.snapshot_version + 10


@pytest.mark.parametrize("versions", [{"to_timestamp": 2}, {"to_snapshot": 1}, {"to_timestamp": 2**53}])
def test_advancing_to_where_nothing_could_follow_is_refused(estate, versions):
    before = served(estate)
    refused(AskPerson, "TRUST_ADVANCE", estate.repository.advance, **versions)
    assert served(estate) == before


def test_director_is_exchanged_and_its_generations_start_anew(estate):
    device = estate.device()
    device.accept_desired(desired(estate, "old", 2**40), estate.clock())
    [director] = estate.new("director-2")
    estate.publish(rotation.rotate_director(estate.state(), director, estate.clock()), *TARGETS)
    for device in estate.accepted(estate.first):
        name = "old" if device is estate.device() else list(estate._stores)[-1]
        refused(
            TrustRefused,
            "TRUST_UNSIGNED_DIRECTOR",
            device.accept_desired,
            desired(estate, name, 2**40 + 1),
            estate.clock(),
        )
        assert device.accept_desired(desired(estate, name, 1, "director-2"), estate.clock()).gen == 1


def test_kit_signers_are_named_without_metadata_of_their_own(estate):
    estate.publish(
        rotation.delegate_kit(estate.state(), Keys(estate.new("kit-1", "kit-2"), 2), estate.clock()), *TARGETS
    )
    assert KIT in delegated_names(estate.state().targets)
    estate.accepted(estate.first)
    estate.publish(rotation.remove_kit(estate.state(), estate.clock()), *TARGETS)
    estate.accepted(estate.first)
    refused(AskPerson, "TRUST_CEREMONY", rotation.remove_kit, estate.state(), estate.clock())


def test_solo_climbs_the_whole_ladder_without_touching_a_device(found):
    estate = found("solo")
    first = estate.release("1.0.0", 1)
    estate.accepted(first)
    now = estate.clock()
    team = rotation.upgrade(
        estate.state(),
        PROFILES["team"],
        root=Keys([*estate.new("r3"), *[s.public_key for s in estate.some("root-1", "root-2")]], 2),
        targets=Keys(estate.new("t1", "t2"), 2),
        revocation=Keys(estate.new("v1", "v2")),
        now_ms=now,
    )
    refused(TrustRefused, "TRUST_ROOT_SIG", estate.publish, team, "root-1", "t1", "t2", "v1")
    estate.publish(team, "root-1", "r3", "t1", "t2", "v1")
    estate.accepted(first)
    assert profile_name(estate.state().root) == "team"
    keys = {"vision": Keys(estate.new("vision-1", "vision-2"), 2), "audio": Keys(estate.new("audio-1", "audio-2"), 2)}
    roots = Keys(estate.new("q1", "q2", "q3", "q4", "q5"), 3)
    more = {"targets": Keys(estate.new("t3", "t4", "t5"), 2), "revocation": Keys(estate.new("v3", "v4", "v5"))}
    step = {"root": roots, "now_ms": now, **more}
    refused(AskPerson, "TRUST_CEREMONY", rotation.upgrade, estate.state(), PROFILES["regulated"], **step)
    regulated = rotation.upgrade(estate.state(), PROFILES["regulated"], teams=keys, **step)
    new = ("q1", "q2", "q3", "t3", "t4", "v3", "vision-1", "vision-2", "audio-1", "audio-2")
    estate.publish(regulated, "r3", "root-1", *new)
    estate.accepted(first, estate.release("2.0.0", 2, "vision-1", "vision-2"))
    assert profile_name(estate.state().root) == "regulated"
    refused(AskPerson, "TRUST_CEREMONY", rotation.upgrade, estate.state(), PROFILES["team"], **step)


def test_more_roots_than_devices_follow_are_never_published(estate):
    """TUF's client follows 256 roots from the one a device was made with, in all its life; the 257th would be lost."""
    root = copy.deepcopy(estate.state().root)
    files = {}
    for root.version in range(2, 302):
        metadata = Metadata(root)
        for key in estate.some(*ROOTS):
            metadata.sign(key, append=True)
        files[f"{root.version}.root.json"] = metadata.to_bytes()
    for version in range(2, 257):  # published one by one, over the centuries
        (estate.metadata / f"{version}.root.json").write_bytes(files[f"{version}.root.json"])
    estate.reopen().publish({"257.root.json": files["257.root.json"]})
    for device in estate.accepted(estate.first):
        assert device.summary(estate.clock()).root_version == 257
    for last in (258, 301):
        event = {f"{version}.root.json": files[f"{version}.root.json"] for version in range(258, last + 1)}
        refused(AskPerson, "TRUST_ROOT_CHAIN", estate.repository.publish, event)
    estate.accepted(estate.first)
