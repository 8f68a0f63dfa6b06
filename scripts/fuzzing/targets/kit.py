"""Offline kits, which come on a stick: nothing is installed that people did not sign, and no floor falls.

The first byte of an input says who made it: even, a stranger; odd, a thief of the kit keys, for whom ``kit.json`` is
signed again whatever it says.
"""

from __future__ import annotations

import functools
import io
import json
import random
import shutil
import tempfile
import zipfile
from pathlib import Path

from bundles.digest import sha256_hex
from bundles.errors import Refused
from bundles.trust.device.kit import Kit, current_metadata, make_kit
from bundles.wire.codec import decode_signed
from fuzzing.target import Target, require, unless_refused
from fuzzing.targets.device import check_floors, home
from fuzzing.targets.repository import KEYS, MODEL, NOW_MS
from fuzzing.zips import mutate_zip, write_zip

DOCUMENT = "kit.json"


@functools.cache
def _honest() -> bytes:
    world = home().world
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        blobs: dict[str, Path] = {}
        manifest = world.manifests[world.wanted.sha256]
        for content in (manifest, world.wanted.target.split("/")[2].encode()):
            path = folder / sha256_hex(content)
            path.write_bytes(content)
            blobs[path.name] = path
        make_kit(
            folder / "kit.zip",
            metadata=current_metadata(home().folder / "server", [world.wanted.target]),
            desired={MODEL: world.wanted},
            blobs=blobs,
            version=4,
            signers=KEYS["kit"],
            now_ms=NOW_MS,
        )
        return (folder / "kit.zip").read_bytes()


def samples() -> dict[str, bytes]:
    """Return one kit, as either kind of input."""
    return {"stranger": b"\x00" + _honest(), "thief": b"\x01" + _honest()}


def try_one(data: bytes) -> None:
    """Open the kit on a device, and read what it would install."""
    has_keys, kit = bool(data[:1] and data[0] % 2), data[1:]
    if has_keys:
        kit = _signed_again(kit)
    folder = home().device()
    path = folder / "kit.zip"
    path.write_bytes(kit)
    try:
        with home().store(folder, {}) as store:
            before = store.floors
            opened = unless_refused(lambda: store.open_kit(path, NOW_MS))
            check_floors(before, store.floors)
            if opened is None:
                return
            require(has_keys or _same_document(kit), "a kit that nobody signed")
            wanted = home().world.wanted
            listed = unless_refused(lambda: opened.look_up(wanted.target)[0])
            require(listed is None or listed.hashes["sha256"] == wanted.sha256, "a listing that no team signed")
            for digest in opened.document.blobs:
                content = unless_refused(functools.partial(_read, opened, digest))
                require(content is None or sha256_hex(content) == digest, "a blob of another digest")
    finally:
        shutil.rmtree(folder)


def _read(kit: Kit, digest: str) -> bytes:
    return b"".join(kit.blob(digest))


def _same_document(kit: bytes) -> bool:
    return _signed_part(kit) == _signed_part(_honest())


def _signed_part(kit: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(kit)) as archive:
        return bytes(decode_signed(archive.read(DOCUMENT)).signed)


def _signed_again(kit: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(kit)) as archive:
            entries = [(info, archive.read(info)) for info in archive.infolist()]
        at = next(n for n, (info, _) in enumerate(entries) if info.filename == DOCUMENT)
        signed = bytes(decode_signed(entries[at][1]).signed)
        made = json.dumps([signer.sign(signed).to_dict() for signer in KEYS["kit"]]).encode()
        entries[at] = (entries[at][0], b'{"signed":' + signed + b',"signatures":' + made + b"}")
        return write_zip(entries)
    except (Refused, StopIteration):
        return kit
    except Exception:  # not a zip any more, in one of zipfile's many ways of saying so
        return kit


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage or forge the archive."""
    return data[:1] + mutate_zip(data[1:], rng, first=DOCUMENT)


TARGET = Target("kit", ("bundles.trust.device.kit", "bundles.trust.device.kitfile"), samples, try_one, mutate)
