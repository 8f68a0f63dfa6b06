import pytest

from agent.core.plan import NoVariant, bytes_to_fetch, choose_variant, files_for
from bundles.manifest import BundleFile, Manifest, Variant

FILES = [
    BundleFile("model.tflite", "1" * 64, 1000, "model"),
    BundleFile("model.onnx", "2" * 64, 2000, "model"),
    BundleFile("contract.json", "3" * 64, 30, "contract"),
    BundleFile("goldens.json", "3" * 64, 30, "goldens"),
]
MANIFEST = Manifest(
    "vision",
    "digits",
    "1.0.0",
    1,
    "prod",
    0,
    FILES,
    [
        Variant("npu", "litert", "model.tflite", hardware=["cam-b"], execution_provider="npu"),
        Variant("cam", "litert", "model.tflite", hardware=["cam-a"]),
        Variant("any", "onnxruntime", "model.onnx"),
    ],
)


@pytest.mark.parametrize(
    ("hardware", "runtimes", "providers", "chosen"),
    [
        ("cam-a", {"litert", "onnxruntime"}, {"cpu"}, "cam"),
        ("cam-b", {"litert", "onnxruntime"}, {"cpu"}, "any"),
        ("cam-b", {"litert", "onnxruntime"}, {"cpu", "npu"}, "npu"),
        ("cam-a", {"onnxruntime"}, {"cpu"}, "any"),
    ],
)
def test_the_first_variant_in_signed_order_that_fits_is_chosen(hardware, runtimes, providers, chosen):
    assert choose_variant(MANIFEST, hardware=hardware, runtimes=runtimes, providers=providers).id == chosen


def test_an_insisted_variant_is_taken_or_nothing():
    assert choose_variant(MANIFEST, hardware="cam-a", runtimes={"litert", "onnxruntime"}, insisted="any").id == "any"
    with pytest.raises(NoVariant) as caught:
        choose_variant(MANIFEST, hardware="cam-z", runtimes={"litert"}, insisted="cam")
    assert caught.value.code == "NO_VARIANT"


def test_only_the_variants_own_model_file_is_fetched():
    variant = choose_variant(MANIFEST, hardware="cam-a", runtimes={"litert"})
    assert [f.path for f in files_for(MANIFEST, variant)] == ["model.tflite", "contract.json", "goldens.json"]


def test_bytes_to_fetch_counts_each_content_once_and_what_is_held_not_at_all():
    files = files_for(MANIFEST, MANIFEST.variants[2])
    assert bytes_to_fetch(files, lambda f: 0) == 2030
    assert bytes_to_fetch(files, lambda f: 500 if f.role == "model" else 30) == 1500
