"""Attack 11: a bundle is listed by a role that has no say in it, or under a path that is not what it seems."""

import copy

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Targets

from bundles.digest import sha256_hex
from bundles.manifest import parse_manifest
from bundles.trust.director import sign_desired
from bundles.trust.roles import utc
from bundles.wire.messages import Desired, DesiredModel, Profile

MODEL = "vision/digits"
TARGET = "vision/digits/6.6.6/bundle.json"
DAY_MS = 86_400_000


def listing(lab, path):
    """Return (a target file for the attacker's bundle at ``path``, what a director says of it)."""
    data = lab.manifest("6.6.6", 66)
    lab.front.blobs[sha256_hex(data)] = data
    listed = copy.deepcopy(lab.repository.state.roles["team-vision"].targets["vision/digits/1.1.0/bundle.json"])
    listed.path, listed.length, listed.hashes = path, len(data), {"sha256": sha256_hex(data)}
    listed.custom.update(release_counter=66, model="/".join(path.split("/")[:2]))
    return listed, DesiredModel(path, sha256_hex(data), len(data), 66)


def serve_role(lab, role, signed, key, **more):
    """With the stolen online keys: serve ``signed`` as the newest version of ``role``."""
    signed.version = lab.repository.state.roles[role].version + 1 if role in lab.repository.state.roles else 1
    signed.expires = utc(lab.now() + 10 * DAY_MS)
    metadata = Metadata(signed)
    metadata.sign(lab.keys[key])
    lab.served[f"{signed.version}.{role}.json"] = metadata.to_bytes()
    versions = {name: known.version for name, known in lab.repository.state.roles.items()}
    versions |= {"targets": lab.repository.targets.version, role: signed.version, **more}
    lab.serve_state(versions, snapshot=90, timestamp=900)


def order(lab, device, wanted):
    """With the stolen director's key: ask for ``wanted`` as the model of this device, whatever its path says."""
    lab.gen += 1
    now = lab.now()
    document = Desired(
        device="dev-1",
        gen=lab.gen,
        issued=now,
        expires=now + DAY_MS,
        models={MODEL: wanted},
        trust_version=900,
        profile=Profile(heartbeat_s=86_400, report_s=86_400, probation_s=0.05, poll_s=86_400),
    )
    lab.front.assigned = sign_desired(document, lab.keys["director"])
    device.poll()


def sign_with_another_teams_key(lab, device):
    """The vision team's role, listing the attacker's bundle, signed with the audio team's stolen key."""
    listed, wanted = listing(lab, TARGET)
    role = Targets.from_dict(lab.repository.state.roles["team-vision"].to_dict())
    role.targets[TARGET] = listed
    serve_role(lab, "team-vision", role, "audio")
    order(lab, device, wanted)


def list_in_another_teams_role(lab, device):
    """The audio team's role, properly signed with its stolen key, lists a bundle of the vision team."""
    listed, wanted = listing(lab, TARGET)
    role = Targets.from_dict(lab.repository.state.roles["team-audio"].to_dict())
    role.targets[TARGET] = listed
    serve_role(lab, "team-audio", role, "audio")
    order(lab, device, wanted)


def tricking(path):
    """The audio team's role lists a path that its pattern matches letter by letter, and that leads elsewhere."""

    def script(lab, device):
        listed, wanted = listing(lab, path)
        role = Targets.from_dict(lab.repository.state.roles["team-audio"].to_dict())
        role.targets[path] = listed
        serve_role(lab, "team-audio", role, "audio")
        order(lab, device, wanted)

    return script


def runs_the_thiefs(lab, device):
    return device.running() == "6.6.6"


TRICKS = [
    "audio/../digits/bundle.json",
    "audio/x/../bundle.json",
    "audio/./digits/bundle.json",
    "audio//digits/bundle.json",
    "audio/%2e%2e/digits/bundle.json",
    "audio/dígits/6.6.6/bundle.json",
    "audio/Digits/6.6.6/bundle.json",
    "audio/digits/6.6.6 /bundle.json",
    "audio/digits/6.6.6/bundle.json\x00",
]


def test_attack_11_wrong_key(attack):
    attack(sign_with_another_teams_key, "TRUST_UNSIGNED_TEAM", is_instructed=True)


def test_attack_11_wrong_key_has_teeth(with_teeth):
    disabled = {"tuf.api._payload._DelegatorMixin.verify_delegate": lambda *_: None}
    with_teeth(sign_with_another_teams_key, runs_the_thiefs, disabled)


def test_attack_11_cross_team(attack):
    attack(list_in_another_teams_role, "TRUST_NOT_LISTED", is_instructed=True)


def test_attack_11_cross_team_has_teeth(with_teeth):
    """Without the pattern a team is held to, whoever is asked first may list anything."""
    disabled = {
        "tuf.api._payload.DelegatedRole.is_delegated_path": lambda role, path: (
            role.name == ("revocation" if path.startswith(".") else "team-audio")
        ),
    }
    with_teeth(list_in_another_teams_role, runs_the_thiefs, disabled)


@pytest.mark.parametrize("path", TRICKS)
def test_attack_11_path_tricks(attack, path):
    attack(tricking(path), "TRUST_NOT_LISTED", is_instructed=True)


def test_attack_11_path_tricks_have_teeth(with_teeth):
    """A path is refused before it is looked up, and the manifest must say the same path: both are taken away."""
    disabled = {
        "bundles.trust.device.client.check_target_path": lambda model, wanted: None,
        "agent.runner.steps.check_manifest": lambda bundle, data: parse_manifest(data),
    }
    with_teeth(tricking("audio/../digits/bundle.json"), runs_the_thiefs, disabled)


@pytest.mark.parametrize("length", [1, 2, 40])
def test_attack_11_delegation_cycle_and_depth(attack, length):
    """A team's role whose delegations go round, or on and on: looked up in bounded time, and nothing is found."""

    def script(lab, device):
        thief = lab.keys["thief"] = CryptoSigner.generate_ed25519()
        _, wanted = listing(lab, TARGET)
        names = [f"deep-{number}" for number in range(length)]
        for number, name in enumerate(names):
            following = names[(number + 1) % length]
            key = thief.public_key
            onward = Delegations(
                {key.keyid: key}, {following: DelegatedRole(following, [key.keyid], 1, False, ["vision/*/*/*"])}
            )
            serve_role(lab, name, Targets(delegations=onward), "thief")
        team = Targets.from_dict(lab.repository.state.roles["team-vision"].to_dict())
        key = thief.public_key
        team.delegations = Delegations(
            {key.keyid: key}, {names[0]: DelegatedRole(names[0], [key.keyid], 1, False, ["vision/*/*/*"])}
        )
        serve_role(lab, "team-vision", team, "vision", **dict.fromkeys(names, 1))
        order(lab, device, wanted)

    attack(script, "TRUST_NOT_LISTED", is_instructed=True)
