"""Attack 18: a team's key was stolen, its holders were given new ones; the thief serves what the old one signed."""

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from bundles.digest import sha256_hex
from bundles.trust.drafting.drafts import Keys
from bundles.trust.drafting.rotation import rotate_team
from bundles.trust.roles import utc

LIFE_MS = 10 * 86_400_000


def rotate(lab, device):
    """The targets holders give the team another key, and the device learns of it."""
    lab.keys["vision-new"] = CryptoSigner.generate_ecdsa()
    drafts = rotate_team(lab.repository.state, "vision", Keys([lab.keys["vision-new"].public_key]), lab.now())
    lab.publish_drafts(drafts, "targets1", "targets2", "vision-new")
    device.refresh()


def forged(lab):
    """Serve the thief's bundle; return (the team's role that lists it, signed with the stolen key, what is wanted)."""
    signed, wanted = lab.sign_release("6.6.6", 66, base=lab.better)
    data = lab.manifests[wanted.target]
    lab.front.blobs[sha256_hex(data)] = data
    return Metadata[Targets].from_bytes(signed.data).signed, wanted


def serve(lab, role, version, **more):
    role.version, role.expires = version, utc(lab.now() + LIFE_MS)
    metadata = Metadata(role)
    metadata.sign(lab.keys["vision"])
    lab.served[f"{version}.team-vision.json"] = metadata.to_bytes()
    versions = {name: signed.version for name, signed in lab.repository.state.roles.items()}
    versions |= {"targets": lab.repository.targets.version, "team-vision": version, **more}
    lab.serve_state(versions, snapshot=90, timestamp=900)


def sign_with_the_old_key(lab, device):
    """With the stolen online keys: a newer version of the team's role, signed with the key that was taken away."""
    role, wanted = forged(lab)
    rotate(lab, device)
    serve(lab, role, lab.repository.state.roles["team-vision"].version + 1)
    device.refresh()
    lab.assign(wanted, trust_version=900)
    device.poll()


def serve_the_old_delegation(lab, device):
    """With the stolen online keys: the targets role of the day before, which still names the old key."""
    before = lab.repository.targets.version
    role, wanted = forged(lab)
    rotate(lab, device)
    serve(lab, role, lab.repository.state.roles["team-vision"].version + 1, targets=before)
    device.refresh()
    lab.assign(wanted, trust_version=900)
    device.poll()


def runs_the_thiefs(lab, device):
    return device.running() == "6.6.6"


def test_attack_18_revoked_team_key(attack):
    attack(sign_with_the_old_key, "TRUST_UNSIGNED_TEAM", is_instructed=True)


def test_attack_18_revoked_team_key_has_teeth(with_teeth):
    disabled = {"tuf.api._payload._DelegatorMixin.verify_delegate": lambda *_: None}
    with_teeth(sign_with_the_old_key, runs_the_thiefs, disabled)


def test_attack_18_old_delegation(attack):
    attack(serve_the_old_delegation, "TRUST_ROLLBACK_TARGETS", is_instructed=True)


def test_attack_18_old_delegation_has_teeth(with_teeth, forget_what_was_cached):
    """Versions are kept twice, by TUF's client in its cache and by our floors outside it: both are taken away."""
    with_teeth(
        serve_the_old_delegation,
        runs_the_thiefs,
        {
            "bundles.trust.device.cache.MetadataCache._rebuild_scratch": forget_what_was_cached,
            "bundles.trust.device.checks.check_versions": lambda roles, floors: None,
        },
    )


def test_attack_18_the_new_key_is_followed(lab):
    """The refusals above are the old key's: what the team signs with its new one is taken."""
    device = lab.device()
    rotate(lab, device)
    lab.keys["vision"] = lab.keys["vision-new"]
    lab.assign(lab.publish("2.0.0", 6, base=lab.better))
    device.poll()
    assert device.running() == "2.0.0", device.codes()
