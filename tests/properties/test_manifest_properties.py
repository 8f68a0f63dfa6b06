"""``bundle.json`` in all shapes: what is accepted reads back the same, and every refusal is a ``BundleRefused``."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bundles.errors import BundleRefused
from bundles.manifest import (
    MAX_DEPTH,
    MAX_INT,
    MAX_MANIFEST_BYTES,
    BundleFile,
    HealthCheck,
    Lineage,
    Manifest,
    Variant,
    encode_manifest,
    parse_manifest,
)

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
parts = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,20}", fullmatch=True)
text = st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INT, MAX_INT) | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def manifests(draw):
    """Draw any manifest the format allows."""
    # No path is another's folder, and none differs in case only: each begins with its own number.
    paths = [
        f"{n}{draw(st.lists(parts, min_size=1, max_size=5).map('/'.join))}" for n in range(draw(st.integers(1, 4)))
    ]
    roles = st.sampled_from(["contract", "baseline", "goldens", "model_card", "licence", "other"])
    files = [
        BundleFile(path, draw(digests), draw(st.integers(0, 4 * 1024**3)), "model" if n == 0 else draw(roles))
        for n, path in enumerate(paths)
    ]
    ids = draw(st.lists(text, min_size=1, max_size=3, unique=True))
    variants = [
        Variant(each, draw(text), paths[0], draw(st.lists(text, max_size=2)), latency_p95_ms=draw(numbers))
        for each in ids
    ]
    return Manifest(
        *(draw(names), draw(names), draw(names), draw(st.integers(1, MAX_INT))),
        channel=draw(st.sampled_from(["dev", "canary", "prod"])),
        created_ms=draw(st.integers(0, MAX_INT)),
        files=files,
        variants=variants,
        health_check=HealthCheck(draw(st.sampled_from(["top1", "allclose"])), draw(numbers)),
        labels=draw(st.lists(text, max_size=3)),
        parameters=draw(st.dictionaries(text, plain, max_size=2)),
        lineage=Lineage(training_run=draw(text)),
        licence=draw(text),
        requires=draw(st.lists(text, max_size=2)),
    )


HONEST = Manifest(
    *("vision", "digits", "1.0.0", 1, "prod", 1),
    files=[BundleFile("m", "a" * 64, 1, "model")],
    variants=[Variant("a", "onnxruntime", "m", hardware=["cam-a"], latency_p95_ms=2.5)],
    labels=["zero"],
    parameters={"threshold": {"minimum": 0.5, "maximum": 3}},
    lineage=Lineage("run", "b" * 64),
)
DOCUMENT = json.loads(encode_manifest(HONEST))


def objects(tree):
    """Return every JSON object in ``tree``."""
    found = [tree] if isinstance(tree, dict) else []
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        found += objects(child)
    return found


def copied():
    return json.loads(json.dumps(DOCUMENT))


def code_of(data):
    with pytest.raises(BundleRefused) as caught:
        parse_manifest(data)
    assert caught.value.remedy
    return caught.value.code


@given(manifests())
def test_a_manifest_is_read_as_it_was_written(manifest):
    data = encode_manifest(manifest)
    assert parse_manifest(data) == manifest
    assert encode_manifest(parse_manifest(data)) == data, "the digest is of these bytes"


@given(st.data())
def test_fields_nobody_knows_are_ignored_wherever_they_stand(data):
    document = copied()
    holders = [holder for holder in objects(document) if holder not in objects(document["parameters"])]
    for holder in data.draw(st.lists(st.sampled_from(holders), min_size=1, max_size=3)):
        holder["x-" + data.draw(text)] = data.draw(plain)
    assert parse_manifest(json.dumps(document).encode()) == HONEST


@given(st.data())
def test_a_key_that_stands_twice_is_refused_wherever_it_stands(data):
    document = copied()
    holder = data.draw(st.sampled_from([holder for holder in objects(document) if holder]))
    key = data.draw(st.sampled_from(sorted(holder)))
    holder["\0twin"] = data.draw(st.sampled_from([holder[key], 1, "x"]))
    twice = json.dumps(document).replace(json.dumps("\0twin"), json.dumps(key))
    assert code_of(twice.encode()) == "BUNDLE_JSON"


@given(st.data())
@example(None)
def test_numbers_that_are_none_or_that_no_reader_agrees_on_are_refused(data):
    tokens = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 18, "-" + "9" * 40, "1" + "0" * 5000]
    places = ["release_counter", "created_ms", "x-unknown", "parameters"]
    for token in tokens if data is None else [data.draw(st.sampled_from(tokens))]:
        for place in places if data is None else [data.draw(st.sampled_from(places))]:
            document = {**copied(), place: "\0here"}
            assert code_of(json.dumps(document).replace(json.dumps("\0here"), token).encode()) == "BUNDLE_JSON"


@given(st.integers(1, 400), st.booleans())
def test_nesting_is_bounded_and_never_exhausts_the_reader(depth, is_object):
    opening, closing = ('{"a":', "}") if is_object else ("[", "]")
    inner = opening * depth + "1" + closing * depth
    data = json.dumps({**copied(), "x-unknown": "\0here"}).replace(json.dumps("\0here"), inner).encode()
    if depth < MAX_DEPTH:
        assert parse_manifest(data) == HONEST
    else:
        assert code_of(data) == "BUNDLE_JSON"


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_hundred_thousand_levels_are_refused_too(opening):
    assert code_of(opening.encode() * (MAX_MANIFEST_BYTES // len(opening))) == "BUNDLE_JSON"


@given(st.lists(text, min_size=1, max_size=3))
def test_what_must_be_understood_and_is_not_refuses_the_bundle(critical):
    assert code_of(json.dumps({**copied(), "critical": critical}).encode()) == "BUNDLE_CRITICAL"


@given(st.sampled_from(["labels", "licence", "x-unknown", "key"]), st.integers(0xD800, 0xDFFF))
def test_half_a_surrogate_pair_is_no_text(place, code_point):
    half = chr(code_point)
    document = {**copied(), half: 1} if place == "key" else {**copied(), place: [half] if place == "labels" else half}
    assert code_of(json.dumps(document).encode()) == "BUNDLE_JSON"


@given(st.lists(parts, min_size=1, max_size=4), st.lists(parts, min_size=1, max_size=3), st.booleans())
def test_no_file_is_another_files_folder(folder, below, is_upper):
    inner = "/".join([*folder, *below])
    paths = ["/".join(folder), inner.upper() if is_upper else inner]
    files = [{"path": path, "sha256": "a" * 64, "length": 1, "role": "model"} for path in paths]
    document = {**copied(), "files": files, "variants": [{**DOCUMENT["variants"][0], "file": paths[0]}]}
    assert code_of(json.dumps(document).encode()) == "BUNDLE_PATH"


@given(st.data())
def test_any_damage_is_refused_or_harmless(data):
    honest = bytearray(encode_manifest(HONEST))
    for at in data.draw(st.lists(st.integers(0, len(honest) - 1), min_size=1, max_size=4)):
        honest[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        read = parse_manifest(bytes(honest))
    except BundleRefused:
        return
    assert parse_manifest(encode_manifest(read)) == read


@given(plain | st.binary(max_size=200))
def test_anything_else_is_refused(document):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    assert code_of(data).startswith("BUNDLE_")
