"""Which paths a bundle can have: nothing but ``team/model/version/bundle.json`` in plain names is ever found.

The look-up goes through a real repository whose team, snapshot and timestamp keys are in a thief's hands: the team's
role lists whatever the thief likes, which TUF's own pattern ``vision/*/*/*`` lets pass in part.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from bundles.errors import AskPerson, BundleRefused, TrustRefused, WavegateError
from bundles.manifest import check_path, split_target
from bundles.trust.device.authorize import check_target_path
from bundles.trust.device.client import TrustStore
from bundles.trust.drafting.offline import Quorum, new_repository
from bundles.trust.durable import write_quickly
from bundles.trust.fetch import table_fetch
from bundles.trust.publishing.repository import OnlineRepository
from bundles.wire.messages import DesiredModel

PLAIN = re.compile(r"([a-z0-9][a-z0-9._-]{0,63})/([a-z0-9][a-z0-9._-]{0,63})/([a-z0-9][a-z0-9._-]{0,63})/bundle\.json")
"""The rule, spelled a second time: the code under test cannot judge itself."""
INNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._+-]{0,127}){0,7}")
HONEST = "vision/digits/1.0.0/bundle.json"
SHA256, LENGTH, COUNTER = "a" * 64, 100, 7
NOW = int(time.time() * 1000)

segments = st.one_of(
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
    st.sampled_from(["vision", "audio", "digits", "1.0.0", "bundle.json", "metadata", ".director", "never"]),
    st.sampled_from(["", ".", "..", "...", " ", "~", "*", "?", "[a-z]", "-", "%2e", "%2e%2e", "%2f", "%00", "%25"]),
    st.sampled_from(
        ["Vision", "VISION", "Bundle.json", "bundle.JSON", "bundle.json ", "bundle.json\n", "bundle.json\0"]
    ),
    st.sampled_from(
        ["vi\u017fion", "vis\u0131on", "\uff56ision", "visi\u00f3n", "\u202edigits", "digits\u200b", "\u0660"]
    ),
    st.sampled_from(["con", "a" * 64, "a" * 65, "a:b", "a\\b", "..\\..", "\x00", "\r", "\x7f"]),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
separators = st.sampled_from(["/", "/", "/", "/", "//", "\\", "/./", "%2f", "\u2215", "\uff0f", ""])


@st.composite
def joined(draw):
    """Draw up to six segments with something between them."""
    first, *rest = draw(st.lists(segments, min_size=1, max_size=6))
    return first + "".join(draw(separators) + segment for segment in rest)


@st.composite
def edited(draw):
    """Draw the honest path with one place changed."""
    at, cut = draw(st.integers(0, len(HONEST))), draw(st.integers(0, 3))
    return HONEST[:at] + draw(segments | separators) + HONEST[at + cut :]


plain = st.builds(
    "{}/{}/{}/bundle.json".format,
    *(
        [st.sampled_from(["vision", "audio", "video"])]
        + [st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True)] * 2
    ),
)
paths = st.one_of(joined(), edited(), plain)


@given(paths)
@example("vision/../audio/bundle.json")
@example("vision/digits/1.0.0/bundle.json\n")
@example("vision//digits/bundle.json")
def test_a_target_path_is_four_plain_parts_or_nothing(path):
    match = PLAIN.fullmatch(path)
    if match is None:
        with pytest.raises(BundleRefused) as caught:
            split_target(path)
        assert caught.value.code == "BUNDLE_PATH"
    else:
        assert split_target(path) == match.groups()
        assert "/".join((*match.groups(), "bundle.json")) == path, "it was never normalised"


@given(paths)
@example("a/" * 8 + "b")
@example("a" * 241)
def test_a_path_inside_a_bundle_is_relative_and_plain_or_nothing(path):
    if INNER.fullmatch(path) and len(path) <= 240:
        check_path(path)
    else:
        with pytest.raises(BundleRefused) as caught:
            check_path(path)
        assert caught.value.code == "BUNDLE_PATH"


@given(st.sampled_from(["vision/digits", "audio/digits", "vision/", "vision", "../digits", "vision/digits/1"]), paths)
@example("vision/digits", "audio/digits/1/bundle.json")
def test_the_director_can_name_a_plain_path_of_that_very_model_or_nothing(model, path):
    wanted, match = DesiredModel(path, SHA256, LENGTH, COUNTER), PLAIN.fullmatch(path)
    if match is not None and "/".join(match.groups()[:2]) == model:
        check_target_path(model, wanted)
    else:
        with pytest.raises(TrustRefused) as caught:
            check_target_path(model, wanted)
        assert caught.value.code in ("TRUST_NOT_LISTED", "TRUST_DIRECTOR_MISMATCH")


class Stolen:
    """A repository whose vision, snapshot and timestamp keys a thief has; targets and root are safe."""

    def __init__(self, folder) -> None:
        self.folder, self.number = folder, 0
        names = ("root", "targets", "vision", "audio", "snapshot", "timestamp", "director")
        self.keys = {name: CryptoSigner.generate_ed25519() for name in names}
        self.first = new_repository(
            root=Quorum([self.keys["root"]], 1),
            targets=Quorum([self.keys["targets"]], 1),
            teams={name: Quorum([self.keys[name]], 1) for name in ("vision", "audio")},
            snapshot=self.keys["snapshot"],
            timestamp=self.keys["timestamp"],
            director=self.keys["director"].public_key,
            now_ms=NOW,
        )

    def listing(self, targets: list[str], model: str) -> bytes:
        """Return the next role of the vision team, listing ``targets`` as bundles of ``model``."""
        custom = {"release_counter": COUNTER, "hardware": [], "channel": "prod", "model": model}
        role = Targets(2, expires=self.later())
        for path in targets:
            role.targets[path] = TargetFile(LENGTH, {"sha256": SHA256}, path, {"custom": custom})
        return self.signed(role, "vision")

    def served(self, targets: list[str], model: str) -> dict[str, bytes]:
        """Return everything a server in the thief's hands serves."""
        meta = {"targets.json": MetaFile(1), "team-vision.json": MetaFile(2), "team-audio.json": MetaFile(1)}
        return {
            **self.first,
            "2.team-vision.json": self.listing(targets, model),
            "2.snapshot.json": self.signed(Snapshot(2, expires=self.later(), meta=meta), "snapshot"),
            "timestamp.json": self.signed(Timestamp(2, expires=self.later(), snapshot_meta=MetaFile(2)), "timestamp"),
        }

    def store(self, served: dict[str, bytes]) -> TrustStore:
        """Return the trust state of a new device."""
        self.number += 1
        folder, root = self.folder / f"device-{self.number}", self.first["1.root.json"]
        return TrustStore(folder, root, device="cam-1", fetch=table_fetch(served), write=write_quickly)

    def signed(self, part, role: str) -> bytes:
        metadata = Metadata(part)
        metadata.sign(self.keys[role])
        return metadata.to_bytes()

    def later(self) -> datetime:
        return datetime.now(UTC).replace(microsecond=0) + timedelta(days=5)


@pytest.fixture(scope="module")
def stolen(tmp_path_factory):
    return Stolen(tmp_path_factory.mktemp("stolen"))


def is_found(store: TrustStore, model: str, path: str) -> bool:
    """Whether the device would take the bundle at ``path``."""
    try:
        store.authorize(model, DesiredModel(path, SHA256, LENGTH, COUNTER), hardware="", now_ms=NOW)
    except WavegateError:
        return False
    return True


SLOWER = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOWER
@given(st.lists(paths, min_size=1, max_size=12, unique=True), st.sampled_from(["vision/digits", "audio/digits"]))
@example(
    [HONEST, "vision/../audio/bundle.json", "vision/./1.0.0/bundle.json", "audio/digits/1/bundle.json"], "vision/digits"
)
def test_a_thief_of_a_teams_key_gets_plain_paths_of_that_team_only(stolen, listed, model):
    with stolen.store(stolen.served(listed, model)) as store:
        store.refresh(NOW)
        for path in listed:
            match = PLAIN.fullmatch(path)
            asked = "/".join(path.split("/")[:2])
            honest = match is not None and match[1] == "vision"
            assert is_found(store, asked, path) is (honest and asked == model), path
            assert is_found(store, model, path) is (honest and asked == model), path


@SLOWER
@given(st.lists(paths.filter(lambda path: path != HONEST), min_size=1, max_size=20))
def test_no_spelling_of_a_listed_path_finds_it(stolen, spelled):
    with stolen.store(stolen.served([HONEST], "vision/digits")) as store:
        store.refresh(NOW)
        assert is_found(store, "vision/digits", HONEST)
        for path in spelled:
            assert not is_found(store, "vision/digits", path), path
            assert not is_found(store, "/".join(path.split("/")[:2]), path), path


@SLOWER
@given(st.lists(paths, min_size=1, max_size=6, unique=True))
def test_an_honest_server_publishes_no_such_listing(stolen, listed):
    stolen.number += 1
    folder = stolen.folder / f"server-{stolen.number}"
    folder.mkdir()
    for name, data in stolen.first.items():
        (folder / name).write_bytes(data)
    server = OnlineRepository(folder, stolen.keys["snapshot"], stolen.keys["timestamp"], lambda: NOW)
    allowed = all(path.startswith("vision/digits/") and PLAIN.fullmatch(path) for path in listed)
    try:
        server.publish({"2.team-vision.json": stolen.listing(listed, "vision/digits")})
    except (TrustRefused, AskPerson):
        assert not allowed
        assert server.listed() == {}
    else:
        assert allowed
        assert set(server.listed()) == set(listed)
