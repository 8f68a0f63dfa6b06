"""The spare of the server CA: made encrypted, adopted only where devices pin it, and undone by no crash."""

from __future__ import annotations

import datetime as dt
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from tuf.api.metadata import Metadata, Targets

from bundles.errors import AskPerson, Refused
from bundles.trust.roles import encode_server_cas
from control_plane.identity import spare as spare_module
from control_plane.identity.authority import Authority
from control_plane.identity.spare import adopt_ca, make_spare_ca, signed_pins

NOW = 1_800_000_000_000
SECRET = b"correct horse"


def der(path):
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


@pytest.fixture
def spare(tmp_path):
    return make_spare_ca(tmp_path / "offline", SECRET, NOW)


def test_a_spares_key_exists_encrypted_only_and_is_never_replaced(spare):
    assert stat.S_IMODE(spare.key.stat().st_mode) == 0o600
    with pytest.raises(TypeError):
        load_pem_private_key(spare.key.read_bytes(), password=None)
    with pytest.raises(AskPerson) as caught:
        make_spare_ca(spare.key.parent, SECRET, NOW)
    assert caught.value.code == "CA_EXISTS"
    with pytest.raises(AskPerson):
        make_spare_ca(spare.key.parent / "other", b"", NOW)


def test_an_adopted_spare_issues_the_servers_certificates_and_the_old_ca_is_kept_aside(spare, tmp_path):
    keys = tmp_path / "keys"
    old = Authority.open_or_create(keys, "server-ca", NOW)
    pinned = [der(keys / "server-ca.pem"), der(spare.certificate)]
    found = [adopt_ca(keys, spare.certificate, spare.key, SECRET, pinned, NOW) for _ in range(2)]
    assert found == ["kept", "none"], "again changes nothing"
    now = Authority.open_or_create(keys, "server-ca", NOW)
    issued = x509.load_pem_x509_certificate(now.issue_server("s", ["127.0.0.1"], NOW).certificate_pem)
    issued.verify_directly_issued_by(x509.load_pem_x509_certificate(spare.certificate.read_bytes()))
    assert (keys / "server-ca-retired.pem").read_bytes() == old.certificate_pem
    with pytest.raises(TypeError):  # nobody who reads the server's disk gets the retired key
        load_pem_private_key((keys / "server-ca-retired.key").read_bytes(), password=None)
    back = keys / "server-ca-retired.pem", keys / "server-ca-retired.key"
    moved = [path.rename(tmp_path / path.name) for path in back]
    assert adopt_ca(keys, *moved, SECRET, pinned, NOW) == "kept", "a person may go back to it"
    assert Authority.open_or_create(keys, "server-ca", NOW).certificate_pem == old.certificate_pem
    assert stat.S_IMODE((keys / "server-ca.key").stat().st_mode) == 0o600


def test_without_a_passphrase_the_retired_key_is_removed(tmp_path):
    keys = tmp_path / "keys"
    Authority.open_or_create(keys, "server-ca", NOW)
    spare = make_spare_ca(tmp_path / "demo", None, NOW)
    assert adopt_ca(keys, spare.certificate, spare.key, None, [der(spare.certificate)], NOW) == "removed"
    assert sorted(path.name for path in keys.iterdir()) == ["server-ca-retired.pem", "server-ca.key", "server-ca.pem"]


def test_a_passphrase_for_a_key_that_needs_none_protects_the_retired_one(tmp_path):
    keys = tmp_path / "keys"
    Authority.open_or_create(keys, "server-ca", NOW)
    spare = make_spare_ca(tmp_path / "demo", None, NOW)
    assert adopt_ca(keys, spare.certificate, spare.key, SECRET, [der(spare.certificate)], NOW) == "kept"
    assert load_pem_private_key((keys / "server-ca-retired.key").read_bytes(), SECRET)


def test_a_crash_between_key_and_certificate_loses_neither_ca(spare, tmp_path, monkeypatch):
    keys = tmp_path / "keys"
    old = Authority.open_or_create(keys, "server-ca", NOW)
    whole = spare_module.write_durably

    def cut_off(path, data, mode=0o600):
        if path.name == "server-ca.pem":
            raise OSError("power cut")
        whole(path, data, mode=mode)

    monkeypatch.setattr(spare_module, "write_durably", cut_off)
    with pytest.raises(OSError, match="power cut"):
        adopt_ca(keys, spare.certificate, spare.key, SECRET, [der(spare.certificate)], NOW)
    monkeypatch.undo()
    assert adopt_ca(keys, spare.certificate, spare.key, SECRET, [der(spare.certificate)], NOW) == "kept"
    assert Authority.open_or_create(keys, "server-ca", NOW).certificate_pem == spare.certificate.read_bytes()
    retired = load_pem_private_key((keys / "server-ca-retired.key").read_bytes(), SECRET)
    assert retired.public_key() == x509.load_pem_x509_certificate(old.certificate_pem).public_key()


def test_the_newest_targets_say_which_cas_are_signed(spare, tmp_path):
    with pytest.raises(AskPerson) as caught:
        signed_pins(tmp_path)
    assert caught.value.code == "TRUST_NOT_INITIALISED"
    for number in range(1, 12):  # 11 comes after 9, and not after 1
        made = make_spare_ca(tmp_path / f"ca-{number}", SECRET, NOW)
        pins = [der(made.certificate), der(spare.certificate)]
        fields = {"x-server-cas": encode_server_cas(pins)} if number > 1 else {}
        listing = Targets(version=number, expires=dt.datetime(2030, 1, 1, tzinfo=dt.UTC), unrecognized_fields=fields)
        (tmp_path / f"{number}.targets.json").write_bytes(Metadata(listing).to_bytes())
        if number == 1:
            assert signed_pins(tmp_path) == []
    assert signed_pins(tmp_path) == pins


def test_a_ca_that_devices_do_not_pin_is_not_adopted(spare, tmp_path):
    keys = tmp_path / "keys"
    Authority.open_or_create(keys, "server-ca", NOW)
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    cases = [
        ((SECRET, [der(keys / "server-ca.pem")], NOW), "CA_NOT_PINNED"),
        ((SECRET, [der(spare.certificate)], NOW + 4000 * 86_400_000), "CA_EXPIRED"),
        ((b"wrong", [der(spare.certificate)], NOW), "CA_FILE"),
    ]
    for (secret, pinned, now_ms), code in cases:
        with pytest.raises((Refused, AskPerson)) as caught:
            adopt_ca(keys, spare.certificate, spare.key, secret, pinned, now_ms)
        assert caught.value.code == code
    other = make_spare_ca(tmp_path / "other", SECRET, NOW)
    with pytest.raises(Refused) as caught:
        adopt_ca(keys, spare.certificate, other.key, SECRET, [der(spare.certificate)], NOW)
    assert caught.value.code == "CA_KEY"
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_a_pair_that_a_crash_left_unfit_does_not_start(spare, tmp_path):
    keys = tmp_path / "keys"
    Authority.open_or_create(keys, "server-ca", NOW)
    (keys / "server-ca.pem").write_bytes(spare.certificate.read_bytes())
    with pytest.raises(Refused) as caught:
        Authority.open_or_create(keys, "server-ca", NOW)
    assert caught.value.code == "CA_KEY"
    adopt_ca(keys, spare.certificate, spare.key, SECRET, [der(spare.certificate)], NOW)
    Authority.open_or_create(keys, "server-ca", NOW)
