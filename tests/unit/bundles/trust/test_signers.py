from __future__ import annotations

import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bundles.errors import AskPerson
from bundles.trust.signing.remote_signers import load_remote_signer
from bundles.trust.signing.signers import load_public, load_signer, new_key, open_signer


def refused(code, action, *arguments, **options):
    with pytest.raises(AskPerson) as caught:
        action(*arguments, **options)
    assert caught.value.code == code
    assert caught.value.remedy


@pytest.mark.parametrize("scheme", ["ed25519", "ecdsa"])
@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_key_signs_what_its_public_half_verifies(tmp_path, scheme, passphrase):
    path = tmp_path / "k.pem"
    made = new_key(path, scheme=scheme, passphrase=passphrase)
    loaded = load_signer(path, lambda _: passphrase)
    load_public(path).verify_signature(loaded.sign(b"data"), b"data")
    assert loaded.public_key == made.public_key == load_public(path.with_suffix(".pub"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) == bool(passphrase)


def test_key_is_never_overwritten(tmp_path):
    new_key(tmp_path / "k.pem")
    before = (tmp_path / "k.pem").read_bytes()
    refused("KEY_EXISTS", new_key, tmp_path / "k.pem")
    assert (tmp_path / "k.pem").read_bytes() == before


def test_missing_passphrase_and_wrong_passphrase_are_told_apart_from_damage(tmp_path):
    new_key(tmp_path / "k.pem", passphrase=b"correct horse")
    refused("KEY_PASSPHRASE", load_signer, tmp_path / "k.pem")
    refused("KEY_PASSPHRASE", load_signer, tmp_path / "k.pem", lambda _: b"wrong")
    (tmp_path / "d.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    refused("KEY_UNSUPPORTED", load_signer, tmp_path / "d.pem")
    refused("KEY_MISSING", load_signer, tmp_path / "none.pem")


@pytest.mark.parametrize(
    "private", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())], ids=["rsa", "p384"]
)
def test_other_kinds_of_key_are_refused(tmp_path, private):
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "k.pem").write_bytes(pem)
    refused("KEY_UNSUPPORTED", load_signer, tmp_path / "k.pem")


def test_public_file_that_is_none_is_refused(tmp_path):
    for content in (b"", b"{}", b'{"keyid": "x"}', b"\xff"):
        (tmp_path / "k.pub").write_bytes(content)
        refused("KEY_UNSUPPORTED", load_public, tmp_path / "k.pub")


def test_key_behind_a_uri_is_loaded_and_an_unusable_one_refused(tmp_path):
    made = new_key(tmp_path / "k.pem")
    remote = load_remote_signer(f"file2:{tmp_path / 'k.pem'}", made.public_key)
    made.public_key.verify_signature(remote.sign(b"x"), b"x")
    refused("KEY_UNSUPPORTED", load_remote_signer, "nosuch:1", made.public_key)


def test_any_place_is_opened_as_it_is_written(tmp_path):
    made = new_key(tmp_path / "k.pem", passphrase=b"correct horse").public_key
    for place in (
        tmp_path / "k.pem",
        str(tmp_path / "k.pem"),
        f"file:{tmp_path / 'k.pem'}",
        f"file2:{tmp_path / 'k.pem'}",
    ):
        signer = open_signer(place, public=made, passphrase=lambda _: b"correct horse")
        made.verify_signature(signer.sign(b"x"), b"x")
    refused("KEY_PASSPHRASE", open_signer, tmp_path / "k.pem")
    refused("KEY_UNSUPPORTED", open_signer, "s3:bucket/key")
    refused("KEY_MISSING", open_signer, tmp_path / "none.pem")
    other = new_key(tmp_path / "o.pem").public_key
    refused("KEY_UNSUPPORTED", open_signer, tmp_path / "o.pem", public=made)
    refused("KEY_UNSUPPORTED", open_signer, "awskms:alias/x", public=other)


def test_hardware_without_its_module_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.delenv("PYKCS11LIB", raising=False)
    public = new_key(tmp_path / "k.pem", scheme="ecdsa").public_key
    refused("KEY_UNUSABLE", open_signer, "hsm:2", public=public)
    monkeypatch.setenv("PYKCS11LIB", str(tmp_path / "none.so"))
    refused("KEY_PIN", open_signer("hsm:2", public=public).sign, b"x")
    refused("KEY_UNUSABLE", open_signer("hsm:2", public=public, pin=lambda _: "1234").sign, b"x")
