from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bundles.errors import Refused
from control_plane.identity.authority import Authority, read_request

NOW_MS = 1_800_000_000_000


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open_or_create(tmp_path / "keys", "device-ca", NOW_MS)


def request_pem(key, common_name: str = "anything", *, ca: bool = False) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("cp.ingest")]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_key_is_private_and_the_authority_is_the_same_when_opened_again(tmp_path: Path) -> None:
    first = Authority.open_or_create(tmp_path / "keys", "device-ca", NOW_MS)
    again = Authority.open_or_create(tmp_path / "keys", "device-ca", NOW_MS + 1)
    assert again.certificate_pem == first.certificate_pem
    assert stat.S_IMODE((tmp_path / "keys" / "device-ca.key").stat().st_mode) == 0o600


def test_nothing_of_a_request_counts_but_its_key(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = read_request(request_pem(key, "cp.ingest", ca=True))
    certificate = x509.load_pem_x509_certificate(authority.issue_device("cam-1", public, NOW_MS).certificate_pem)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [name.value for name in names] == ["cam-1"]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


@pytest.mark.parametrize("name", ["cp.ingest", "+", "#", "", "Cam", "a/b", "-a", "a" * 65])
def test_a_name_that_is_no_device_id_is_refused(authority: Authority, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(Refused) as caught:
        authority.issue_device(name, key.public_key(), NOW_MS)
    assert caught.value.code == "DEVICE_ID"


def test_a_request_of_another_kind_of_key_or_signed_by_somebody_else_is_refused() -> None:
    other_kind = request_pem(rsa.generate_private_key(65537, 2048))
    good = request_pem(ec.generate_private_key(ec.SECP256R1()))
    der = bytearray(x509.load_pem_x509_csr(good).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1  # the last byte belongs to the signature
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    for pem in (other_kind, forged, b"garbage", b""):
        with pytest.raises(Refused) as caught:
            read_request(pem)
        assert caught.value.code == "CSR_INVALID"


def test_the_revocation_list_names_serials_and_is_signed_by_the_authority(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_device("cam-1", key.public_key(), NOW_MS)
    crl = x509.load_pem_x509_crl(authority.revocation_list([issued.serial], NOW_MS))
    ca = x509.load_pem_x509_certificate(authority.certificate_pem)
    assert crl.is_signature_valid(ca.public_key())
    assert crl.get_revoked_certificate_by_serial_number(int(issued.serial)) is not None
    assert crl.get_revoked_certificate_by_serial_number(1) is None
