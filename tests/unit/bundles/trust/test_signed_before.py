"""The journal of what a key signed: what it lets pass, what it stops, and that it survives."""

from __future__ import annotations

import pytest
from tuf.api.metadata import Metadata, Targets

from bundles.errors import AskPerson
from bundles.trust.roles import utc
from bundles.trust.signing.signed_before import MAX_DIGESTS, enter, read_book, write_book


def event(version, floor=0, role="targets"):
    """Return an event of one file, and who is about to sign it."""
    targets = Targets(version, expires=utc(1_900_000_000_000), unrecognized_fields={"x-floors": {"a/b": floor}})
    return {f"{version}.{role}.json": Metadata(targets).to_bytes()}


def signed(book, files, *, keys=("k1",), instead=False):
    return enter(book, {name: list(keys) for name in files}, files, instead=instead)


def refused(book, files, **options):
    with pytest.raises(AskPerson) as caught:
        signed(book, files, **options)
    assert caught.value.code == "KEY_SIGNED_BEFORE"
    return caught.value


def test_same_content_and_next_versions_pass():
    book = signed({}, event(2))
    assert signed(book, event(2)) == book
    book = signed(book, event(5, 1))
    assert (book["k1"]["targets"].version, len(book["k1"]["targets"].digests)) == (5, 1)


def test_other_content_of_that_version_passes_only_when_told_and_both_are_remembered():
    book = signed({}, event(2))
    refused(book, event(2, 1))
    after = signed(book, event(2, 1), instead=True)
    assert signed(after, event(2)) == signed(after, event(2, 1)) == after
    assert "k1" in book
    assert len(book["k1"]["targets"].digests) == 1


def test_an_older_version_never_passes():
    book = signed({}, event(3))
    for instead in (False, True):
        assert refused(book, event(2), instead=instead).details["before"] == 3


def test_keys_and_roles_are_kept_apart():
    book = signed({}, event(3))
    book = signed(book, event(2, role="team-a.b"))
    book = signed(book, event(2), keys=("k2",))
    assert {key: sorted(roles) for key, roles in book.items()} == {"k1": ["targets", "team-a.b"], "k2": ["targets"]}


def test_drafts_of_one_version_are_remembered_up_to_a_number():
    book = {}
    for floor in range(MAX_DIGESTS + 2):
        book = signed(book, event(2, floor), instead=True)
    assert len(book["k1"]["targets"].digests) == MAX_DIGESTS
    refused(book, event(2, 0))
    signed(book, event(2, MAX_DIGESTS + 1))


def test_written_and_read_again(tmp_path):
    assert read_book(tmp_path / "signed.json") == {}
    book = signed({}, event(3), keys=("k1", "k2"))
    write_book(tmp_path / "signed.json", book)
    assert read_book(tmp_path / "signed.json") == book
    assert (tmp_path / "signed.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"keys": {"k": 3}}', b'{"keys": {}}\xff'])
def test_one_that_cannot_be_read_signs_nothing(tmp_path, content):
    (tmp_path / "signed.json").write_bytes(content)
    with pytest.raises(AskPerson) as caught:
        read_book(tmp_path / "signed.json")
    assert caught.value.code == "KEY_JOURNAL"
