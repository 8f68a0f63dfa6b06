"""A regulated company founds its repository: thirteen holders with folders of their own, one of them with a token."""

from __future__ import annotations

import shutil
import time

import pytest

from bundles.trust.device.client import TrustStore
from bundles.trust.fetch import folder_fetch
from bundles.trust.signing.signers import load_public

PIN = "493817"


@pytest.fixture
def holders(desk):
    """Every holder's folder with a key nobody else has; the office has the public halves only."""
    (desk.folder / "pubs").mkdir()
    folders = {}
    wanted = [("root", 5), ("targets", 3), ("revocation", 3), ("team-vision", 2)]
    for name in [f"{role}-{number}" for role, count in wanted for number in range(1, count + 1)]:
        folder = desk.folder.parent / name
        folder.mkdir()
        holder = type(desk)(folder, desk.environment)
        if name == "targets-3":
            desk.make_key(7)
            holder.do("trust key import --signer hsm:7 --out key.pub")
        else:
            scheme = "ecdsa" if name.endswith("2") else "ed25519"
            holder.do(f"trust key new key.pem --scheme {scheme}", WAVEGATE_KEY_PASSPHRASE=f"secret of {name}")
        shutil.copy(folder / "key.pub", desk.folder / "pubs" / f"{name}.pub")
        folders[name] = holder
    return folders


def init(holders, *, roots=5):
    words = [f"--{role}-key pubs/{role}-{n}.pub" for role, count in (("root", roots), ("targets", 3), ("revocation", 3))
             for n in range(1, count + 1)]  # fmt: skip
    words += [f"--team-key vision=pubs/team-vision-{number}.pub" for number in (1, 2)]
    return f"trust init --profile regulated --dir office --server data --out founding.zip {' '.join(words)}"


def sign(desk, holder, name):
    """Pass the event to ``holder`` as a copy, have it signed there, and merge the copy."""
    shutil.copy(desk.folder / "founding.zip", holder.folder / "event.zip")
    line, extra = "trust sign event.zip --signer key.pem --yes", {"WAVEGATE_KEY_PASSPHRASE": f"secret of {name}"}
    if name == "targets-3":
        line, extra = "trust sign event.zip --signer hsm:7 --public key.pub --yes", {"WAVEGATE_HSM_PIN": PIN}
    done = holder.do(line, **extra)
    assert done["signed_now"] == [load_public(holder.folder / "key.pub").keyid]
    shutil.copy(holder.folder / "event.zip", desk.folder / f"from-{name}.zip")
    desk.do(f"trust merge founding.zip from-{name}.zip")


def test_keys_in_thirteen_places_found_a_repository_that_a_device_accepts(desk, holders):
    short = desk.call(init(holders, roots=4), WAVEGATE_KEY_PASSPHRASE="of the spare")
    assert "[TRUST_CEREMONY]" in short.stderr
    assert not (desk.folder / "data").exists()
    assert not (desk.folder / "office").exists()
    made = desk.do(init(holders) + " --note founding", WAVEGATE_KEY_PASSPHRASE="of the spare")
    assert made["files"] == ["1.revocation.json", "1.root.json", "1.targets.json", "1.team-vision.json"]
    assert any("Root is added: 3 of 5 key(s) must sign" in line for line in made["changes"])
    assert not list((desk.folder / "office").rglob("root*"))

    # Three of five root holders, two of three of targets (one at a token), one of revocation, both of the team.
    signers = ["root-5", "root-2", "targets-1", "targets-3", "revocation-2", "team-vision-1", "team-vision-2"]
    for name in signers:
        sign(desk, holders[name], name)
    early = desk.call("trust found founding.zip --server data")
    assert "[TRUST_THRESHOLD]" in early.stderr
    assert "1.root.json: 1 more of root" in early.stderr
    assert not (desk.folder / "data/metadata").exists()
    sign(desk, holders["root-4"], "root-4")
    assert desk.do("trust status founding.zip")["complete"]

    elsewhere = desk.call("trust found founding.zip --server other")
    assert "[TRUST_REPOSITORY]" in elsewhere.stderr
    founded = desk.do("trust found founding.zip --server data")
    assert founded["files"] == [
        *("1.revocation.json", "1.root.json", "1.snapshot.json", "1.targets.json", "1.team-vision.json"),
        "timestamp.json",
    ]
    again = desk.call("trust found founding.zip --server data")
    assert "[TRUST_CEREMONY]" in again.stderr
    root = (desk.folder / "data/root.json").read_bytes()
    fetch = folder_fetch(desk.folder / "data/metadata")
    with TrustStore(desk.folder / "device", root, device="cam-1", fetch=fetch) as store:
        store.refresh(int(time.time() * 1000))
        assert store.floors.roles["targets"].version == 1
        assert len(store.server_cas) == 2
    told = desk.do("trust status data")
    assert told["profile"] == "regulated"
    assert not any("not reviewed" in remark for remark in told["remarks"])
    signed = {role["role"]: len(role["signed_by"]) for role in told["roles"]}
    assert (signed["root"], signed["targets"], signed["revocation"], signed["team-vision"]) == (3, 2, 1, 2)

    # From here on it is a repository like any other: the token and another holder sign the next change.
    targets_1 = holders["targets-1"]
    shutil.copy(desk.folder / "data/root.json", targets_1.folder)
    made = targets_1.do(
        f"trust floor vision/digits 3 --metadata {desk.folder / 'data'} --signer key.pem --root root.json --out floor",
        WAVEGATE_KEY_PASSPHRASE="secret of targets-1",
    )
    shutil.copytree(targets_1.folder / "floor", holders["targets-3"].folder / "floor")
    shutil.copy(desk.folder / "data/root.json", holders["targets-3"].folder)
    done = holders["targets-3"].do(
        "trust sign floor --signer hsm:7 --public key.pub --root root.json --yes", WAVEGATE_HSM_PIN=PIN
    )
    assert done["complete"]
    shutil.copytree(holders["targets-3"].folder / "floor", desk.folder / "floor")
    assert desk.do("trust publish floor --server data")["published"] == ["2.targets.json"]
