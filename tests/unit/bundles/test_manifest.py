from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.errors import BundleRefused
from bundles.manifest import (
    BundleFile,
    Manifest,
    Variant,
    check_path,
    encode_manifest,
    parse_manifest,
    split_target,
)

HEX = "a" * 64
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
PARTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,20}", fullmatch=True)


def fields(**changes):
    plain = {
        "format_version": 1,
        "team": "vision",
        "model": "digits",
        "version": "1.0.0",
        "release_counter": 1,
        "channel": "prod",
        "created_ms": 1,
        "files": [{"path": "m", "sha256": HEX, "length": 1, "role": "model"}],
        "variants": [{"id": "a", "runtime": "onnxruntime", "file": "m"}],
    }
    return {**plain, **changes}


def refused(code, data):
    with pytest.raises(BundleRefused) as caught:
        parse_manifest(data if isinstance(data, bytes) else json.dumps(data).encode())
    assert caught.value.code == code
    assert caught.value.remedy


def test_unknown_fields_are_kept_silent_about():
    """Last year's agent reads next year's bundle."""
    manifest = parse_manifest(json.dumps(fields(later={"x": 1})).encode())
    assert manifest.target_path == "vision/digits/1.0.0/bundle.json"


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_unknown_format_version_is_refused(version):
    refused("BUNDLE_FORMAT_VERSION", fields(format_version=version))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"team": "a", "team": "b"}',
        b'{"files": {"x": 1, "x": 2}}',
        b'{"release_counter": ' + b"9" * 400 + b"}",
        b"\xff\xfe{}",
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b"[" * 100_000,
    ],
)
def test_attack_21_hostile_json(text):
    refused("BUNDLE_JSON", text)


def test_attack_21_unknown_critical_entry():
    refused("BUNDLE_CRITICAL", fields(critical=["encrypted-weights"]))


@pytest.mark.parametrize("kind", ["agent", "parameters"])
def test_reserved_kinds_are_refused(kind):
    """By every reader: at the build, at the control plane and on the device."""
    refused("BUNDLE_KIND", fields(kind=kind))


def test_too_large_manifest_is_refused_unread():
    refused("BUNDLE_TOO_LARGE", b" " * (256 * 1024 + 1))


@pytest.mark.parametrize(
    "path", ["../m", "/m", "a/../m", "", "a//b", ".m", "a/.", "a\\b", "a:b", "m\0", "é", "m\n", "x" * 300, "a/" * 9]
)
def test_path_that_could_escape_is_refused(path):
    refused("BUNDLE_PATH", fields(files=[{"path": path, "sha256": HEX, "length": 1, "role": "model"}]))


def test_paths_that_differ_in_case_only_are_refused():
    files = [{"path": path, "sha256": HEX, "length": 1, "role": "model"} for path in ("m", "M")]
    refused("BUNDLE_PATH", fields(files=files))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"team": "Vision"}, "BUNDLE_FIELD"),
        ({"team": ".."}, "BUNDLE_FIELD"),
        ({"model": "a/b"}, "BUNDLE_FIELD"),
        ({"version": ""}, "BUNDLE_FIELD"),
        ({"version": "1.0.0\n"}, "BUNDLE_FIELD"),
        ({"release_counter": 0}, "BUNDLE_FIELD"),
        ({"release_counter": 2**60}, "BUNDLE_JSON"),
        ({"release_counter": True}, "BUNDLE_FIELD"),
        ({"channel": "staging"}, "BUNDLE_FIELD"),
        ({"kind": "virus"}, "BUNDLE_FIELD"),
        ({"files": []}, "BUNDLE_FIELD"),
        ({"variants": []}, "BUNDLE_VARIANT"),
        ({"variants": [{"id": "a", "runtime": "r", "file": "other"}]}, "BUNDLE_VARIANT"),
        ({"variants": [{"id": "a", "runtime": "r", "file": "m"}] * 2}, "BUNDLE_VARIANT"),
        ({"files": [{"path": "m", "sha256": HEX.upper(), "length": 1, "role": "model"}]}, "BUNDLE_FIELD"),
        ({"files": [{"path": "m", "sha256": HEX, "length": -1, "role": "model"}]}, "BUNDLE_FIELD"),
    ],
)
def test_field_that_breaks_a_rule_is_refused(change, code):
    refused(code, fields(**change))


@pytest.mark.parametrize(
    "path",
    ["a/../b/bundle.json", "a/b/c/other.json", "a/b/bundle.json", "a//c/bundle.json", "A/b/c/bundle.json", "", "/"],
)
def test_target_path_is_never_normalised(path):
    with pytest.raises(BundleRefused):
        split_target(path)


manifests = st.builds(
    lambda team, model, version, counter, path, runtime, hardware: Manifest(
        team,
        model,
        version,
        counter,
        "canary",
        counter,
        files=[BundleFile(path, HEX, counter % 1000, "model")],
        variants=[Variant("v", runtime, path, hardware=hardware)],
    ),
    NAMES,
    NAMES,
    NAMES,
    st.integers(1, 2**53 - 1),
    PARTS.filter(lambda part: part.casefold() != "bundle.json"),
    st.sampled_from(["onnxruntime", "tflite"]),
    st.lists(NAMES, max_size=3),
)


@given(manifests)
def test_what_is_written_is_read_back(manifest):
    data = encode_manifest(manifest)
    assert parse_manifest(data) == manifest
    assert encode_manifest(parse_manifest(data)) == data
    assert split_target(manifest.target_path) == (manifest.team, manifest.model, manifest.version)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused_in_the_family(data):
    with pytest.raises(BundleRefused):
        parse_manifest(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(fields())), json_values)
def test_any_value_in_any_field_is_read_or_refused_in_the_family(name, value):
    try:
        manifest = parse_manifest(json.dumps(fields(**{name: value})).encode())
    except BundleRefused:
        return
    parse_manifest(msgspec.json.encode(manifest))


@given(st.text(max_size=60))
def test_any_accepted_path_stays_below_its_folder(path):
    try:
        check_path(path)
    except BundleRefused:
        return
    parts = path.split("/")
    assert not path.startswith("/")
    assert "\\" not in path
    assert not {"", ".", ".."} & set(parts)


@given(st.lists(st.sampled_from(["..", ".", "", "a", "bundle.json", "%2e", "*", "A"]), max_size=6).map("/".join))
def test_any_accepted_target_has_three_plain_names(path):
    try:
        names = split_target(path)
    except BundleRefused:
        return
    assert "/".join([*names, "bundle.json"]) == path
    assert not {"", ".", ".."} & set(names)
