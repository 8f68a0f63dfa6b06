"""Attack 15: the director's key is stolen, and the director names what nobody signed."""

import msgspec
import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from bundles.digest import canonical_json, sha256_hex
from bundles.trust.device.authorize import Authorized
from bundles.trust.roles import TargetCustom, utc
from bundles.wire.messages import DesiredModel, Profile

QUIET = Profile(heartbeat_s=86_400, report_s=86_400, probation_s=0.05, poll_s=86_400)


def invent(lab, device):
    """A bundle of the attacker's own making, on the server, named by a properly signed assignment."""
    data = lab.manifest("6.6.6", 66)
    target = "vision/digits/6.6.6/bundle.json"
    lab.front.blobs[sha256_hex(data)] = data
    lab.assign(DesiredModel(target, sha256_hex(data), len(data), 66))
    device.poll()


def runs_the_invention(lab, device):
    return device.running() == "6.6.6"


def allow_whatever_the_director_says(store, model, wanted, *, hardware, now_ms):
    custom = TargetCustom(wanted.counter, [], "prod", model)
    return Authorized(model, wanted.target, wanted.sha256, wanted.length, "vision", custom)


def test_attack_15_director_invents(attack):
    attack(invent, "TRUST_NOT_LISTED", is_instructed=True)


def test_attack_15_director_invents_has_teeth(with_teeth):
    disabled = {"bundles.trust.device.client.TrustStore.authorize": allow_whatever_the_director_says}
    with_teeth(invent, runs_the_invention, disabled)


def for_another_device(lab, device):
    """An honest order for a neighbour, to go back, is told to this device too."""
    lab.assign(lab.wanted("1.0.0"), device="dev-2")
    device.poll()


def replay(lab, device):
    """The order of the first day, honestly signed for this very device, is told again."""
    first = lab.desired(1, lab.wanted("1.0.0"), profile=QUIET)
    lab.front.assigned = first
    device.poll()


def say_otherwise(lab, device):
    """A listed path, and under it content that nobody signed."""
    forged = lab.manifest("1.1.0", 5, base=lab.better)
    lab.front.blobs[sha256_hex(forged)] = forged
    lab.assign(DesiredModel("vision/digits/1.1.0/bundle.json", sha256_hex(forged), len(forged), 5))
    device.poll()


def with_a_role_of_its_own(lab, device):
    """The director's key signs TUF metadata that lists a bundle; the stolen online keys put it into the snapshot."""
    data = lab.manifest("6.6.6", 66)
    lab.front.blobs[sha256_hex(data)] = data
    target = "vision/digits/6.6.6/bundle.json"
    custom = {"release_counter": 66, "hardware": [], "channel": "prod", "model": "vision/digits"}
    listed = TargetFile(len(data), {"sha256": sha256_hex(data)}, target, {"custom": custom})
    role = Metadata(Targets(1, expires=utc(lab.now() + 10**9), targets={target: listed}))
    role.sign(lab.keys["director"])
    lab.served["1.director.json"] = role.to_bytes()
    versions = {name: signed.version for name, signed in lab.repository.state.roles.items()}
    versions |= {"targets": lab.repository.targets.version, "director": 1}
    lab.serve_state(versions, snapshot=90, timestamp=900)
    lab.assign(DesiredModel(target, sha256_hex(data), len(data), 66), trust_version=900)
    device.poll()


def signed(lab, text):
    """Serve ``text`` as a desired document, properly signed with the stolen director's key."""
    signature = lab.keys["director"].sign(text)
    entry = {"keyid": signature.keyid, "sig": signature.signature}
    lab.front.assigned = b'{"signed":' + text + b',"signatures":[' + canonical_json(entry) + b"]}"


def two_for_one_slot(lab, device):
    """One document names two bundles for one model: a reader that takes the last runs what a log did not show."""
    honest = lab.desired(lab.gen + 1, lab.wanted("1.1.0"), profile=QUIET)
    text = canonical_json(msgspec.json.decode(honest)["signed"])
    other = canonical_json(lab.wanted("1.0.0"))
    signed(lab, text.replace(b'"models":{', b'"models":{"vision/digits":' + other + b",", 1))
    device.poll()


def empty_without_a_device(lab, device):
    """A document for nobody, which asks for nothing: a reader with defaults would take every model away."""
    honest = msgspec.json.decode(lab.desired(lab.gen + 1, profile=QUIET))["signed"]
    del honest["device"], honest["models"]
    signed(lab, canonical_json(honest))
    device.poll()


def went_back(lab, device):
    return device.running() == "1.0.0"


def took_the_old_order(lab, device):
    return device.snapshot().floors.gen == 1


def took_an_order(lab, device):
    return device.snapshot().floors.gen == lab.gen + 1


def runs_other_content(lab, device):
    return device.snapshot().active not in (None, lab.wanted("1.1.0").sha256, lab.wanted("1.0.0").sha256)


def allow_any_listing(model, wanted, listed, role):
    custom = TargetCustom(wanted.counter, [], "prod", model)
    return Authorized(model, wanted.target, wanted.sha256, wanted.length, role, custom)


@pytest.mark.parametrize(
    ("script", "code", "is_instructed"),
    [
        (for_another_device, "TRUST_WRONG_DEVICE", False),
        (replay, "TRUST_ROLLBACK_DIRECTOR", False),
        (say_otherwise, "TRUST_DIRECTOR_MISMATCH", True),
        (with_a_role_of_its_own, "TRUST_NOT_LISTED", True),
        (two_for_one_slot, "TRUST_UNSIGNED_DIRECTOR", False),
        (empty_without_a_device, "MESSAGE_INVALID", False),
    ],
)
def test_attack_15_director_lies(attack, script, code, is_instructed):
    attack(script, code, is_instructed=is_instructed)


@pytest.mark.parametrize(
    ("script", "succeeded", "disabled"),
    [
        (for_another_device, went_back, {"bundles.trust.device.checks.check_device": lambda desired, device: None}),
        (replay, took_the_old_order, {"bundles.trust.device.checks.check_generation": lambda *_: None}),
        (say_otherwise, runs_other_content, {"bundles.trust.device.client.check_listing": allow_any_listing}),
        (two_for_one_slot, took_an_order, {"bundles.trust.director.check_canonical": lambda signed, fields: None}),
        (
            with_a_role_of_its_own,
            runs_the_invention,
            {
                "tuf.api._payload.DelegatedRole.is_delegated_path": lambda role, path: (
                    role.name == ("revocation" if path.startswith(".") else "director")
                )
            },
        ),
    ],
)
def test_attack_15_director_lies_has_teeth(with_teeth, script, succeeded, disabled):
    with_teeth(script, succeeded, disabled)
