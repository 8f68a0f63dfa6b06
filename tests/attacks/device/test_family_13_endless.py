"""Attack 13: whoever is in between sends more than was signed, never ends, drips, or sends a little that swells.

What the attacker wants: a device without memory, disk or time left. Nothing is trusted, so nothing needs a key.
"""

import gzip
import itertools
import tracemalloc

import pytest
from tuf.api.metadata import Metadata, Root

from bundles.trust.drafting.offline import raise_signed_floors
from bundles.trust.fetch import SLOW_S, TufFetcher, length_limit

PIECE = b" " * 65_536
ENOUGH = 64 * 1024 * 1024
"""Bytes after which the sender gives up: a device that took them all has no bound."""
SWELLING = gzip.compress(b" " * ENOUGH)


def endless(lab):
    def send(handler):
        handler.send_response(200)
        handler.send_header("WG-Nonce", "n")
        handler.end_headers()
        lab.sent = 0
        while lab.sent < ENOUGH:
            handler.wfile.write(PIECE)
            lab.sent += len(PIECE)

    return send


def endless_timestamp(lab, device):
    lab.sent = 0
    lab.front.answers["/metadata/timestamp.json"] = endless(lab)
    device.refresh()


def endless_blob(lab, device):
    lab.sent = 0
    wanted = lab.publish("2.0.0", 6, base=lab.better)
    model = lab.better.file_with_role("model").sha256
    lab.front.answers[f"/v1/blobs/sha256/{model}"] = endless(lab)
    lab.assign(wanted)
    device.poll()
    for _ in range(5):
        device.later(600)


def swelling_timestamp(lab, device):
    """64 MiB in 64 KiB: compressed, for a client that unpacks by itself."""

    def send(handler):
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(SWELLING)))
        handler.end_headers()
        handler.wfile.write(SWELLING)

    lab.front.answers["/metadata/timestamp.json"] = send
    device.refresh()


def took_it_all(lab, device):
    return getattr(lab, "sent", 0) >= ENOUGH


@pytest.mark.parametrize(("script", "code"), [(endless_timestamp, "TRUST_LENGTH"), (endless_blob, "DOWNLOAD_LENGTH")])
def test_attack_13_endless(attack, script, code):
    lab, _ = attack(script, code, is_instructed=True)
    assert not took_it_all(lab, None)


UNBOUNDED = {
    "bundles.trust.fetch.length_limit": lambda name: 1 << 27,
    "tuf.ngclient.fetcher.FetcherInterface.download_bytes": lambda fetcher, url, max_length: b"".join(
        fetcher.fetch(url)
    ),
}
"""Lengths are bounded by our own door and by TUF's client: both are taken away."""


def test_attack_13_endless_timestamp_has_teeth(with_teeth):
    with_teeth(endless_timestamp, took_it_all, UNBOUNDED)


def new_root(lab):
    root = Root.from_dict(lab.repository.state.root.to_dict())
    root.version += 1
    metadata = Metadata(root)
    for holder in lab.some("root1", "root2"):
        metadata.sign(holder, append=True)
    lab.repository.publish({"2.root.json": metadata.to_bytes()})
    return "2.root.json"


def new_snapshot(lab):
    lab.publish("2.0.0", 6)
    return f"{lab.repository.state.snapshot.version}.snapshot.json"


def new_targets(lab):
    holders = lab.some("targets1", "targets2")
    lab.repository.publish(raise_signed_floors(lab.repository.targets, {"vision/digits": 3}, holders, lab.now()))
    return f"{lab.repository.targets.version}.targets.json"


def new_team_role(lab):
    lab.publish("2.0.0", 6)
    return f"{lab.repository.state.roles['team-vision'].version}.team-vision.json"


def oversize(make):
    """The honest new file, its signatures good, with so many spaces before it that it is too long."""

    def script(lab, device):
        lab.file = make(lab)
        lab.served[lab.file] = b" " * length_limit(lab.file) + lab.honest(lab.file)
        device.refresh()
        lab.assign(lab.wanted("1.1.0"))  # for what is looked up on demand
        device.poll()
        lab.assign(lab.wanted("2.0.0") if "team" in lab.file else lab.wanted("1.1.0"))
        device.poll()

    return script


def keeps_it(lab, device):
    name = getattr(lab, "file", "").partition(".")[2]
    kept = list((device.folder / "trust" / "metadata").glob(name)) if name else []
    return any(path.stat().st_size > length_limit(lab.file) for path in kept)


OVERSIZE = {make.__name__: oversize(make) for make in (new_root, new_snapshot, new_targets, new_team_role)}


@pytest.mark.parametrize("what", OVERSIZE)
def test_attack_13_oversize(attack, what):
    lab, device = attack(OVERSIZE[what], "TRUST_LENGTH", is_instructed=True)
    assert not keeps_it(lab, device)


@pytest.mark.parametrize("what", OVERSIZE)
def test_attack_13_oversize_has_teeth(with_teeth, what):
    with_teeth(OVERSIZE[what], keeps_it, UNBOUNDED)


class Ticking:
    """A clock on which a second passes whenever somebody looks: nobody waits."""

    def __init__(self):
        self.seconds = itertools.count()

    def __call__(self):
        return float(next(self.seconds))


def dripping(content):
    """Send ``content`` a byte at a time: each is a TLS record of its own, and so a piece of its own."""

    def send(handler):
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        handler.send_response(206 if start else 200)
        handler.send_header("WG-Nonce", "n")
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        for at in range(start, len(content)):
            handler.wfile.write(content[at : at + 1])

    return send


def dripping_timestamp(lab, device):
    """The honest, newest timestamp, at a byte a second."""
    lab.publish("2.0.0", 6)
    content = lab.honest("timestamp.json")
    assert len(content) > 2 * SLOW_S
    lab.dripped_version = lab.repository.timestamp_version
    lab.front.answers["/metadata/timestamp.json"] = dripping(content)
    device.refresh()


@pytest.fixture
def a_second_a_piece(monkeypatch):
    monkeypatch.setattr("bundles.trust.device.cache.TufFetcher", lambda fetch: TufFetcher(fetch, Ticking()))


def waited_for_it(lab, device):
    return device.agent.device.parts.assurance.version == getattr(lab, "dripped_version", None)


@pytest.mark.usefixtures("a_second_a_piece")
def test_attack_13_dripping_metadata(attack):
    lab, device = attack(dripping_timestamp, "TRUST_SLOW")
    assert not waited_for_it(lab, device)


@pytest.mark.usefixtures("a_second_a_piece")
def test_attack_13_dripping_metadata_has_teeth(with_teeth):
    with_teeth(dripping_timestamp, waited_for_it, {"bundles.trust.fetch.TufFetcher.check_pace": lambda fetcher: None})


def dripping_blob(lab, device):
    """The honest model, at a byte a second: it would take hours, and the update's deadline has to wait for it."""
    device.agent.door._now_s = Ticking()
    lab.assign(lab.publish("2.0.0", 6, base=lab.better))
    model = lab.better.file_with_role("model").sha256
    lab.front.answers[f"/v1/blobs/sha256/{model}"] = dripping(lab.front.blobs[model])
    device.poll()
    device.later(60)


def runs_what_dripped(lab, device):
    return device.running() == "2.0.0"


def test_attack_13_dripping_blob(attack):
    lab, device = attack(dripping_blob, "DOWNLOAD_SLOW", is_instructed=True)
    lab.front.answers.clear()
    device.later(600)
    assert device.running() == "2.0.0", "the rest of it is still taken from an honest server"


def test_attack_13_dripping_blob_has_teeth(with_teeth):
    with_teeth(dripping_blob, runs_what_dripped, {"agent.https.paced": lambda pieces, now_s: pieces})


def peak_bytes(script, lab, device):
    tracemalloc.start()
    script(lab, device)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def swelling_timestamp_measured(lab, device):
    lab.peak = peak_bytes(swelling_timestamp, lab, device)


def test_attack_13_swelling(attack):
    lab, _ = attack(swelling_timestamp_measured, "ANSWER_COMPRESSED")
    assert lab.peak < ENOUGH // 4


def test_attack_13_swelling_has_teeth(with_teeth):
    """Compressed answers are refused, and nothing would unpack them: both are taken away."""

    def has_swollen(lab, device):
        return getattr(lab, "peak", 0) >= ENOUGH // 4

    def unpacked(opened, answer, max_length):
        with opened:
            yield b""
            yield from answer.iter_bytes()

    disabled = {"agent.https.check_plain": lambda answer: None, "agent.https._until_longer": unpacked}
    with_teeth(swelling_timestamp_measured, has_swollen, disabled)
