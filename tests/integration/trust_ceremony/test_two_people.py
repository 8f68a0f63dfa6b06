"""A threshold of two, signed by people who share nothing but the event they pass on."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from bundles.archive import open_archive
from bundles.errors import TrustRefused
from bundles.trust.device.client import TrustStore
from bundles.trust.fetch import folder_fetch
from bundles.wire.messages import DesiredModel


@pytest.fixture
def office(person):
    """The ceremony's office, two release managers with a key each, and a stopped server."""
    office, ada, bob = person("office"), person("ada"), person("bob")
    office.do("trust init --dir ceremony --profile team --team vision --plain")
    for holder, number in ((ada, 1), (bob, 2)):
        (holder.home / "keys").mkdir()
        for suffix in ("pem", "pub"):
            shutil.move(office.home / f"ceremony/keys/targets-{number}.{suffix}", holder.home / "keys")
        office.send("ceremony/root.json", holder)
    return office, ada, bob


def device(office, name="device"):
    ceremony = office.home / "ceremony"
    fetch = folder_fetch(ceremony / "server/metadata")
    return TrustStore(office.home / name, (ceremony / "root.json").read_bytes(), device="cam-1", fetch=fetch)


def wanted(path, counter):
    archive = open_archive(path)
    return DesiredModel(archive.manifest.target_path, archive.sha256, len(archive.manifest_bytes), counter)


def now():
    return int(time.time() * 1000)


def test_two_holders_sign_copies_that_are_merged(office, person):
    office, ada, bob = office
    carl, dana = person("carl"), person("dana")
    carl.do("trust key new carl.pem --plain")
    dana.do("trust key new dana.pem --plain --scheme ecdsa")
    for holder in (carl, dana):
        holder.send(f"{holder.home.name}.pub", ada)
        office.send("ceremony/root.json", holder)
    server = office.home / "ceremony/server"

    # Ada drafts and signs, Bob signs a copy of it, Carl and Dana sign their team's first list, each on a copy.
    made = ada.do(
        f"trust delegate add audio --team-key carl.pub --team-key dana.pub --threshold 2 --metadata {server}"
        " --root root.json --signer keys/targets-1.pem --out audio.zip"
    )
    assert made["files"] == ["1.team-audio.json", "2.targets.json"]
    assert not made["complete"]
    assert any("Team audio is added: 2 of 2" in line for line in made["changes"])
    ada.fail(f"trust publish audio.zip --server {server}", "TRUST_THRESHOLD")
    for holder, key in ((bob, "keys/targets-2.pem"), (carl, "carl.pem"), (dana, "dana.pem")):
        ada.send("audio.zip", holder)
        code, _, err = holder.call(f"trust sign audio.zip --signer {key} --root root.json --yes")
        assert code == 0
        assert "Team audio is added: 2 of 2 key(s) must sign" in err
        shutil.copy(holder.home / "audio.zip", ada.home / f"from-{holder.home.name}.zip")
    ada.do("trust merge audio.zip from-bob.zip from-carl.zip from-dana.zip")
    assert ada.do("trust status audio.zip --root root.json")["complete"]
    assert ada.do(f"trust publish audio.zip --server {server} --root root.json")["published"] == made["files"]

    # The everyday half: a bundle of that team, listed by both.
    bundle = carl.build("audio", "1.0.0", 1)
    carl.do(f"trust stage add event.zip {bundle} --metadata {server} --signer carl.pem --note first")
    carl.fail(f"trust publish event.zip --server {server}", "TRUST_THRESHOLD")
    carl.send("event.zip", dana)
    status = dana.do("trust status event.zip --root root.json")
    digest = open_archive(carl.home / bundle).sha256
    assert any(f"counter 1, channel prod, digest {digest[:12]}" in line for line in status["changes"])
    assert status["needed"] == [
        f"2.team-audio.json: 1 more of team-audio ({json.loads((dana.home / 'dana.pub').read_text())['keyid'][:8]})"
    ]
    assert status["reviewed"]
    assert dana.do("trust sign event.zip --signer dana.pem --root root.json --yes")["complete"]
    assert dana.do("trust sign event.zip --signer dana.pem --root root.json --yes")["signed_now"] == []
    assert dana.do(f"trust publish event.zip --server {server}")["releases"] == {
        "audio/digits/1.0.0/bundle.json": digest
    }
    assert dana.do(f"trust publish event.zip --server {server}")["published"] == []
    with device(office) as store:
        store.refresh(now())
        assert store.authorize("audio/digits", wanted(carl.home / bundle, 1), hardware="x", now_ms=now()).role

    # Withdrawn by the same two, no device is given it any more.
    carl.do(f"trust stage retire away audio/digits/1.0.0 --metadata {server} --signer carl.pem")
    carl.send("away", dana)
    assert dana.do("trust sign away --signer dana.pem --root root.json --yes")["complete"]
    dana.do(f"trust publish away --server {server}")
    with device(office) as store:
        store.refresh(now())
        with pytest.raises(TrustRefused) as caught:
            store.authorize("audio/digits", wanted(carl.home / bundle, 1), hardware="x", now_ms=now())
        assert caught.value.code == "TRUST_NOT_LISTED"


def test_nobody_signs_unasked_with_a_foreign_key_or_on_a_foreign_base(office, person):
    office, ada, bob = office
    server = office.home / "ceremony/server"
    ada.do("trust key new audio.pem --plain")
    base = f"--metadata {server} --root root.json --team-key audio.pem"
    ada.do(f"trust delegate add audio {base} --signer keys/targets-1.pem --out event")
    ada.send("event", bob)
    before = (bob.home / "event/2.targets.json").read_bytes()
    bob.fail("trust sign event --signer keys/targets-2.pem --root root.json", "TRUST_CONFIRM")
    bob.do("trust key new other.pem --plain")
    bob.fail("trust sign event --signer other.pem --root root.json --yes", "KEY_NOT_OF_ROLE")
    stranger = person("stranger")
    stranger.do("trust init --dir ceremony --profile solo --plain")
    stranger.send("ceremony/root.json", bob)
    bob.fail("trust sign event --signer keys/targets-2.pem --root root.json --yes", "TRUST_EVENT_BASE")
    bob.fail("trust sign event --signer ../bob/other.pem --yes", "TRUST_EVENT_BASE")
    assert (bob.home / "event/2.targets.json").read_bytes() == before


def test_an_event_that_was_overtaken_is_signed_by_nobody(office):
    office, ada, bob = office
    server = office.home / "ceremony/server"
    for name in ("audio", "video"):
        ada.do(f"trust key new {name}.pem --plain")
        _, _, err = ada.call(
            f"trust delegate add {name} --metadata {server} --root root.json --team-key {name}.pem"
            f" --signer keys/targets-1.pem --out {name}"
        )
        assert ("signed another version 2 of targets before" in err) == (name == "video")
        ada.send(name, bob)
    bob.do("trust sign audio --signer keys/targets-2.pem --yes")
    bob.do(f"trust publish audio --server {server}")
    bob.fail(f"trust sign video --signer keys/targets-2.pem --metadata {server} --yes", "TRUST_CONFLICT")
    # Without a look at the server Bob's own key remembers that it signed that version; told to, it signs for nothing.
    bob.fail("trust sign video --signer keys/targets-2.pem --yes", "KEY_SIGNED_BEFORE")
    bob.do("trust sign video --signer keys/targets-2.pem --yes --instead")
    bob.fail(f"trust publish video --server {server}", "TRUST_CONFLICT")
    bob.fail("trust merge audio video", "TRUST_CONFLICT")


def test_altered_words_are_seen_and_an_altered_file_counts_no_signature(office):
    office, ada, bob = office
    server = office.home / "ceremony/server"
    ada.do("trust key new audio.pem --plain")
    ada.do(
        f"trust delegate add audio --metadata {server} --root root.json --team-key audio.pem"
        " --signer keys/targets-1.pem --out event"
    )
    path = ada.home / "event/2.targets.json"
    changed = json.loads(path.read_text())
    changed["signed"]["x-floors"] = {"vision/digits": 99}
    path.write_text(json.dumps(changed))
    ada.send("event", bob)
    code, _, err = bob.call("trust sign event --signer keys/targets-2.pem --yes")
    assert code == 0
    assert "vision/digits: no device takes a release counter below 99" in err
    bob.fail(f"trust publish event --server {server}", "TRUST_THRESHOLD")


def test_key_remembers_what_it_signed_when_a_server_shows_an_old_state(office):
    office, ada, bob = office
    server = office.home / "ceremony/server"
    shutil.copytree(server, office.home / "old")
    sign = "trust sign e{} --signer keys/targets-2.pem --yes"
    for number, team in ((1, "audio"), (2, "video")):
        ada.do(f"trust key new {team}.pem --plain")
        ada.do(
            f"trust delegate add {team} --metadata {server} --root root.json --team-key {team}.pem"
            f" --signer keys/targets-1.pem --out e{number}"
        )
        ada.send(f"e{number}", bob)
        bob.do(sign.format(number))
        bob.do(f"trust publish e{number} --server {server}")
    remembered = json.loads((bob.home / "keys/signed.json").read_text())["keys"]
    keyid = json.loads((bob.home / "keys/targets-2.pub").read_text())["keyid"]
    assert {role: entry["version"] for role, entry in remembered[keyid].items()} == {"targets": 3}

    # Somebody brings the old state back and has a team added on it: version 2 of targets again.
    ada.do("trust key new evil.pem --plain")
    line = "trust delegate add evil --metadata ../office/old --root root.json --team-key evil.pem --out e3"
    ada.fail(line + " --signer keys/targets-1.pem", "KEY_SIGNED_BEFORE")
    assert not (ada.home / "e3").exists()
    ada.do(line)
    ada.send("e3", bob)
    before = (bob.home / "e3/2.targets.json").read_bytes()
    for flag in ("", " --instead"):
        err = bob.fail(sign.format(3) + flag, "KEY_SIGNED_BEFORE")
        assert "signed version 3 of targets before; this is version 2" in err
    assert (bob.home / "e3/2.targets.json").read_bytes() == before
    assert json.loads((bob.home / "keys/signed.json").read_text())["keys"] == remembered

    # No signature leaves unless it can be noted.
    bob.fail(sign.format(3) + " --journal nowhere/signed.json", "KEY_JOURNAL")
    assert (bob.home / "e3/2.targets.json").read_bytes() == before
    (bob.home / "keys/signed.json").write_bytes(b"{")
    bob.fail(sign.format(3), "KEY_JOURNAL")
    bob.do(sign.format(3) + " --journal own.json")
    assert (bob.home / "own.json").is_file()


def test_one_signature_on_a_revocation_list_is_said_to_be_half_of_it(office):
    office = office[0]
    server, keys = office.home / "ceremony/server", "ceremony/keys"
    bundle = office.build("vision", "1.0.0", 1)
    line = f"trust revoke bundle {bundle} --reason bad --metadata {server} --signer {keys}/revocation-1.pem"
    assert office.do(line + " --out one")["remarks"] == [
        "The revocation list has one signature: what it names is not installed any more. A second one is needed to"
        " stop it where it runs."
    ]
    office.do(f"trust publish one --server {server}")
    told = office.call(f"trust status {server}")[2]
    assert "A second one is needed" in told
    again = f"trust renew --role revocation --metadata {server} --signer {keys}/revocation-1.pem --out two"
    office.do(again)
    assert "A second one is needed" in office.call("trust status two")[2]
    done = office.do(f"trust sign two --signer {keys}/revocation-2.pem --root ceremony/root.json --yes")
    assert done["remarks"] == []
    office.do(f"trust publish two --server {server}")
    assert "A second one is needed" not in office.call(f"trust status {server}")[2]


def test_holders_of_public_keys_only_found_a_repository(person):
    """The whole way is played with a token in tests/integration/hsm; here is what must not pass."""
    office, ada = person("office"), person("ada")
    for number in (1, 2):
        ada.do(f"trust key new root-{number}.pem --plain")
    ada.do("trust key new vision.pem --plain")
    keys = "--root-key ../ada/root-1.pub --root-key ../ada/root-2.pub"
    init = f"trust init --dir office --server data --plain {keys} --team-key vision=../ada/vision.pub"
    office.fail(init.replace(" --root-key ../ada/root-2.pub", ""), "TRUST_CEREMONY")
    office.fail(init.replace("--team-key vision=../ada/vision.pub", ""), "TRUST_CEREMONY")
    office.fail(init.replace("vision=", "../vision="), "TRUST_CEREMONY")
    office.fail(init.replace("root-2.pub", "root-3.pub"), "KEY_MISSING")
    assert office.call(init + " --backup usb")[0] == 2
    assert not list(office.home.iterdir())
    made = office.do(init)
    assert made["event"] == "office/founding"
    office.fail(init, "TRUST_EVENT")
    office.send("office/founding", ada)
    ada.fail("trust sign founding --signer root-1.pem", "TRUST_CONFIRM")
    ada.do("trust key new other.pem --plain")
    ada.fail("trust sign founding --signer other.pem --yes", "KEY_NOT_OF_ROLE")
    assert not (ada.home / "signed.json").exists()
    ada.do("trust sign founding --signer root-1.pem --signer vision.pem --yes")

    # Drafted anew it is another repository: the same keys do not sign it unasked, and not beside a root.
    again = office.do(init + " --demo --out again")
    office.send("again", ada)
    ada.fail("trust sign again --signer root-1.pem --yes", "KEY_SIGNED_BEFORE")
    shutil.copy(ada.home / "founding/1.root.json", ada.home / "root.json")
    ada.fail("trust sign again --signer root-2.pem --yes", "TRUST_EVENT_BASE")
    ada.fail("trust sign again --signer root-2.pem --root root.json --yes --instead", "TRUST_EVENT_BASE")
    assert again["files"] == made["files"]

    # Not signed by everybody needed, altered, or for another server, it founds nothing.
    office.fail("trust found office/founding --server data", "TRUST_THRESHOLD")
    ada.do("trust sign founding --signer root-2.pem --yes")
    office.fail("trust found ../ada/founding --server empty", "TRUST_REPOSITORY")
    office.do("trust init --dir second --server second/data --plain")
    shutil.rmtree(office.home / "second/data/metadata")
    office.fail("trust found ../ada/founding --server second/data", "TRUST_REPOSITORY")
    shutil.copytree(ada.home / "founding", office.home / "altered")
    path = office.home / "altered/1.targets.json"
    changed = json.loads(path.read_text())
    changed["signed"]["x-floors"] = {"vision/digits": 9}
    path.write_text(json.dumps(changed))
    office.fail("trust found altered --server data", "TRUST_THRESHOLD")
    assert not list(office.home.glob("*/metadata/*"))
    founded = office.do("trust found ../ada/founding --server data --out given.json")
    fetch = folder_fetch(office.home / "data/metadata")
    with TrustStore(office.home / "d", (office.home / "given.json").read_bytes(), device="c", fetch=fetch) as store:
        store.refresh(now())
    assert founded["root"] == "given.json"
    assert office.do("trust status data")["profile"] == "solo"
