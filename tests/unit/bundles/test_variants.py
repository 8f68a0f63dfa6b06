from __future__ import annotations

import pytest

from bundles.manifest import BundleFile, Manifest, Variant
from bundles.variants import pick_variant

MANIFEST = Manifest(
    "t",
    "m",
    "1",
    1,
    "prod",
    1,
    files=[BundleFile("m", "a" * 64, 1, "model")],
    variants=[
        Variant("npu", "litert", "m", hardware=["cam-a"]),
        Variant("any-tflite", "tflite", "m"),
        Variant("any-onnx", "onnxruntime", "m"),
    ],
)


@pytest.mark.parametrize(
    ("hardware", "runtimes", "wanted", "chosen"),
    [
        ("cam-a", ["onnxruntime", "tflite", "litert"], "", "npu"),
        ("cam-b", ["litert", "onnxruntime", "tflite"], "", "any-tflite"),
        ("cam-a", ["onnxruntime"], "", "any-onnx"),
        ("cam-a", ["litert", "onnxruntime"], "any-onnx", "any-onnx"),
        ("cam-b", ["litert"], "", None),
        ("cam-b", ["litert", "tflite"], "npu", None),
        ("", [], "", None),
    ],
)
def test_first_variant_that_fits_in_the_signed_order(hardware, runtimes, wanted, chosen):
    found = pick_variant(MANIFEST, hardware, runtimes, wanted)
    assert (found.id if found else None) == chosen
