"""Attack 12: a root of the attacker's own, signed by too few of those who were trusted before him.

One of three root keys is stolen, with every online key. What the attacker wants: a whole repository of his own.
"""

import copy

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from bundles.digest import sha256_hex
from bundles.trust.roles import utc
from bundles.wire.messages import DesiredModel

TARGET = "vision/digits/6.6.6/bundle.json"
LIFE_MS = 10 * 86_400_000


def repository_of_his_own(lab, root_holders, *, named_in_root=True):
    """Serve a root that ``root_holders`` signed, and below it a repository of one new key that lists a bundle."""
    thief = lab.keys["thief"] = CryptoSigner.generate_ed25519()
    expires, state = utc(lab.now() + LIFE_MS), lab.repository.state

    def served(name, signed, *holders):
        metadata = Metadata(signed)
        for holder in lab.some(*holders):
            metadata.sign(holder, append=True)
        lab.served[name] = metadata.to_bytes()

    root = Root.from_dict(state.root.to_dict())
    root.version += 1
    for role in ("root", "targets", "snapshot", "timestamp"):
        if role == "root" and not named_in_root:
            continue
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        root.add_key(thief.public_key, role)
        root.roles[role].threshold = 1
    served(f"{root.version}.root.json", root, *root_holders)

    data = lab.manifest("6.6.6", 66)
    lab.front.blobs[sha256_hex(data)] = data
    targets = Targets.from_dict(state.targets.to_dict())
    targets.version += 1
    targets.revoke_key(lab.keys["vision"].public_key.keyid, "team-vision")
    targets.add_key(thief.public_key, "team-vision")
    served(f"{targets.version}.targets.json", targets, "thief")
    team = Targets.from_dict(state.roles["team-vision"].to_dict())
    team.version += 1
    listed = copy.deepcopy(team.targets["vision/digits/1.1.0/bundle.json"])
    listed.path, listed.length, listed.hashes = TARGET, len(data), {"sha256": sha256_hex(data)}
    listed.custom["release_counter"] = 66
    team.targets[TARGET] = listed
    served(f"{team.version}.team-vision.json", team, "thief")
    versions = {
        "targets": targets.version,
        **{r: s.version for r, s in state.roles.items()},
        "team-vision": team.version,
    }
    meta = {f"{role}.json": MetaFile(version) for role, version in versions.items()}
    served("90.snapshot.json", Snapshot(90, expires=expires, meta=meta), "thief")
    served("timestamp.json", Timestamp(900, expires=expires, snapshot_meta=MetaFile(90)), "thief")
    return DesiredModel(TARGET, sha256_hex(data), len(data), 66)


def taking_over(*root_holders, named_in_root=True):
    def script(lab, device):
        wanted = repository_of_his_own(lab, root_holders, named_in_root=named_in_root)
        device.refresh()
        lab.assign(wanted, trust_version=900)
        device.poll()

    return script


def hide_a_root(lab, device):
    """Two roots are signed, the second after the first; the attacker serves the second in the first's place."""
    for version in (2, 3):
        root = Root.from_dict(lab.repository.state.root.to_dict())
        root.version = version
        metadata = Metadata(root)
        for holder in lab.some("root1", "root2"):
            metadata.sign(holder, append=True)
        lab.served[f"{version}.root.json"] = metadata.to_bytes()
    lab.served["2.root.json"] = lab.served["3.root.json"]
    device.refresh()


def runs_the_thiefs(lab, device):
    return device.running() == "6.6.6"


SIGNED_BY = {
    "only by its own new key": taking_over("thief"),
    "by one of the old keys": taking_over("root1", "thief"),
    "by the online keys": taking_over("snapshot", "timestamp", "thief"),
    "only by one old key, old keys kept": taking_over("root1", named_in_root=False),
}


@pytest.mark.parametrize("words", SIGNED_BY)
def test_attack_12_root_signed_by_too_few(attack, words):
    attack(SIGNED_BY[words], "TRUST_ROOT_SIG", is_instructed=True)


@pytest.mark.parametrize("words", SIGNED_BY)
def test_attack_12_has_teeth(with_teeth, words):
    from tuf.api._payload import Root as Delegator

    original = Delegator.verify_delegate

    def any_root_will_do(delegator, role, payload, signatures):
        if role != "root":
            original(delegator, role, payload, signatures)

    with_teeth(SIGNED_BY[words], runs_the_thiefs, {"tuf.api._payload.Root.verify_delegate": any_root_will_do})


def test_attack_12_a_root_version_is_skipped(attack):
    attack(hide_a_root, "TRUST_ROLLBACK_ROOT")


def test_attack_12_skipping_has_teeth(with_teeth):
    def without_counting(known, data):
        root, payload, signatures = known._load_data(Root, data, known.root)
        root.verify_delegate("root", payload, signatures)
        known._add("root", root, "root")
        return root

    with_teeth(
        hide_a_root,
        lambda lab, device: device.snapshot().floors.roles["root"].version == 3,
        {"tuf.ngclient._internal.trusted_metadata_set.TrustedMetadataSet.update_root": without_counting},
    )
