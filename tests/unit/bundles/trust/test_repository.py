from __future__ import annotations

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from bundles.errors import AskPerson, Refused, TrustRefused
from bundles.trust.drafting.offline import Quorum, add_team, raise_signed_floors
from bundles.trust.drafting.release import add_release, current_team
from bundles.trust.fetch import folder_fetch
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.roles import utc

DAY_MS = 86_400_000


def refused(kind, code, action, *arguments, **options):
    with pytest.raises(kind) as caught:
        action(*arguments, **options)
    assert caught.value.code == code
    assert caught.value.remedy


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def team_file(holders, change, *names, version=2, role="vision1"):
    """A hand-made next version of the team's role."""
    targets = Targets(version, expires=utc(holders.now() + 10**9))
    change(targets)
    metadata = Metadata(targets)
    for name in names or (role,):
        metadata.sign(holders.keys[name], append=True)
    return {f"{version}.team-vision.json": metadata.to_bytes()}


def test_published_bundle_is_listed_and_told(holders):
    wanted = holders.publish("1.0.0", 1)
    repository = holders.repository()
    assert repository.listed() == {wanted.target: wanted.sha256}
    assert repository.timestamp_version == 2
    assert repository.root_bytes == holders.root


def test_publishing_twice_is_once(holders):
    signed = holders.sign(holders.manifest("1.0.0", 1))
    repository = holders.repository()
    first = repository.publish({signed.name: signed.data})
    before = everything(holders.metadata)
    second = repository.publish({signed.name: signed.data})
    assert (len(first.releases), second.names, second.releases) == (1, [], {})
    assert everything(holders.metadata) == before


def test_second_of_two_releases_signed_on_one_state_has_to_be_signed_again(holders):
    first, second = (holders.sign(holders.manifest(f"1.{n}.0", n + 1)) for n in range(2))
    repository = holders.repository()
    repository.publish({first.name: first.data})
    before = everything(holders.metadata)
    refused(AskPerson, "TRUST_CONFLICT", repository.publish, {second.name: second.data})
    assert everything(holders.metadata) == before
    again = holders.sign(holders.manifest("1.1.0", 2))
    assert len(repository.publish({again.name: again.data}).releases) == 1


def test_nothing_unsigned_or_wrongly_signed_is_published(holders):
    stranger = CryptoSigner.generate_ed25519()
    holders.keys["stranger"] = stranger
    repository = holders.repository()
    before = everything(holders.metadata)
    for name in ("stranger", "targets", "snapshot"):
        files = team_file(holders, lambda targets: None, name)
        refused(TrustRefused, "TRUST_UNSIGNED_TEAM", repository.publish, files)
    assert everything(holders.metadata) == before


@pytest.mark.parametrize(
    "name", ["timestamp.json", "9.snapshot.json", "../x.json", "2.team-vision.json/..", "a/b.json"]
)
def test_only_what_people_sign_is_published(holders, name):
    with pytest.raises(TrustRefused):
        holders.repository().publish({name: holders.sign(holders.manifest("1.0.0", 1)).data})


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 10_000])
def test_garbage_is_refused(holders, data):
    refused(TrustRefused, "TRUST_UNSIGNED_TEAM", holders.repository().publish, {"2.team-vision.json": data})


def test_renamed_file_is_refused(holders):
    signed = holders.sign(holders.manifest("1.0.0", 1))
    refused(TrustRefused, "TRUST_MIX", holders.repository().publish, {"3.team-vision.json": signed.data})


def test_role_that_nobody_delegated_is_refused(holders):
    data = team_file(holders, lambda targets: None)["2.team-vision.json"]
    renamed = {"2.team-audio.json": data}
    with pytest.raises((TrustRefused, AskPerson)):
        holders.repository().publish(renamed)


def listing(holders, *entries):
    """Return a change that lists (path, counter, model, digest)."""
    from tuf.api.metadata import TargetFile

    def change(targets):
        for path, counter, model, digest in entries:
            custom = {"release_counter": counter, "hardware": [], "channel": "prod", "model": model}
            targets.targets[path] = TargetFile(10, {"sha256": digest}, path, {"custom": custom})

    return change


@pytest.mark.parametrize(
    "entry",
    [
        ("audio/digits/1/bundle.json", 1, "audio/digits", "a" * 64),
        ("vision/../1/bundle.json", 1, "vision/..", "a" * 64),
        ("vision/digits/1/bundle.json", 1, "vision/other", "a" * 64),
        ("vision/digits/1/model.onnx", 1, "vision/digits", "a" * 64),
    ],
)
def test_team_lists_bundles_of_its_own_only(holders, entry):
    files = team_file(holders, listing(holders, entry))
    refused(TrustRefused, "TRUST_NOT_LISTED", holders.repository().publish, files)


def test_one_counter_two_contents_is_refused(holders):
    entries = [(f"vision/digits/{n}/bundle.json", 1, "vision/digits", str(n) * 64) for n in (1, 2)]
    refused(
        TrustRefused,
        "TRUST_ROLLBACK_TEAM",
        holders.repository().publish,
        team_file(holders, listing(holders, *entries)),
    )


def test_published_path_never_changes_its_content(holders):
    wanted = holders.publish("1.0.0", 1)
    files = team_file(holders, listing(holders, (wanted.target, 1, "vision/digits", "b" * 64)), version=3)
    refused(TrustRefused, "TRUST_ROLLBACK_TEAM", holders.repository().publish, files)


def test_expired_role_is_refused(holders):
    def expire(targets):
        targets.expires = utc(holders.now() - 1000)

    refused(TrustRefused, "TRUST_EXPIRED_TEAM", holders.repository().publish, team_file(holders, expire))


def test_online_roles_are_signed_again_once_a_day(holders):
    repository = holders.repository()
    assert not repository.resign()
    holders.offset_ms = DAY_MS + 1000
    assert repository.resign()
    assert not repository.resign()
    assert repository.timestamp_version == 2
    assert repository.expiries()["snapshot"] < repository.expiries()["timestamp"] + 30 * DAY_MS
    holders.offset_ms = 0
    with holders.store() as store:
        assert store.refresh(holders.now()).timestamp_version == 2


def test_snapshot_is_signed_again_past_half_its_life(holders):
    repository = holders.repository()
    before = repository.expiries()["snapshot"]
    holders.offset_ms = 16 * DAY_MS
    assert repository.resign()
    assert repository.expiries()["snapshot"] > before
    assert (holders.metadata / "2.snapshot.json").exists()


def test_publishing_after_the_signer_was_down_for_weeks(holders):
    """The state before has expired for devices; publishing brings everything up to date."""
    signed = holders.sign(holders.manifest("1.0.0", 1))
    stamp = Metadata.from_file(str(holders.metadata / "timestamp.json"))
    stamp.signed.expires = utc(holders.now() - 5 * DAY_MS)
    stamp.sign(holders.keys["timestamp"])
    stamp.to_file(str(holders.metadata / "timestamp.json"))
    holders.repository().publish({signed.name: signed.data})
    with holders.store() as store:
        assert store.refresh(holders.now()).timestamp_version == 2


def test_crash_before_the_timestamp_leaves_the_state_before(holders):
    signed = holders.sign(holders.manifest("1.0.0", 1))
    before = (holders.metadata / "timestamp.json").read_bytes()
    holders.repository().publish({signed.name: signed.data})
    (holders.metadata / "timestamp.json").write_bytes(before)  # everything but the last write happened
    repository = holders.repository()
    assert repository.listed() == {}
    with holders.store() as store:
        assert store.refresh(holders.now()).timestamp_version == 1


def test_publishing_again_after_such_a_crash_completes_it(holders):
    signed = holders.sign(holders.manifest("1.0.0", 1))
    before = (holders.metadata / "timestamp.json").read_bytes()
    holders.repository().publish({signed.name: signed.data})
    (holders.metadata / "timestamp.json").write_bytes(before)
    assert len(holders.repository().publish({signed.name: signed.data}).releases) == 1
    assert len(holders.repository().listed()) == 1


def test_wrong_online_key_is_found_when_opening(holders):
    other = CryptoSigner.generate_ed25519()
    with pytest.raises(AskPerson) as caught:
        OnlineRepository(holders.metadata, other, holders.keys["timestamp"], holders.now)
    assert caught.value.code == "TRUST_REPOSITORY"


def test_folder_without_a_repository_is_named(holders, tmp_path):
    with pytest.raises(AskPerson) as caught:
        OnlineRepository(tmp_path / "none", holders.keys["snapshot"], holders.keys["timestamp"], holders.now)
    assert caught.value.code == "TRUST_REPOSITORY"


def test_new_team_is_delegated_and_lists(holders):
    repository = holders.repository()
    audio = CryptoSigner.generate_ecdsa()
    files = add_team(repository.targets, "audio", Quorum([audio], 1), holders.some("targets"), holders.now())
    alone = {name: data for name, data in files.items() if "targets" in name}
    refused(TrustRefused, "TRUST_MIX", repository.publish, alone)
    repository.publish(files)
    state = current_team(folder_fetch(holders.metadata), holders.root, "audio", holders.now())
    signed = add_release(state, holders.manifest("1", 1, team="audio"), [audio], holders.now())
    assert len(repository.publish({signed.name: signed.data}).releases) == 1


def test_team_whose_key_was_exchanged_must_sign_in_the_same_event(holders):
    """Otherwise devices would find a role that its present keys have not signed."""
    holders.publish("1.0.0", 1)
    repository = holders.repository()
    targets = Targets.from_dict(repository.targets.to_dict())
    targets.version = 2
    targets.revoke_key(holders.keys["vision1"].public_key.keyid, "team-vision")
    metadata = Metadata(targets)
    metadata.sign(holders.keys["targets"])
    before = everything(holders.metadata)
    refused(TrustRefused, "TRUST_UNSIGNED_TEAM", repository.publish, {"2.targets.json": metadata.to_bytes()})
    assert everything(holders.metadata) == before


def test_signed_floors_only_rise(holders):
    repository = holders.repository()
    keys = holders.some("targets")
    repository.publish(raise_signed_floors(repository.targets, {"vision/digits": 5}, keys, holders.now()))
    repository.publish(
        raise_signed_floors(repository.targets, {"vision/digits": 2, "vision/x": 1}, keys, holders.now())
    )
    assert repository.targets.unrecognized_fields["x-floors"] == {"vision/digits": 5, "vision/x": 1}


def test_threshold_of_a_team_needs_both_holders(holders):
    from tuf.api.metadata import Targets

    repository = holders.repository()
    targets = Targets.from_dict(repository.targets.to_dict())
    targets.version = 2
    targets.delegations.roles["team-vision"].threshold = 2
    metadata = Metadata(targets)
    metadata.sign(holders.keys["targets"])
    both = team_file(holders, lambda targets: None, "vision1", "vision2")
    repository.publish({"2.targets.json": metadata.to_bytes(), **both})
    manifest = holders.manifest("1.0.0", 1)
    half = holders.sign(manifest, "vision1")
    assert (half.signatures, half.is_complete) == (1, False)
    refused(TrustRefused, "TRUST_THRESHOLD", repository.publish, {half.name: half.data})
    whole = holders.sign(manifest, "vision2", pending=half.data)
    assert whole.is_complete
    repository.publish({whole.name: whole.data})


@pytest.mark.parametrize(
    ("version", "counter", "note", "code"),
    [
        ("1.0.0", 3, "", "RELEASE_EXISTS"),
        ("1.0.0", 9, "other", "RELEASE_EXISTS"),
        ("1.1.0", 3, "", "RELEASE_COUNTER"),
        ("1.1.0", 2, "", "RELEASE_COUNTER"),
    ],
)
def test_used_version_or_counter_is_not_signed(holders, version, counter, note, code):
    holders.publish("1.0.0", 3)
    refused(Refused, code, holders.sign, holders.manifest(version, counter, note=note))


def test_key_of_another_role_does_not_sign(holders):
    refused(AskPerson, "KEY_NOT_OF_ROLE", holders.sign, holders.manifest("1.0.0", 1), "targets")


def test_signer_builds_on_nothing_unverified(holders):
    """A server that slips a bundle under the team's next signature is found out."""
    slipped = team_file(
        holders, listing(holders, ("vision/digits/6/bundle.json", 6, "vision/digits", "6" * 64)), "snapshot"
    )
    (holders.metadata / "1.team-vision.json").write_bytes(
        slipped["2.team-vision.json"].replace(b'"version":2', b'"version":1')
    )
    refused(TrustRefused, "TRUST_UNSIGNED_TEAM", holders.sign, holders.manifest("1.0.0", 1))


def test_unknown_team_is_named(holders):
    refused(TrustRefused, "TRUST_NOT_LISTED", current_team, holders.fetch, holders.root, "audio", holders.now())


def test_key_under_two_ids_does_not_count_twice(holders):
    repository = holders.repository()
    targets = Targets.from_dict(repository.targets.to_dict())
    targets.version = 2
    public = holders.keys["vision1"].public_key.to_dict()
    from securesystemslib.signer import SSlibKey

    targets.add_key(SSlibKey.from_dict("f" * 64, dict(public)), "team-vision")
    metadata = Metadata(targets)
    metadata.sign(holders.keys["targets"])
    refused(TrustRefused, "TRUST_THRESHOLD", repository.publish, {"2.targets.json": metadata.to_bytes()})


def test_team_whose_name_ends_like_a_top_level_role(holders):
    """``1.team-a.root.json`` is a team's file, not a root."""
    repository = holders.repository()
    keys = Quorum([CryptoSigner.generate_ed25519()], 1)
    repository.publish(add_team(repository.targets, "a.root", keys, holders.some("targets"), holders.now()))
    reopened = holders.repository()
    assert reopened.root_bytes == holders.root
    state = current_team(holders.fetch, holders.root, "a.root", holders.now())
    signed = add_release(state, holders.manifest("1", 1, team="a.root"), keys.signers, holders.now())
    assert len(reopened.publish({signed.name: signed.data}).releases) == 1
