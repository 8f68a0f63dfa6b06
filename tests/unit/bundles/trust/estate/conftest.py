"""A whole estate: the keys of a real ceremony, the folder a server serves, its devices, and a clock that tests turn.

Nothing is a stand-in but the time: TUF's client reads the system's clock, so it is given the estate's.
"""

from __future__ import annotations

import datetime
import time
from types import SimpleNamespace

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.ngclient._internal import trusted_metadata_set

from bundles.digest import sha256_hex
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.trust.device.client import TrustStore
from bundles.trust.drafting.drafts import encode_drafts
from bundles.trust.drafting.release import add_release, current_team
from bundles.trust.durable import write_quickly
from bundles.trust.fetch import folder_fetch
from bundles.trust.publishing.reading import read_state
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.signing.ceremony import PROFILES, hold_ceremony
from bundles.trust.signing.signatures import add_signatures
from bundles.trust.signing.signers import load_signer
from bundles.wire.messages import DesiredModel

DAY_MS = 86_400_000


class Clock:
    """What everybody takes the time from, UTC epoch ms."""

    def __init__(self) -> None:
        self.ms = int(time.time()) * 1000

    def __call__(self) -> int:
        return self.ms

    def pass_days(self, days: float) -> None:
        self.ms += int(days * DAY_MS)


class Estate:
    """Everybody and everything around one repository.

    Attributes:
        keys: every key by its file's name without ending; keys made later are added by ``new``.
        online: online signers the server holds, by role.
    """

    def __init__(self, folder, clock, profile="team", teams=("vision", "audio"), **options) -> None:
        self.folder, self.clock, self.profile = folder, clock, PROFILES[profile]
        self.made = hold_ceremony(folder / "c", self.profile, teams, passphrase=None, now_ms=clock(), **options)
        self.metadata, self.root = self.made.server / "metadata", self.made.root.read_bytes()
        self.fetch = folder_fetch(self.metadata)
        self.keys = {path.stem: load_signer(path) for path in self.made.offline_keys}
        served = {path.stem: load_signer(path) for path in (self.made.server / "keys").glob("*.pem")}
        self.keys |= served
        self.online = {role: [served[role]] for role in ("snapshot", "timestamp")}
        self.repository = self.reopen()
        self._stores: dict[str, TrustStore] = {}

    def reopen(self) -> OnlineRepository:
        self.repository = OnlineRepository(self.metadata, self.online["snapshot"], self.online["timestamp"], self.clock)
        return self.repository

    def new(self, *names: str):
        """Make keys and return their public halves."""
        self.keys |= {name: CryptoSigner.generate_ed25519() for name in names}
        return [self.keys[name].public_key for name in names]

    def keyid(self, name: str) -> str:
        return self.keys[name].public_key.keyid

    def some(self, *names: str):
        return [self.keys[name] for name in names]

    def state(self):
        return read_state(self.fetch, self.root)

    def signed(self, drafts, *names: str) -> dict[str, bytes]:
        return add_signatures(self.state(), encode_drafts(drafts), self.some(*names))

    def publish(self, drafts, *names: str):
        return self.repository.publish(self.signed(drafts, *names))

    def release(self, version: str, counter: int, *names: str, team="vision", publish=True) -> DesiredModel:
        file = BundleFile("m", sha256_hex(version.encode()), 3, "model")
        data = encode_manifest(
            Manifest(team, "m", version, counter, "prod", 1, files=[file], variants=[Variant("a", "onnxruntime", "m")])
        )
        team_state = current_team(self.fetch, self.root, team, self.clock())
        signed = add_release(team_state, data, self.some(*(names or (f"team-{team}",))), self.clock())
        self.repository.publish({signed.name: signed.data})
        return DesiredModel(f"{team}/m/{version}/bundle.json", sha256_hex(data), len(data), counter)

    def device(self, name="old", **options) -> TrustStore:
        """A device that stays: the same state every time its name is asked for."""
        if name not in self._stores:
            self._stores[name] = TrustStore(
                self.folder / f"device-{name}", self.root, device=name, fetch=self.fetch, write=write_quickly, **options
            )
        return self._stores[name]

    def fresh(self) -> TrustStore:
        """A device that has never been online, with the root of the ceremony."""
        return self.device(f"fresh-{len(self._stores)}")

    def accepted(self, *wanted: DesiredModel):
        """Let the device that stays and a fresh one refresh and authorise; return both."""
        devices = [self.device(), self.fresh()]
        for device in devices:
            assert device.refresh(self.clock()).timestamp_version == self.repository.timestamp_version
            for model in wanted:
                team, name, _, _ = model.target.split("/")
                device.authorize(f"{team}/{name}", model, hardware="any", now_ms=self.clock())
        return devices

    def close(self) -> None:
        for store in self._stores.values():
            store.close()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    now = lambda zone: datetime.datetime.fromtimestamp(clock.ms / 1000, zone)  # noqa: E731
    turned = SimpleNamespace(datetime=SimpleNamespace(now=now), timezone=datetime.timezone)
    monkeypatch.setattr(trusted_metadata_set, "datetime", turned)
    return clock


@pytest.fixture
def found(tmp_path, clock):
    """Return a function that founds an estate of a profile."""
    estates = []

    def found(profile="team", **options) -> Estate:
        estates.append(Estate(tmp_path / f"estate-{len(estates)}", clock, profile, **options))
        return estates[-1]

    yield found
    for estate in estates:
        estate.close()


@pytest.fixture
def estate(found):
    """A ``team`` estate with one release, and a device that has seen it."""
    estate = found()
    estate.first = estate.release("1.0.0", 1)
    estate.accepted(estate.first)
    return estate
