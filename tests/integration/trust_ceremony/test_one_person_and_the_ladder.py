"""One person gets started in one command, and goes up the ladder; every role is rotated through the command line."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bundles.archive import open_archive
from bundles.errors import AskPerson, TrustRefused
from bundles.trust.device.client import TrustStore
from bundles.trust.fetch import folder_fetch
from bundles.trust.signing.signers import load_public, load_signer
from bundles.wire.messages import DesiredModel

INIT = "trust init --dir ceremony --server data --profile solo --team vision --backup usb"
ROOT_1 = "--signer ceremony/keys/root-1.pem --root ceremony/root.json"


@pytest.fixture
def ada(person, monkeypatch):
    """Somebody alone, who held the ceremony with one passphrase."""
    monkeypatch.setenv("WAVEGATE_KEY_PASSPHRASE", "correct horse battery")
    ada = person("ada")
    ada.do(INIT + " --sheet sheet.txt")
    return ada


def store(ada, name="device", **options):
    fetch = folder_fetch(ada.home / "data/metadata")
    root = (ada.home / "ceremony/root.json").read_bytes()
    return TrustStore(ada.home / name, root, device="cam-1", fetch=fetch, **options)


def now():
    return int(time.time() * 1000)


def publish(ada, event):
    return ada.do(f"trust publish {event} --server data --root ceremony/root.json")["published"]


def listed(ada, version="1.0.0", counter=1):
    """Build, sign and publish a bundle; return what the director would ask for."""
    name = ada.build("vision", version, counter)
    ada.do(f"bundle sign {name} --key ceremony/keys/team-vision.pem --metadata data --event e-{version}")
    publish(ada, f"e-{version}")
    archive = open_archive(ada.home / name)
    return DesiredModel(archive.manifest.target_path, archive.sha256, len(archive.manifest_bytes), counter)


def test_one_command_and_one_passphrase_then_a_bundle_is_accepted(ada):
    keys = [ada.home / "ceremony/keys/root-1.pem", ada.home / "usb/root-2.pem", ada.home / "ceremony/keys"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in keys] == [0o600, 0o600, 0o700]
    assert all(b"ENCRYPTED" in key.read_bytes() for key in keys[:2])
    assert not (ada.home / "ceremony/keys/root-2.pem").exists()
    assert (ada.home / "usb/root-2.pem").read_text().strip() in (ada.home / "sheet.txt").read_text()
    wanted = listed(ada)
    with store(ada) as device:
        device.refresh(now())
        assert device.authorize("vision/digits", wanted, hardware="x", now_ms=now()).role == "team-vision"
    code, _, err = ada.call("trust status ceremony --root ceremony/root.json")
    assert code == 1  # the ceremony's own folder holds no metadata: it went to the server's
    code, _, err = ada.call("trust status data")
    assert code == 0
    assert "One person: not reviewed" in err
    assert ada.do("trust status data")["profile"] == "solo"
    assert "One person: not reviewed" in ada.call("trust init --dir other --backup usb-2")[2]


def test_demo_keys_are_refused_where_they_are_not_expected(ada):
    ada.do("trust init --dir toy --server toy/server --demo --plain")
    with pytest.raises(AskPerson) as caught:
        TrustStore(ada.home / "d", (ada.home / "toy/root.json").read_bytes(), device="a", fetch=folder_fetch(ada.home))
    assert caught.value.code == "TRUST_DEMO_KEYS"


def test_the_backup_is_proved_and_a_lost_key_replaced_with_it(ada):
    drill = "trust drill --metadata data --root ceremony/root.json --lost ceremony/keys/root-1.pub --signer"
    before = sorted(path.name for path in (ada.home / "data/metadata").iterdir())
    assert ada.do(f"{drill} usb/root-2.pem")["recovered"]
    ada.fail(f"{drill} ceremony/keys/root-1.pem", "TRUST_DRILL")
    ada.fail(f"{drill} ceremony/keys/team-vision.pem", "TRUST_DRILL")
    assert sorted(path.name for path in (ada.home / "data/metadata").iterdir()) == before
    ada.do("trust key new root-3.pem")
    lost = load_public(ada.home / "ceremony/keys/root-1.pub").keyid
    made = ada.do(
        f"trust revoke key {lost[:12]} --replacement root-3.pub --metadata data --signer usb/root-2.pem"
        " --root ceremony/root.json --out lost"
    )
    assert made["complete"]
    assert f"Root: the key {lost[:12]} (ed25519) is removed." in made["changes"]
    publish(ada, "lost")
    keys = {role["role"]: role["keys"] for role in ada.do("trust status data")["roles"]}
    assert all(lost not in ids for ids in keys.values())
    ada.fail(
        "trust renew --role targets --metadata data --signer ceremony/keys/root-1.pem --root ceremony/root.json",
        "KEY_NOT_OF_ROLE",
    )
    with store(ada) as device:
        assert device.refresh(now()).root_version == 2


def test_revoking_a_bundle_that_is_listed(ada):
    wanted = listed(ada)
    made = ada.do(
        "trust revoke bundle vision/digits/1.0.0 --reason miscalibrated --metadata data --signer usb/root-2.pem"
        " --root ceremony/root.json --out bad"
    )
    assert made["bundle"] == wanted.sha256
    publish(ada, "bad")
    assert ada.do("trust status data")["revoked"][wanted.sha256]["reason"] == "miscalibrated"
    verdict = ada.do("trust verify --metadata data")
    assert verdict["refused"] == {"vision/digits/1.0.0": "TRUST_REVOKED"}
    with store(ada) as device:
        device.refresh(now())
        with pytest.raises(TrustRefused) as caught:
            device.authorize("vision/digits", wanted, hardware="x", now_ms=now())
        assert caught.value.code == "TRUST_REVOKED"
    line = "trust revoke bundle vision/digits/9 --reason x --metadata data"
    ada.fail(line, "RELEASE_UNKNOWN")


def test_rotations_of_the_servers_keys_are_prepared_once_and_used_after_publishing(ada):
    before = {role["role"]: role["keys"] for role in ada.do("trust status data")["roles"]}
    ada.do(f"trust rotate online --server data {ROOT_1} --out online")
    waiting = (ada.home / "data/keys/snapshot.next.pem").read_bytes()
    next_key = load_signer(ada.home / "data/keys/snapshot.next.pem").public_key.keyid
    ada.do(f"trust rotate online --server data {ROOT_1} --out again")
    assert (ada.home / "data/keys/snapshot.next.pem").read_bytes() == waiting
    publish(ada, "online")
    ada.do(f"trust rotate director --server data {ROOT_1} --out director")
    publish(ada, "director")
    after = {role["role"]: role["keys"] for role in ada.do("trust status data")["roles"]}
    assert after["snapshot"] == [next_key]
    assert all(before[role] != after[role] for role in ("snapshot", "timestamp", "director"))
    advanced = ada.do("trust advance --to 500 --server data")
    assert advanced["timestamp_version"] >= 500
    with store(ada) as device:
        assert device.refresh(now()).timestamp_version == advanced["timestamp_version"]


def test_up_to_the_team_profile_without_touching_a_device(ada):
    wanted = listed(ada)
    with store(ada) as device:
        device.refresh(now())
    names = ("root-3", "targets-1", "targets-2", "revocation-1", "revocation-2")
    for name in names:
        ada.do(f"trust key new {name}.pem")
    ada.fail(f"trust upgrade --profile team --metadata data {ROOT_1}", "TRUST_CEREMONY")
    made = ada.do(
        "trust upgrade --profile team --root-key root-3.pub --targets-key targets-1.pub --targets-key targets-2.pub"
        f" --revocation-key revocation-1.pub --revocation-key revocation-2.pub --metadata data {ROOT_1} --out up"
    )
    assert "The profile becomes team." in made["changes"]
    assert "Root: 2 of 3 must sign (was 1 of 2)." in made["changes"]
    assert not any("one person" in line for line in made["warnings"])
    signers = " ".join(f"--signer {name}.pem" for name in names)
    signed = ada.do(f"trust sign up {signers} --root ceremony/root.json --yes")
    assert signed["complete"]
    publish(ada, "up")
    assert ada.do("trust status data")["profile"] == "team"
    with store(ada) as device:
        assert device.refresh(now()).root_version == 2
        assert device.authorize("vision/digits", wanted, hardware="x", now_ms=now())
    # Others of the ladder's roles, now with two signatures each.
    both = "--signer targets-1.pem --signer targets-2.pem --root ceremony/root.json --metadata data"
    ada.do("trust key new v2.pem")
    ada.do("trust key new targets-3.pem")
    rotated = ada.do(f"trust delegate rotate vision --add v2.pub --threshold 2 {both} --out team")
    assert not rotated["complete"]
    ada.do("trust sign team --signer v2.pem --signer ceremony/keys/team-vision.pem --root ceremony/root.json --yes")
    publish(ada, "team")
    ada.do(f"trust delegate remove vision {both} --out gone")
    publish(ada, "gone")
    made = ada.do(
        "trust rotate targets --add targets-3.pub --remove targets-1.pub --metadata data"
        " --root ceremony/root.json --signer ceremony/keys/root-1.pem --signer root-3.pem"
        " --signer targets-2.pem --signer targets-3.pem --out t"
    )
    assert made["complete"], made["needed"]
    publish(ada, "t")
    made = ada.do(
        "trust rotate root --remove usb/root-2.pub --metadata data --root ceremony/root.json"
        " --signer ceremony/keys/root-1.pem --signer root-3.pem --out r"
    )
    publish(ada, "r")
    made = ada.do(
        "trust rotate revocation --remove revocation-1.pub --add v2.pub --metadata data"
        " --root ceremony/root.json --signer targets-2.pem --signer targets-3.pem --signer v2.pem --out v"
    )
    publish(ada, "v")
    with store(ada) as device:
        assert device.refresh(now()).root_version == 4


def test_what_expires_is_listed_with_its_command_and_renewed_in_one_event(ada):
    code, out, _ = ada.call("trust expiry --metadata data --warn 60d")
    assert code == 0
    code, out, _ = ada.call("trust expiry --metadata data --warn 800d --json")
    assert code == 1
    due = {entry["role"]: entry["command"] for entry in json.loads(out)}
    assert "wavegate trust renew --role targets" in due["targets"]
    # The very command that was printed, and a signer.
    assert ada.do(due["targets"].removeprefix("wavegate ") + f" {ROOT_1}")["files"] == ["2.targets.json"]
    assert ada.do("trust renew --all-due --metadata data")["event"] is None
    made = ada.do(
        f"trust renew --all-due --within 800d --metadata data {ROOT_1} --signer ceremony/keys/team-vision.pem --out all"
    )
    assert made["files"] == ["2.root.json", "2.targets.json", "2.team-vision.json"]
    assert made["complete"]
    assert publish(ada, "all") == made["files"]
    ada.fail("trust renew --metadata data", "TRUST_CEREMONY")


def test_verifying_as_a_device_changes_nothing_of_it(ada):
    listed(ada)
    listed(ada, "1.1.0", 2)
    with store(ada) as device:
        device.refresh(now())
        device.raise_floor("vision/digits", 3, 2)
    before = {path: path.read_bytes() for path in (ada.home / "device").rglob("*.json")}
    verdict = ada.do("trust verify --as-device device --metadata data")
    assert verdict["bundles"] == ["vision/digits/1.1.0"]
    assert verdict["refused"] == {"vision/digits/1.0.0": "TRUST_FLOOR"}
    assert ada.do("trust verify --metadata data")["bundles"] == ["vision/digits/1.0.0", "vision/digits/1.1.0"]
    assert {path: path.read_bytes() for path in (ada.home / "device").rglob("*.json")} == before
    # A repository set back to before is refused with that device's state, and only with it.
    shutil.copytree(ada.home / "data/metadata", ada.home / "later")
    publish_dir = ada.home / "later"
    ada.do(f"trust renew --role targets --metadata data {ROOT_1} --out fresh")
    publish(ada, "fresh")
    with store(ada) as device:
        device.refresh(now())
    ada.fail(f"trust verify --as-device device --metadata {publish_dir}", "TRUST_ROLLBACK_TIMESTAMP")
    assert ada.do(f"trust verify --metadata {publish_dir}")["accepted"]
    ada.fail("trust verify --as-device usb --metadata data", "TRUST_REPOSITORY")


def test_server_cas_are_signed_with_a_spare(ada):
    for name in ("one", "two"):
        (ada.home / f"{name}.pem").write_bytes(certificate(name))
    ada.fail(f"trust rotate server-ca --ca one.pem --metadata data {ROOT_1} --out c", "TRUST_UNSIGNED_TARGETS")
    ada.fail(f"trust rotate server-ca --ca sheet.txt --metadata data {ROOT_1} --out c", "FILE_UNREADABLE")
    made = ada.do(f"trust rotate server-ca --ca one.pem --ca two.pem --metadata data {ROOT_1} --out c")
    assert any(line.startswith("Devices trust these server CAs from now on") for line in made["changes"])
    publish(ada, "c")
    with store(ada) as device:
        device.refresh(now())
        assert len(device.server_cas) == 2


def test_floors_and_signers_of_kits_are_stated_by_targets(ada):
    old, new = listed(ada), listed(ada, "1.1.0", 2)
    made = ada.do(f"trust floor vision/digits 2 --metadata data {ROOT_1} --out f")
    assert "vision/digits: no device takes a release counter below 2 any more (was 0)." in made["changes"]
    publish(ada, "f")
    with store(ada) as device:
        device.refresh(now())
        assert device.authorize("vision/digits", new, hardware="x", now_ms=now())
        with pytest.raises(TrustRefused) as caught:
            device.authorize("vision/digits", old, hardware="x", now_ms=now())
        assert caught.value.code == "TRUST_FLOOR"
    keys = "--kit-key ceremony/keys/team-vision.pub --kit-key usb/root-2.pub"
    publish(ada, ada.do(f"trust delegate kit {keys} --metadata data {ROOT_1} --out k")["event"])
    status = {role["role"]: role for role in ada.do("trust status data")["roles"]}
    assert status["kit"]["threshold"] == 2
    publish(ada, ada.do(f"trust delegate kit --withdraw --metadata data {ROOT_1} --out w")["event"])
    assert "kit" not in {role["role"] for role in ada.do("trust status data")["roles"]}


def certificate(name):
    """Return a new CA certificate as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    at = datetime.now(UTC)
    built = x509.CertificateBuilder(
        subject, subject, key.public_key(), x509.random_serial_number(), at, at + timedelta(9)
    )
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_on_a_terminal_one_prompt_makes_everything_and_a_signature_asks_first(person):
    ada = person("ada")
    asked = terminal(
        ada, f"{INIT}", [("Passphrase for the new keys: ", "correct horse"), ("Once more: ", "correct horse")]
    )
    assert "One person: not reviewed" in asked
    assert b"ENCRYPTED" in (ada.home / "usb/root-2.pem").read_bytes()
    ada.do("trust renew --role targets --metadata data --out e")
    sign = "trust sign e --signer ceremony/keys/root-1.pem"
    prompt = "Passphrase of ceremony/keys/root-1.pem: "
    terminal(ada, sign, [(prompt, "correct horse"), ("[y/N]: ", "n")], code=130)
    assert json.loads((ada.home / "e/2.targets.json").read_text())["signatures"] == []
    asked = terminal(ada, sign, [(prompt, "correct horse"), ("[y/N]: ", "y")])
    assert "Targets: version 1 -> 2" in asked
    assert len(json.loads((ada.home / "e/2.targets.json").read_text())["signatures"]) == 1


def terminal(person, line, answers, code=0):
    """Run a command line on a terminal of its own; answer its prompts; return all it wrote."""
    ours, theirs = os.openpty()
    program = Path(sys.executable).parent / "wavegate"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WAVEGATE_")}
    with subprocess.Popen(
        ["setsid", "-c", "-w", program, *line.split()], cwd=person.home, env=environment,
        stdin=theirs, stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = ""
        for prompt, answer in [*answers, (None, None)]:
            at = len(shown)
            while prompt is None or prompt not in shown[at:]:
                try:
                    shown += os.read(ours, 4096).decode(errors="replace")
                except OSError:  # the other end is closed: the program has ended
                    assert prompt is None, shown
                    break
            if prompt is not None:
                os.write(ours, f"{answer}\n".encode())
        assert process.wait(timeout=60) == code, shown
    os.close(ours)
    return shown
