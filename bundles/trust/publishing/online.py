"""What the online keys sign: which versions of all roles belong together, and that they are current. Bytes only."""

from __future__ import annotations

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from bundles.trust.publishing.state import State
from bundles.trust.roles import file_name, timestamp_life_s, utc


def sign_snapshot(state: State, version: int, signer: Signer, expires_ms: int) -> dict[str, bytes]:
    """Put the next snapshot into ``state`` and return its file.

    Args:
        state: its snapshot is replaced by one that names the versions of its roles.
        version: of the snapshot.
        signer: the snapshot key.
        expires_ms: UTC epoch ms.
    """
    meta = dict(state.snapshot.meta)  # an entry is never removed: clients refuse a snapshot that lacks one
    meta["targets.json"] = MetaFile(state.targets.version)
    meta |= {f"{role}.json": MetaFile(signed.version) for role, signed in state.roles.items()}
    state.snapshot = Snapshot(version, expires=utc(expires_ms), meta=meta)
    metadata = Metadata(state.snapshot)
    metadata.sign(signer)
    return {file_name("snapshot", version): metadata.to_bytes()}


def sign_timestamp(state: State, version: int, signer: Signer, now_ms: int) -> dict[str, bytes]:
    """Put the next timestamp into ``state`` and return its file; it lives as long as the state's root says.

    Args:
        state: its timestamp is replaced by one that names its snapshot.
        version: of the timestamp.
        signer: the timestamp key.
        now_ms: time of signing, UTC epoch ms.
    """
    expires = utc(now_ms + timestamp_life_s(state.root) * 1000)
    state.timestamp = Timestamp(version, expires=expires, snapshot_meta=MetaFile(state.snapshot.version))
    metadata = Metadata(state.timestamp)
    metadata.sign(signer)
    return {file_name("timestamp", version): metadata.to_bytes()}
