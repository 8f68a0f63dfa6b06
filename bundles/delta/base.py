"""Which file of an older release a new file may be built out of: the same answer on the device and for people. Pure."""

from __future__ import annotations

from bundles.manifest import BundleFile, Manifest


def base_for(entry: BundleFile, new: Manifest, old: Manifest) -> BundleFile | None:
    """Return the file of ``old`` that resembles ``entry`` of ``new`` most, None where nothing does.

    The one at the same path, unless it is the same content; otherwise, for a model file (whose name often carries its
    version), the model file of the variant with the same id, or else of the first one for the same runtime and
    quantization. What it is worth is found out by trying: a poor base makes a large delta, which nobody offers.
    """
    same = next((file for file in old.files if file.path == entry.path), None)
    if same is not None:
        return same if same.sha256 != entry.sha256 else None
    variant = next((variant for variant in new.variants if variant.file == entry.path), None)
    if variant is None:
        return None
    ranked = sorted(
        (other for other in old.variants if other.runtime == variant.runtime),
        key=lambda other: (other.id != variant.id, other.quantization != variant.quantization),
    )
    path = next((other.file for other in ranked), None)
    found = next((file for file in old.files if file.path == path), None)
    return found if found is not None and found.sha256 != entry.sha256 else None
