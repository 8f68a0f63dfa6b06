"""Trust metadata, as a device fetches it and as a server is asked to publish it.

An input is a line and a body. The line is a file's name after a mark:

=========  ==========================================================================================
``name``   the body is served to a device in place of the honest file: an attacker without keys
``!name``  the body is the signed part, signed with every key of its role: an attacker with those keys
``+name``  the body is offered for publishing
``*name``  the body is the signed part, signed with every key of its role and offered for publishing
=========  ==========================================================================================
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import msgspec
from securesystemslib.formats import encode_canonical

from bundles.errors import WavegateError
from bundles.trust.device.client import TrustStore
from bundles.trust.roles import split_file
from fuzzing.mutation import mutate_json
from fuzzing.target import Target, require
from fuzzing.targets.device import check_floors, home
from fuzzing.targets.repository import KEYS, MODEL, NOW_MS, World

_THIEF, _PUBLISH, _PUBLISH_SIGNED = b"!", b"+", b"*"
_ONLINE = ("timestamp", "snapshot")
_KEEP_TARGET = "vision/digits/1.0.0/bundle.json"


def samples() -> dict[str, bytes]:
    """Return every file served or to be published, as bytes and as what its signatures are over."""
    world = home().world
    found: dict[str, bytes] = {}
    for marks, files in (((b"", _THIEF), world.now), ((_PUBLISH, _PUBLISH_SIGNED), world.following)):
        for name, data in files.items():
            if name in world.before and name != "1.root.json":
                continue  # a device that has seen it does not ask for it again
            found[f"{marks[0].decode()}{name}"] = b"%s%s\n%s" % (marks[0], name.encode(), data)
            signed = json.dumps(json.loads(data)["signed"]).encode()
            found[f"{marks[1].decode()}{name}"] = b"%s%s\n%s" % (marks[1], name.encode(), signed)
    root = {**json.loads(world.now["1.root.json"])["signed"], "version": 2}
    for mark in (_THIEF, _PUBLISH_SIGNED):
        found[f"{mark.decode()}2.root.json"] = b"%s2.root.json\n%s" % (mark, json.dumps(root).encode())
    return found


def try_one(data: bytes) -> None:
    """Serve the file to a device, or offer it to a server."""
    line, _, body = data.partition(b"\n")
    mark, name = (line[:1], line[1:]) if line[:1] in (_THIEF, _PUBLISH, _PUBLISH_SIGNED) else (b"", line)
    file = name.decode("utf-8", "replace")
    if mark in (_THIEF, _PUBLISH_SIGNED):
        body = _sign(split_file(file)[0], body)
    if mark in (_PUBLISH, _PUBLISH_SIGNED):
        _try_publishing(file, body, has_keys=mark == _PUBLISH_SIGNED)
    else:
        _try_device(file, body, has_keys=mark == _THIEF)


def _try_device(file: str, body: bytes, *, has_keys: bool) -> None:
    here, world = home(), home().world
    served = {**world.now, file: body}
    folder = here.device()
    try:
        with here.store(folder, served) as store:
            before = store.floors
            try:
                store.refresh(NOW_MS)
                store.accept_desired(world.desired, NOW_MS)
                bundle = store.authorize(MODEL, world.wanted, hardware="cam-a", now_ms=NOW_MS)
                require(bundle.sha256 == world.wanted.sha256, "another bundle than the one listed")
            except WavegateError as refusal:
                str(refusal).encode()
            check_floors(before, store.floors)
            if not has_keys or split_file(file)[0] in _ONLINE:
                _check_unlisted(store, world)
        if not has_keys:
            _check_unharmed(folder)
    finally:
        shutil.rmtree(folder)


def _check_unlisted(store: TrustStore, world: World) -> None:
    """Nobody without an offline key gets a bundle authorised that its team did not list."""
    invented = msgspec.structs.replace(world.wanted, sha256="f" * 64)
    for wanted in (invented, msgspec.structs.replace(world.wanted, target=_KEEP_TARGET)):
        try:
            store.authorize(MODEL, wanted, hardware="cam-a", now_ms=NOW_MS)
        except WavegateError:
            continue
        require(False, "a bundle that no team listed like this")


def _check_unharmed(folder: Path) -> None:
    """Whatever an attacker without keys served: the honest state is accepted afterwards."""
    world = home().world
    with home().store(folder, world.now) as store:
        store.refresh(NOW_MS)
        store.accept_desired(world.desired, NOW_MS)
        store.authorize(MODEL, world.wanted, hardware="cam-a", now_ms=NOW_MS)


def _try_publishing(file: str, body: bytes, *, has_keys: bool) -> None:
    here = home()
    server = here.publisher()
    before = server.timestamp_version, server.listed()
    try:
        published = server.publish({file: body})
    except WavegateError as refusal:
        str(refusal).encode()
        require((server.timestamp_version, server.listed()) == before, "what was refused is served")
        return
    if published.names:
        here.forget_publisher()
        honest = here.world.following.get(file)
        same = honest is not None and json.loads(honest)["signed"] == json.loads(body)["signed"]
        require(has_keys or same, "what nobody signed is published")


def _sign(role: str, signed: bytes) -> bytes:
    """Return metadata with ``signed`` and the signatures of every key of ``role``, whatever it says."""
    try:
        payload = (encode_canonical(json.loads(signed)) or "").encode()  # what TUF signs
    except Exception:  # it has no canonical form; then nothing can be signed
        payload = signed
    made = [signer.sign(payload).to_dict() for signer in KEYS.get(role, [])]
    return b'{"signatures":' + json.dumps(made).encode() + b',"signed":' + (signed or b"null") + b"}"


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change the body, and seldom the line."""
    line, _, body = data.partition(b"\n")
    if rng.random() < 0.05:
        names = [sample.partition(b"\n")[0] for sample in samples().values()]
        line = rng.choice((*names, line[1:], _PUBLISH + line, b"+../x.json", b"+1.team-x.json", b"+0.targets.json"))
    return line + b"\n" + mutate_json(body, rng)


TARGET = Target(
    "metadata",
    (
        "bundles.trust.device.authorize",
        "bundles.trust.device.cache",
        "bundles.trust.device.checks",
        "bundles.trust.device.client",
        "bundles.trust.publishing.event",
        "bundles.trust.refusals",
        "bundles.trust.revocation",
        "bundles.trust.roles",
    ),
    samples,
    try_one,
    mutate,
)
