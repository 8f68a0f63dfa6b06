"""What somebody does who owns the control plane: its database, its blobs, and through them the director's signature.

Nothing here is pretended: the thief writes what devices shall run into the real database, behind the back of every
check the API makes, and the real server signs that with the director's key and tells every device. What the devices
say to it is for ``claims`` to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from sqlmodel import Session

from bundles.archive import open_archive
from bundles.digest import sha256_hex
from bundles.manifest import encode_manifest
from bundles.wire.messages import DesiredModel, Profile
from control_plane.db.engine import Database
from control_plane.demo.releases import MODEL_KEY
from control_plane.services import desired
from control_plane.storage import Blobs


class Thief:
    """Owns the control plane in ``data``.

    Args:
        data: the server's data folder.
        profile: timing of what is asked, as the demo's.
        now_ms: the clock.
    """

    def __init__(self, data: Path, profile: Mapping[str, float], now_ms: int) -> None:
        self._database = Database(f"sqlite:///{(data / 'wavegate.db').resolve()}")
        self._blobs = Blobs.at(data / "blobs")
        self._profile, self._now_ms = msgspec.convert(dict(profile), Profile), now_ms

    def forge(self, stolen: Path, version: str, counter: int) -> DesiredModel:
        """Put a bundle that nobody signed among the blobs: ``stolen``'s files under a name and counter of its own."""
        archive = open_archive(stolen)
        manifest = encode_manifest(
            msgspec.structs.replace(archive.manifest, version=version, release_counter=counter, channel="prod")
        )
        for entry in archive.manifest.files:
            self._blobs.put(entry.sha256, archive.read(entry))
        digest = sha256_hex(manifest)
        self._blobs.put(digest, manifest)
        target = f"{MODEL_KEY}/{version}/bundle.json"
        return DesiredModel(target=target, sha256=digest, length=len(manifest), counter=counter)

    def replay(self, old: Path) -> DesiredModel:
        """Choose a bundle that was once signed and published, and that nobody runs any more."""
        archive = open_archive(old)
        manifest = archive.manifest
        return DesiredModel(
            target=manifest.target_path,
            sha256=sha256_hex(archive.manifest_bytes),
            length=len(archive.manifest_bytes),
            counter=manifest.release_counter,
        )

    def order(self, devices: Sequence[str], model: DesiredModel) -> dict[str, dict[str, DesiredModel]]:
        """Write into the database that every device shall run ``model``; return what they were asked before."""
        before: dict[str, dict[str, DesiredModel]] = {}
        with self._database.write() as session:
            for device in devices:
                before[device] = desired.current_models(session, device)
                self._ask(session, device, {**before[device], MODEL_KEY: model})
        return before

    def put_back(self, before: Mapping[str, Mapping[str, DesiredModel]]) -> None:
        """Write back what ``order`` returned, as operators do when they restore their database."""
        with self._database.write() as session:
            for device, models in before.items():
                self._ask(session, device, models)

    def close(self) -> None:
        """Leave the database."""
        self._database.close()

    def _ask(self, session: Session, device: str, models: Mapping[str, DesiredModel]) -> None:
        desired.set_desired(
            session, device, models, rollout="", canary=False, profile=self._profile, now_ms=self._now_ms
        )
