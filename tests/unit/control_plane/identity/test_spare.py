"""The spare of the server CA: made encrypted, adopted only where devices pin it, and undone by no crash."""

from __future__ import annotations

import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from bundles.errors import AskPerson, Refused
from control_plane.identity.authority import Authority
from control_plane.identity.spare import adopt_ca, make_spare_ca

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
    for _ in range(2):  # again changes nothing
        adopt_ca(keys, spare.certificate, spare.key, SECRET, pinned, NOW)
    now = Authority.open_or_create(keys, "server-ca", NOW)
    issued = x509.load_pem_x509_certificate(now.issue_server("s", ["127.0.0.1"], NOW).certificate_pem)
    issued.verify_directly_issued_by(x509.load_pem_x509_certificate(spare.certificate.read_bytes()))
    assert (keys / "server-ca-retired.pem").read_bytes() == old.certificate_pem
    assert stat.S_IMODE((keys / "server-ca.key").stat().st_mode) == 0o600


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
