"""What a device takes of a bundle: its variant, the files that go with it, the bytes still to fetch. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection

from bundles.errors import Refused
from bundles.manifest import BundleFile, Manifest, Variant


class NoVariant(Refused):
    """No variant of the bundle runs on this device (``NO_VARIANT``); the device is not to blame, nor the model."""

    default_code = "NO_VARIANT"


def choose_variant(
    manifest: Manifest,
    *,
    hardware: str,
    runtimes: Collection[str],
    insisted: str = "",
    providers: Collection[str] = ("cpu",),
) -> Variant:
    """Return the first variant, in the manifest's signed order, that this device can run.

    Args:
        manifest: the bundle.
        hardware: this device's hardware name; a variant that names none fits any.
        runtimes: names of usable runtimes (the probe ran a model on each).
        insisted: variant id the control plane insists on; empty = free choice.
        providers: usable execution providers, ``cpu`` among them.

    Raises:
        NoVariant: none fits.
    """
    for variant in manifest.variants:
        if insisted and variant.id != insisted:
            continue
        fits_hardware = not variant.hardware or hardware in variant.hardware
        if fits_hardware and variant.runtime in runtimes and variant.execution_provider in providers:
            return variant
    raise NoVariant(
        f"No variant of {manifest.model_key} {manifest.version} runs on {hardware or 'this hardware'} "
        f"with {', '.join(sorted(runtimes)) or 'no runtime'}.",
        remedy="Publish a variant for this hardware, or install one of the runtimes the bundle names.",
        details={"hardware": hardware, "runtimes": sorted(runtimes), "variants": [v.id for v in manifest.variants]},
    )


def files_for(manifest: Manifest, variant: Variant) -> tuple[BundleFile, ...]:
    """Return the files this device needs: the variant's model file and every file that is no model."""
    return tuple(entry for entry in manifest.files if entry.role != "model" or entry.path == variant.file)


def bytes_to_fetch(files: Collection[BundleFile], held_bytes: Callable[[BundleFile], int]) -> int:
    """Return how many bytes are still to come.

    Args:
        files: from ``files_for``.
        held_bytes: how many bytes of a file are on disk already (all of them, or a part).
    """
    missing = {entry.sha256: max(0, entry.length - held_bytes(entry)) for entry in files}
    return sum(missing.values())
