"""What an event was made on: gathered by whoever makes it, verified again by everybody who signs it.

A signer believes neither the event nor who passed it on: the words shown before a signature are computed from
metadata verified with the signer's *own* root.
"""

from __future__ import annotations

from collections.abc import Iterable

from bundles.errors import AskPerson, TrustRefused, TryAgain
from bundles.trust.fetch import MetadataFetch, NotServed, length_limit, table_fetch
from bundles.trust.publishing.reading import read_state
from bundles.trust.publishing.state import State
from bundles.trust.roles import file_name, parse_root
from bundles.trust.signing.eventfolder import Event


def fetch_base(fetch: MetadataFetch, root: bytes) -> tuple[State, dict[str, bytes]]:
    """Fetch and verify the current state of a repository, and return it with the files it is made of.

    Args:
        fetch: the door to the repository.
        root: the root to trust.

    Raises:
        TryAgain: the repository cannot be reached.
        TrustRefused: it does not verify.
    """
    files: dict[str, bytes] = {}

    def recording(name: str, max_length: int) -> Iterable[bytes]:
        files[name] = b"".join(fetch(name, max_length))
        return [files[name]]

    state = read_state(recording, root)
    trusted = parse_root("root.json", root).signed.version
    files[file_name("root", trusted)] = root
    # Another holder may trust an older root still: the chain must begin where theirs does.
    for version in range(1, trusted):
        name = file_name("root", version)
        try:
            recording(name, length_limit(name))
        except NotServed:
            continue
    return state, files


def is_founding(event: Event) -> bool:
    """Whether ``event`` is the first metadata of a repository: made on nothing, and bringing the first root."""
    return not event.base and file_name("root", 1) in event.files


def check_own_root(event: Event, root: bytes) -> None:
    """Check that the founding ``event`` is of the repository whose root its reader holds already.

    Raises:
        TrustRefused: ``TRUST_EVENT_BASE``: it founds another one: a key in use must not sign versions 1 again.
    """
    name = file_name("root", 1)
    if parse_root(name, event.files[name]).signed_bytes != parse_root(name, root).signed_bytes:
        raise TrustRefused(
            "You hold the root of a repository, and this event founds another one.",
            code="TRUST_EVENT_BASE",
            remedy="Do not sign it with keys that are in use. For a second repository, make keys of their own.",
        )


def event_state(event: Event, root: bytes) -> State:
    """Verify the base of ``event`` with ``root``, the root its reader trusts. Expiry is not judged.

    Raises:
        AskPerson: ``TRUST_EVENT``: the event has no base.
        TrustRefused: ``TRUST_EVENT_BASE``: the base does not verify: do not sign it.
    """
    if not event.base:
        raise AskPerson(
            "The event carries no metadata that it could be compared with.",
            code="TRUST_EVENT",
            remedy="Say with --metadata where the repository is.",
        )
    try:
        return read_state(table_fetch(dict(event.base)), root)
    except (TrustRefused, TryAgain) as error:
        raise TrustRefused(
            f"The metadata this event claims to be made on is not what your root vouches for: {error.sentence}",
            code="TRUST_EVENT_BASE",
            remedy="Do not sign it. Ask who made it, by another way than it came.",
            details={"cause": error.code},
        ) from error
