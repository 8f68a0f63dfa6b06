"""What the fuzzers have found, so that it stays mended: input that is refused must be refused with a code of ours."""

from __future__ import annotations

import json
import struct
import zipfile

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from bundles.archive import open_archive
from bundles.errors import BundleRefused, TrustRefused
from bundles.trust.device.kitfile import read_archive
from bundles.trust.roles import check_distinct_keys, parse_role, parse_root


def root_of(change):
    """Return root metadata of one key after ``change`` to its JSON."""
    root = Root()
    root.add_key(CryptoSigner.generate_ed25519().public_key, "root")
    document = json.loads(Metadata(root).to_bytes())
    change(document["signed"])
    return json.dumps(document).encode()


def damaged_zip(path, name):
    """Write a zip whose list of entries begins, by its own word, so late that the entries lie before the file."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"{}")
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\5\6")
    struct.pack_into("<L", data, end + 16, len(data) + 100)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("keyid", ["0" * 64, 9, 2**70, True, None])
def test_a_role_that_names_a_key_that_is_not_there_is_refused(keyid):
    """Found twice: first any such key, then one named by a number, which TUF's parser lets pass."""
    data = root_of(lambda signed: signed["roles"]["timestamp"]["keyids"].append(keyid))
    with pytest.raises(TrustRefused) as caught:
        check_distinct_keys(parse_root("1.root.json", data).signed)
    assert caught.value.code == "TRUST_THRESHOLD"
    assert "which is not there" in caught.value.sentence


def test_metadata_without_a_canonical_form_is_refused_where_it_is_read():
    """A fraction cannot be signed: TUF's canonical form has none, and says so only when a signature is checked."""
    assert parse_role("1.root.json", root_of(lambda signed: signed.update({"x-a": 1})), Root).signed.version == 1
    with pytest.raises(TrustRefused) as caught:
        parse_role("1.root.json", root_of(lambda signed: signed.update({"x-a": 0.5})), Root)
    assert caught.value.code == "TRUST_UNSIGNED_ROOT"


@pytest.mark.parametrize(
    ("read", "name", "kind", "code"),
    [
        (read_archive, "kit.json", TrustRefused, "TRUST_UNSIGNED_KIT"),
        (open_archive, "bundle.json", BundleRefused, "BUNDLE_ARCHIVE"),
    ],
)
def test_an_archive_whose_entries_lie_before_its_beginning_is_refused(tmp_path, read, name, kind, code):
    """The system answers the seek to there with EINVAL, which is no trouble of the disk."""
    with pytest.raises(kind) as caught:
        read(damaged_zip(tmp_path / "any.zip", name))
    assert caught.value.code == code


def test_a_file_that_is_not_there_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_archive(tmp_path / "none.zip")
