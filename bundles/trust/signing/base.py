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
