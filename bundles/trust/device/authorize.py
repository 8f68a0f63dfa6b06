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
from bundles.manifest import CHANNEL_RANK, MAX_MANIFEST_BYTES, Channel, Manifest, parse_manifest, split_target
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
        TrustRefused: ``TRUST_DIRECTOR_MISMATCH``, ``TRUST_LENGTH``, or ``TRUST_NOT_LISTED`` for a listing that is no
            bundle's.
    """
    custom = read_custom(wanted.target, listed.custom)
    check_agreement(model, wanted, listed, custom)
    check_listed_length(wanted.target, listed.length)
    return Authorized(model, wanted.target, wanted.sha256, wanted.length, role, custom)


def check_agreement(model: str, wanted: DesiredModel, listed: TargetFile, custom: TargetCustom) -> None:
    """Check that what the director asks for is what the image repository lists.

    Raises:
        TrustRefused: ``TRUST_DIRECTOR_MISMATCH``.
    """
    for what, asked, found in (
        ("digest", wanted.sha256, listed.hashes.get("sha256")),
        ("length", wanted.length, listed.length),
        ("release counter", wanted.counter, custom.release_counter),
        ("model", model, custom.model),
    ):
        if asked != found:
            _mismatch(model, wanted, what, found)


def check_listed_length(target: str, length: int) -> None:
    """Check, before a byte of it is fetched, that what is listed is no longer than a manifest may be.

    Raises:
        TrustRefused: ``TRUST_LENGTH``.
    """
    if length > MAX_MANIFEST_BYTES:
        raise TrustRefused(
            f"The manifest of {target} is listed with {length} bytes; {MAX_MANIFEST_BYTES} is the limit.",
            code="TRUST_LENGTH",
            remedy="Sign the bundle again with the wavegate tools.",
        )


def check_pins(bundle: Authorized, *, pin: Channel, hardware: str, floor: int) -> None:
    """Check a listed bundle against the device's own channel pin, hardware and release-counter floor.

    Raises:
        TrustRefused: ``TRUST_CHANNEL``, ``TRUST_HW`` or ``TRUST_FLOOR``.
    """
    check_channel(bundle, pin)
    check_hardware(bundle, hardware)
    check_floor(bundle, floor)


def check_channel(bundle: Authorized, pin: Channel) -> None:
    """Check that a bundle's channel is at or above the device's pin.

    Raises:
        TrustRefused: ``TRUST_CHANNEL``.
    """
    channel = bundle.custom.channel
    if CHANNEL_RANK.get(channel, -1) < CHANNEL_RANK[pin]:
        raise TrustRefused(
            f"{bundle.target} is on channel {channel}; this device takes {pin} and above.",
            code="TRUST_CHANNEL",
            remedy="Promote the bundle (sign it on the higher channel with a higher counter).",
            details={"channel": channel, "pin": pin},
        )


def check_hardware(bundle: Authorized, hardware: str) -> None:
    """Check that a variant of the bundle fits the device's hardware class.

    Raises:
        TrustRefused: ``TRUST_HW``.
    """
    allowed = bundle.custom.hardware
    if allowed and hardware not in allowed:
        raise TrustRefused(
            f"{bundle.target} fits {', '.join(allowed)}; this device is {hardware or 'of no named hardware'}.",
            code="TRUST_HW",
            remedy="Leave this device out of the rollout, or build a variant for it.",
            details={"hardware": hardware, "allowed": allowed},
        )


def check_floor(bundle: Authorized, floor: int) -> None:
    """Check that a bundle's release counter is not below the device's floor.

    Raises:
        TrustRefused: ``TRUST_FLOOR``.
    """
    counter = bundle.custom.release_counter
    if counter < floor:
        raise TrustRefused(
            f"{bundle.target} has release counter {counter}; this device's floor is {floor}.",
            code="TRUST_FLOOR",
            remedy="To run old content again, have the team sign it as a new release with a higher counter.",
            details={"counter": counter, "floor": floor},
        )


def check_manifest(bundle: Authorized, data: bytes) -> Manifest:
    """Check that ``data`` is the ``bundle.json`` that was listed, and that both say the same.

    Raises:
        TrustRefused: ``TRUST_LENGTH``, ``TRUST_DIGEST`` or ``TRUST_DIRECTOR_MISMATCH``.
        BundleRefused: the very bytes that were signed are no manifest this program reads.
    """
    check_manifest_length(bundle, len(data))
    check_manifest_digest(bundle, sha256_hex(data))
    manifest = parse_manifest(data)
    check_manifest_says(bundle, manifest)
    return manifest


def check_manifest_length(bundle: Authorized, length: int) -> None:
    """Check the length of ``bundle.json``.

    Raises:
        TrustRefused: ``TRUST_LENGTH``.
    """
    if length != bundle.length:
        raise TrustRefused(
            f"The manifest of {bundle.target} has {length} bytes; {bundle.length} were signed.",
            code="TRUST_LENGTH",
            remedy="It is fetched again; if it stays so, the blob store is damaged.",
        )


def check_manifest_digest(bundle: Authorized, sha256: str) -> None:
    """Check the digest of ``bundle.json``.

    Raises:
        TrustRefused: ``TRUST_DIGEST``.
    """
    if sha256 != bundle.sha256:
        raise TrustRefused(
            f"The manifest of {bundle.target} is not the one that was signed.",
            code="TRUST_DIGEST",
            remedy="It is fetched again; if it stays so, the blob store is damaged or hostile.",
        )


def check_manifest_says(bundle: Authorized, manifest: Manifest) -> None:
    """Check that a manifest says of itself what its listing says of it.

    Raises:
        TrustRefused: ``TRUST_DIRECTOR_MISMATCH``.
    """
    if manifest.target_path != bundle.target or custom_of(manifest) != bundle.custom:
        raise TrustRefused(
            f"The manifest of {bundle.target} says otherwise than its signed listing.",
            code="TRUST_DIRECTOR_MISMATCH",
            remedy="Sign the bundle again with the wavegate tools.",
        )


def _mismatch(model: str, wanted: DesiredModel, what: str, found: object) -> NoReturn:
    raise TrustRefused(
        f"The {what} the director names for {model} is not the one that is listed.",
        code="TRUST_DIRECTOR_MISMATCH",
        remedy="Check the server's director: it may only choose among listed bundles.",
        details={"what": what, "target": wanted.target, "listed": found},
    )
