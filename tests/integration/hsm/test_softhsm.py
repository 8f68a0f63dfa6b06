"""A key in a hardware module is one of two that the targets role needs, from its import to what a device accepts."""

from __future__ import annotations

import json
import time

from bundles.trust.device.client import TrustStore
from bundles.trust.fetch import folder_fetch

PIN = "493817"
URI = "hsm:7?label=release"


def test_key_on_a_token_is_one_of_two_targets_holders(desk):
    desk.make_key(7)
    # Who holds the key imports its public half: no PIN is needed to look at it.
    imported = desk.do("trust key import --signer hsm:7 --out token.pub")
    assert (imported["scheme"], imported["signer"]) == ("ecdsa-sha2-nistp256", URI)
    assert desk.do("trust key import --signer hsm:7 --out token.pub") == imported

    # The key takes the place of a key in a file, by a rotation that the token itself must sign.
    desk.do("trust init --dir ceremony --profile team --team vision --plain")
    server, keys = "ceremony/server", "ceremony/keys"
    made = desk.do(
        f"trust rotate targets --add token.pub --remove {keys}/targets-2.pub --metadata {server}"
        f" --signer {keys}/root-1.pem --signer {keys}/root-2.pem --signer {keys}/targets-1.pem --out rotation.zip"
    )
    assert any(imported["keyid"][:12] in line for line in made["changes"])
    assert not made["complete"]
    sign = f"trust sign rotation.zip --signer {URI} --public token.pub --root ceremony/root.json --yes"
    for pin, code in (("", "KEY_PIN"), ("000000", "KEY_PIN")):
        refused = desk.call(sign, WAVEGATE_HSM_PIN=pin)
        assert refused.returncode == 1
        assert f"[{code}]" in refused.stderr
        assert PIN not in refused.stderr
    signed = desk.do(sign, WAVEGATE_HSM_PIN=PIN)
    assert signed["complete"]
    assert signed["signed_now"] == [imported["keyid"]]
    assert desk.do(f"trust publish rotation.zip --server {server}")["published"] == ["2.root.json", "2.targets.json"]

    # The everyday case: both sign a change of the targets role; the token is found without a .pub file.
    (desk.folder / "pin").write_text(PIN + "\n")
    desk.do("trust key new audio.pem --plain")
    made = desk.do(
        f"trust delegate add audio --team-key audio.pem --metadata {server} --signer {keys}/targets-1.pem"
        f" --signer hsm:7 --pin-file pin --out audio"
    )
    assert made["complete"]
    # With no .pub file to lie beside, what the token signed is kept among its holder's settings.
    remembered = json.loads((desk.folder.parent / "config/signed.json").read_text())["keys"]
    assert remembered[imported["keyid"]]["targets"]["version"] == 3
    desk.do(f"trust publish audio --server {server}")
    fetch = folder_fetch(desk.folder / server / "metadata")
    root = (desk.folder / "ceremony/root.json").read_bytes()
    with TrustStore(desk.folder / "device", root, device="cam-1", fetch=fetch) as store:
        store.refresh(int(time.time() * 1000))
        assert store.floors.roles["targets"].version == 3


def test_what_is_missing_is_named(desk):
    desk.make_key(7)
    desk.make_key(8, "secp384r1")
    unset = desk.call("trust key import --signer hsm:7 --out k.pub", PYKCS11LIB="")
    assert "[KEY_UNUSABLE]" in unset.stderr
    assert "PYKCS11LIB" in unset.stderr
    for uri, code in (("hsm:9", "KEY_PIN"), ("hsm:7?label=other", "KEY_UNUSABLE"), ("hsm:8", "KEY_UNSUPPORTED")):
        refused = desk.call(f"trust key import --signer {uri} --out k.pub")
        assert f"[{code}]" in refused.stderr, refused.stderr
    gone = desk.call("trust key import --signer hsm:9 --out k.pub", WAVEGATE_HSM_PIN=PIN)
    assert "[KEY_UNUSABLE]" in gone.stderr
    assert not (desk.folder / "k.pub").exists()


def test_signature_of_another_key_than_the_public_half_is_not_taken(desk):
    """A URI that leads to the wrong key must not yield an event that only the server would refuse."""
    desk.make_key(7)
    desk.make_key(8)
    desk.do("trust key import --signer hsm:7 --out seven.pub")
    desk.do("trust init --dir ceremony --profile solo --plain")
    refused = desk.call(
        "trust rotate targets --add seven.pub --metadata ceremony --signer hsm:8 --public seven.pub --out e",
        WAVEGATE_HSM_PIN=PIN,
    )
    assert "[KEY_UNUSABLE]" in refused.stderr
    assert not (desk.folder / "e").exists()
