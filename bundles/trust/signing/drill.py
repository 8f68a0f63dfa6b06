"""Proving that the backup suffices: a lost key is taken out and replaced, in a copy that nobody is served.

The copy gets throw-away online keys (a root may name new ones), so the drill needs no server and no key of one. The
real repository is only read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Root

from bundles.errors import AskPerson
from bundles.trust.drafting.drafts import Keys, as_drafts, encode_drafts, next_root, set_root_keys
from bundles.trust.drafting.lostkeys import revoke_key
from bundles.trust.drafting.renewal import renew_all_due
from bundles.trust.fetch import folder_fetch
from bundles.trust.publishing.event import apply_event
from bundles.trust.publishing.history import History, read_history
from bundles.trust.publishing.online import sign_snapshot, sign_timestamp
from bundles.trust.publishing.reading import read_state
from bundles.trust.publishing.state import State
from bundles.trust.publishing.walk import check_as_devices
from bundles.trust.roles import Lifetimes, file_name, utc
from bundles.trust.signing.signatures import add_signatures, who_signs


@dataclass(frozen=True)
class DrillReport:
    """What a drill proved.

    Attributes:
        lost: id of the key that was given up.
        roles: the roles it was taken out of.
        words: each step, in a sentence.
    """

    lost: str
    roles: list[str]
    words: list[str]


def drill(metadata: Path, root: bytes, lost: str, signers: Sequence[Signer], now_ms: int) -> DrillReport:
    """Recover from the loss of a key with ``signers`` alone, in a scratch copy, and check the result as devices do.

    Args:
        metadata: the repository's folder; only read.
        root: the root that devices trust from the start.
        lost: id of the key given up.
        signers: the backup: everything that would be left.
        now_ms: time of the drill.

    Raises:
        AskPerson: ``TRUST_DRILL``: the backup does not suffice, with what is missing; or it holds the lost key itself.
        TrustRefused: the repository as it is does not verify.
    """
    if any(signer.public_key.keyid == lost for signer in signers):
        raise _failed(f"The backup is the very key {lost[:12]} that is given up.", "Drill with the other key.")
    state = read_state(folder_fetch(metadata), root)
    fresh = {name: CryptoSigner.generate_ed25519() for name in ("lost", "snapshot", "timestamp")}
    plan = revoke_key(state, lost, now_ms, replacement=fresh["lost"].public_key)
    drafts = {**renew_all_due(state, now_ms, within_s=0).drafts, **plan.drafts}
    name = file_name("root", state.root.version + 1)
    top: Root = drafts[name].signed if name in drafts else next_root(state.root, now_ms, Lifetimes())
    for role in ("snapshot", "timestamp"):
        set_root_keys(top, role, Keys([fresh[role].public_key]))
    files = encode_drafts({**drafts, **as_drafts(("root", top))})
    holders = [signer for signer in [*signers, fresh["lost"]] if _is_asked(state, files, signer)]
    files = add_signatures(state, files, holders)
    missing = [
        f"{quorum.missing} of {signing.role}"
        for signing in who_signs(state, files)
        for quorum in signing.quorums
        if quorum.missing
    ]
    if missing:
        raise _failed(
            f"The backup cannot recover from the loss of {lost[:12]}: signatures missing: {', '.join(missing)}.",
            "Put the keys that are missing into the backup, and drill again.",
        )
    before = {path.name: path.read_bytes() for path in metadata.glob("*.json")}
    version = _publish(before, files, state, read_history(metadata, state), fresh, now_ms)
    return DrillReport(
        lost,
        plan.roles,
        [
            *plan.words,
            f"The backup signed {', '.join(sorted(files))}.",
            f"Published in a copy as timestamp {version}; a new device and a present one accept it.",
            "Nothing was changed in the real repository.",
        ],
    )


def _publish(
    before: Mapping[str, bytes],
    files: Mapping[str, bytes],
    state: State,
    history: History,
    fresh: Mapping[str, Signer],
    now_ms: int,
) -> int:
    """Publish in memory and check as devices do; return the timestamp's version."""
    applied = apply_event(state, files, utc(now_ms), history)
    after, life = applied.state, Lifetimes()
    expires_ms = now_ms + life.snapshot_s * 1000
    written = {
        **files,
        **sign_snapshot(after, state.snapshot.version + 1, fresh["snapshot"], expires_ms),
        **sign_timestamp(after, state.timestamp.version + 1, fresh["timestamp"], now_ms),
    }
    check_as_devices(before, written, [], applied.probes, utc(now_ms))
    return after.timestamp.version


def _is_asked(state: State, files: Mapping[str, bytes], signer: Signer) -> bool:
    keyid = signer.public_key.keyid
    return any(keyid in quorum.keyids for signing in who_signs(state, files) for quorum in signing.quorums)


def _failed(sentence: str, remedy: str) -> AskPerson:
    return AskPerson(sentence, code="TRUST_DRILL", remedy=remedy)
