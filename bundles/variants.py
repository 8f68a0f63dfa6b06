"""Which variant of a bundle a device takes: the first it can run, in the manifest's signed order."""

from __future__ import annotations

from collections.abc import Sequence

from bundles.manifest import Manifest, Variant


def pick_variant(manifest: Manifest, hardware: str, runtimes: Sequence[str], wanted: str = "") -> Variant | None:
    """Return the first variant that fits, or None (the device then reports ``no_variant``; that is no failure).

    Args:
        manifest: a verified manifest.
        hardware: the device's hardware class.
        runtimes: runtimes that work on the device; their order does not matter, the manifest's does.
        wanted: a variant id the control plane insists on; empty = any.
    """
    for variant in manifest.variants:
        fits = (not variant.hardware or hardware in variant.hardware) and variant.runtime in runtimes
        if fits and wanted in ("", variant.id):
            return variant
    return None
