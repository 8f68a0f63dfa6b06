"""Whether a listed bundle may run here: steps 8 to 10 of the device's checks, then the manifest. Pure.

The director chooses, the team's role lists; both must say the same of one bundle, and the device's own pins and
floors must allow it. Types tell how far a bundle has come: ``DesiredModel`` is asked for, ``Authorized`` is listed
and allowed, ``Manifest`` (from ``check_manifest``) is the very content that was listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from tuf.api.metadata import TargetFile

from bundles.digest import sha256_hex
from bundles.errors import BundleRefused, TrustRefused
from bundles.manifest import CHANNEL_RANK, Channel, Manifest, parse_manifest, split_target
from bundles.trust.roles import TargetCustom, custom_of, read_custom
from bundles.wire.messages import DesiredModel


@dataclass(frozen=True)
class Authorized:
    """A bundle that the image repository lists, the director chose and this device allows.

    Attributes:
        model: ``team/model``.
        target: TUF target path.
        sha256: the bundle digest.
        length: bytes of ``bundle.json``.
        role: the role that lists it.
        custom: what the listing says of it.
    """

    model: str
    target: str
    sha256: str
    length: int
    role: str
    custom: TargetCustom


def check_target_path(model: str, wanted: DesiredModel) -> None:
    """Check that the target asked for is a plain path of that very model, before any look-up.

    TUF's pattern ``a/*/*/*`` also matches ``a/../b/bundle.json``; such a path is refused, never normalised.

    Raises:
        TrustRefused: ``TRUST_NOT_LISTED`` or ``TRUST_DIRECTOR_MISMATCH``.
    """
    try:
        team, name, _ = split_target(wanted.target)
    except BundleRefused as error:
        raise TrustRefused(
            f"{wanted.target!r} cannot be the path of a bundle.",
            code="TRUST_NOT_LISTED",
            remedy="Check who holds the director's key: no honest server sends this.",
        ) from error
    if f"{team}/{name}" != model:
        _mismatch(model, wanted, "model", f"{team}/{name}")


def check_listing(model: str, wanted: DesiredModel, listed: TargetFile, role: str) -> Authorized:
    """Check that director and image repository say the same of a bundle: length, digest, counter, model.

    Raises:
        TrustRefused: ``TRUST_DIRECTOR_MISMATCH``, or ``TRUST_NOT_LISTED`` for a listing that is no bundle's.
    """
    custom = read_custom(wanted.target, listed.custom)
    for what, asked, found in (
        ("digest", wanted.sha256, listed.hashes.get("sha256")),
        ("length", wanted.length, listed.length),
        ("release counter", wanted.counter, custom.release_counter),
        ("model", model, custom.model),
    ):
        if asked != found:
            _mismatch(model, wanted, what, found)
    return Authorized(model, wanted.target, wanted.sha256, wanted.length, role, custom)


def check_pins(bundle: Authorized, *, pin: Channel, hardware: str, floor: int) -> None:
    """Check a listed bundle against the device's own channel pin, hardware and release-counter floor.

    Raises:
        TrustRefused: ``TRUST_CHANNEL``, ``TRUST_HW`` or ``TRUST_FLOOR``.
    """
    custom = bundle.custom
    if CHANNEL_RANK.get(custom.channel, -1) < CHANNEL_RANK[pin]:
        raise TrustRefused(
            f"{bundle.target} is on channel {custom.channel}; this device takes {pin} and above.",
            code="TRUST_CHANNEL",
            remedy="Promote the bundle (sign it on the higher channel with a higher counter).",
            details={"channel": custom.channel, "pin": pin},
        )
    if custom.hardware and hardware not in custom.hardware:
        raise TrustRefused(
            f"{bundle.target} fits {', '.join(custom.hardware)}; this device is {hardware or 'of no named hardware'}.",
            code="TRUST_HW",
            remedy="Leave this device out of the rollout, or build a variant for it.",
            details={"hardware": hardware, "allowed": custom.hardware},
        )
    if custom.release_counter < floor:
        raise TrustRefused(
            f"{bundle.target} has release counter {custom.release_counter}; this device's floor is {floor}.",
            code="TRUST_FLOOR",
            remedy="To run old content again, have the team sign it as a new release with a higher counter.",
            details={"counter": custom.release_counter, "floor": floor},
        )


def check_manifest(bundle: Authorized, data: bytes) -> Manifest:
    """Check that ``data`` is the ``bundle.json`` that was listed, and that both say the same.

    Raises:
        TrustRefused: ``TRUST_LENGTH``, ``TRUST_DIGEST`` or ``TRUST_DIRECTOR_MISMATCH``.
        BundleRefused: the very bytes that were signed are no manifest this program reads.
    """
    if len(data) != bundle.length:
        raise TrustRefused(
            f"The manifest of {bundle.target} has {len(data)} bytes; {bundle.length} were signed.",
            code="TRUST_LENGTH",
            remedy="It is fetched again; if it stays so, the blob store is damaged.",
        )
    if sha256_hex(data) != bundle.sha256:
        raise TrustRefused(
            f"The manifest of {bundle.target} is not the one that was signed.",
            code="TRUST_DIGEST",
            remedy="It is fetched again; if it stays so, the blob store is damaged or hostile.",
        )
    manifest = parse_manifest(data)
    if manifest.target_path != bundle.target or custom_of(manifest) != bundle.custom:
        raise TrustRefused(
            f"The manifest of {bundle.target} says otherwise than its signed listing.",
            code="TRUST_DIRECTOR_MISMATCH",
            remedy="Sign the bundle again with the wavegate tools.",
        )
    return manifest


def _mismatch(model: str, wanted: DesiredModel, what: str, found: object) -> NoReturn:
    raise TrustRefused(
        f"The {what} the director names for {model} is not the one that is listed.",
        code="TRUST_DIRECTOR_MISMATCH",
        remedy="Check the server's director: it may only choose among listed bundles.",
        details={"what": what, "target": wanted.target, "listed": found},
    )
