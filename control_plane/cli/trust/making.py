"""How a command makes an event: read the current metadata, draft on it, sign with the keys at hand, write, explain."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bundles.errors import AskPerson
from control_plane.cli.context import address
from control_plane.cli.output import Format, say, show
from control_plane.cli.trust.at_hand import KeyAtHand, sign_noted

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from bundles.trust.drafting.drafts import Keys
    from bundles.trust.publishing.state import State

_MADE = {"Event": "event", "Kind": "kind", "Files": "files", "Complete": "complete", "Still needed": "needed"}


@dataclass(frozen=True)
class Ground:
    """The verified metadata a change is drafted on.

    Attributes:
        state: the current state.
        base: the files it is made of.
        root: the root it was verified with.
        place: where it was read.
        now_ms: time of the command.
    """

    state: State
    base: Mapping[str, bytes]
    root: bytes
    place: str
    now_ms: int


def now_ms() -> int:
    """Return the time, UTC epoch ms."""
    return int(time.time() * 1000)


def read_ground(ctx: typer.Context, metadata: str, root: Path | None) -> Ground:
    """Read and verify the repository that the command line means.

    Raises:
        AskPerson: ``TRUST_ROOT_NEEDED`` or ``TRUST_REPOSITORY``.
        TryAgain: it cannot be reached.
        TrustRefused: it does not verify.
    """
    from bundles.trust.signing.base import fetch_base
    from control_plane.cli.metadata import open_metadata

    place = metadata or address(ctx)[0]
    fetch, trusted = open_metadata(place, root)
    say(f"Reading {place} and checking it with your root.")
    state, base = fetch_base(fetch, trusted)
    ground = Ground(state, base, trusted, place, now_ms())
    warn_of_age(state, ground.now_ms)
    return ground


def warn_of_age(state: State, at_ms: int) -> None:
    """Say what has expired: a server that shows an old state cannot be told from one whose signer is down."""
    from bundles.trust.publishing.state import expired_roles

    if gone := expired_roles(state, at_ms):
        say(f"Expired: {', '.join(gone)}. If the server should be healthy, somebody may be showing you an old state.")


def public_keys(paths: Sequence[Path] | None) -> list[Key]:
    """Load public keys from ``.pub`` files (or the private files beside them)."""
    from bundles.trust.signing.signers import load_public

    return [load_public(path) for path in paths or ()]


def changed_keys(
    current: Keys, add: Sequence[Path] | None, remove: Sequence[str] | None, threshold: int | None
) -> Keys:
    """Return ``current`` with keys added and removed.

    Args:
        current: the role's keys now.
        add: public key files.
        remove: beginnings of key ids, or public key files.
        threshold: how many must sign from now on; None = as many as now.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: a key to remove is not of the role, or the threshold cannot be met.
    """
    from bundles.trust.drafting.drafts import Keys

    gone = {key_of(current.keys, name) for name in remove or ()}
    kept = [key for key in current.keys if key.keyid not in gone]
    fresh = [key for key in public_keys(add) if key.keyid not in {key.keyid for key in kept}]
    return Keys([*kept, *fresh], threshold or current.threshold)


def key_of(keys: Sequence[Key], name: str) -> str:
    """Return the id of the one key that ``name`` means: the beginning of an id, or a public key file.

    Raises:
        AskPerson: ``KEY_NOT_OF_ROLE``.
    """
    from bundles.trust.signing.signers import load_public

    wanted = load_public(Path(name)).keyid if Path(name).with_suffix(".pub").exists() else name
    found = {key.keyid for key in keys if len(wanted) >= 4 and key.keyid.startswith(wanted)}
    if len(found) != 1:
        raise AskPerson(
            f"{name!r} means {len(found) or 'none'} of the role's keys.",
            code="KEY_NOT_OF_ROLE",
            remedy="Give the .pub file, or the beginning of a key id as `wavegate trust status` shows it.",
        )
    return found.pop()


def finish(
    ground: Ground,
    kind: str,
    files: Mapping[str, bytes],
    *,
    keys: Sequence[KeyAtHand],
    out: Path | None,
    note: str,
    form: Format,
    more: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> None:
    """Sign ``files`` with the keys at hand, write the event, and say what it changes and who is still needed.

    Args:
        ground: what the files were drafted on.
        kind: of the event; its default name too.
        files: the new metadata.
        keys: the keys at hand; that they sign a version anew is the decision of whoever drafts here.
        out: where to; a folder or a zip that is not there yet.
        note: for the other signers.
        form: how to answer.
        more: facts to add to the answer.
        replace: write over the event that is there.

    Raises:
        AskPerson: ``TRUST_EVENT``: something is there already; ``KEY_NOT_OF_ROLE``; ``KEY_SIGNED_BEFORE``: a key
            signed a newer version before.
    """
    from bundles.trust.signing.eventfolder import new_event, write_event

    place = out or Path(f"{kind.replace(' ', '-')}-{datetime.fromtimestamp(ground.now_ms / 1000, UTC):%Y%m%d-%H%M%S}")
    if not replace:
        check_free(place)
    signed = sign_noted(ground.state, files, keys, instead=True) if keys else dict(files)
    event = new_event(kind, note, ground.now_ms, ground.base, signed)
    write_event(event, place)
    facts = {
        "event": str(place),
        "kind": kind,
        "files": sorted(signed),
        **(more or {}),
        **explain(ground.state, signed),
    }
    columns = {**_MADE, **{name.capitalize(): name for name in more or ()}}
    show(facts, form, columns)
    if not facts["complete"]:
        say(f"Pass it on: wavegate trust sign {place} --signer KEY")
    else:
        say(f"Complete: wavegate trust publish {place} --server {ground.place}")
    for remark in facts["remarks"]:
        say(remark)


def check_free(place: Path) -> None:
    """Check that an event can be written to ``place``.

    Raises:
        AskPerson: ``TRUST_EVENT``: something is there.
    """
    if place.exists() and (place.is_file() or any(place.iterdir())):
        raise AskPerson(
            f"There is something at {place} already.",
            code="TRUST_EVENT",
            remedy="Choose another --out, or remove it if nobody has signed it.",
        )


def explain(state: State | None, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Say on stderr what ``files`` change; return that, and how far they are signed, as plain values."""
    from bundles.trust.signing.changes import describe_changes
    from bundles.trust.signing.signatures import who_signs

    changes, signings = describe_changes(state, files), who_signs(state, files)
    for line in changes.lines:
        say(f"  {line}")
    for line in changes.warnings:
        say(f"  WARNING: {line}")
    needed = [
        f"{signing.name}: {quorum.missing} more of {quorum.title}"
        f" ({', '.join(keyid[:8] for keyid in quorum.keyids if keyid not in quorum.signed)})"
        for signing in signings
        for quorum in signing.quorums
        if quorum.missing
    ]
    return {
        "complete": not needed,
        "needed": needed,
        "remarks": [signing.remark for signing in signings if signing.remark],
        "changes": changes.lines,
        "warnings": changes.warnings,
        "reviewed": all(quorum.threshold > 1 for signing in signings for quorum in signing.quorums),
        "signatures": [
            {
                "file": signing.name,
                "role": signing.role,
                "who": quorum.title,
                "threshold": quorum.threshold,
                "signed": quorum.signed,
                "unsigned": [keyid for keyid in quorum.keyids if keyid not in quorum.signed],
            }
            for signing in signings
            for quorum in signing.quorums
        ],
    }
