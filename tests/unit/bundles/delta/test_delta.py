"""Deltas: what they weigh, and that no delta, however made, makes another file than the one that was signed."""

from __future__ import annotations

import bz2
import io
import struct
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles.delta import form, lanes
from bundles.delta.apply import apply_delta
from bundles.delta.files import opened
from bundles.delta.form import PREFIX, SUB_BZ2, Header, Op, Side
from bundles.delta.make import make_delta
from bundles.digest import canonical_json, sha256_hex
from bundles.errors import BundleRefused

ENOUGH = 1 << 40
WEIGHTS = 1_200_000


def weights(rng, count=WEIGHTS):
    """int8 weights with the spread of a trained layer: 6.7 bits of entropy, so hardly compressible by themselves."""
    return np.clip(np.round(rng.normal(0, 25.2, count)), -127, 127).astype(np.int8)


def moved(rng, base, share):
    return (base.astype(np.int16) + (rng.random(len(base)) < share) * rng.choice([-1, 1], len(base))).astype(np.int8)


def delta(old: bytes, new: bytes, **options) -> bytes:
    sink = io.BytesIO()
    assert make_delta(old, new, sink, **{"max_bytes": ENOUGH, **options}) is not None
    return sink.getvalue()


def apply(pieces, old: bytes, new: bytes, write) -> None:
    """Apply towards the signed digest of ``new``; tiny files cannot be told in 60 % of their bytes: any size goes."""
    apply_delta(pieces, io.BytesIO(old), write, sha256=sha256_hex(new), length=len(new), max_bytes=ENOUGH)


def applied(data: bytes, old: bytes, new: bytes, piece: int = 1 << 16) -> bytes:
    made = bytearray()
    apply((data[at : at + piece] for at in range(0, len(data), piece)), old, new, made.extend)
    return bytes(made)


def refused(data: bytes, old: bytes, new: bytes) -> str:
    """Return the code, after checking that not one byte too many was written on the way."""
    written = 0

    def write(piece: bytes) -> None:
        nonlocal written
        written += len(piece)
        assert written <= len(new)

    with pytest.raises(BundleRefused) as caught:
        apply(iter([data]), old, new, write)
    return caught.value.code


# --- what they weigh ---


@pytest.mark.parametrize(("share", "bound"), [(0.01, 0.0135), (0.10, 0.0900), (1.00, 0.1600)])
def test_weights_that_moved_by_one_cost_what_the_design_page_measured(share, bound):
    rng = np.random.default_rng(7)
    base = weights(rng)
    old, new = base.tobytes(), moved(rng, base, share).tobytes()
    data = delta(old, new)
    assert len(data) <= bound * len(new), f"{len(data) / len(new):.4f} of the new size; the page says less"
    assert applied(data, old, new) == new


def test_tensors_that_moved_are_found_although_every_byte_of_them_changed():
    rng = np.random.default_rng(8)
    base = weights(rng)
    old, shaken = base.tobytes(), moved(rng, base, 1.0).tobytes()
    new = shaken[:300_000] + b"a new name" * 77 + shaken[300_000:700_001] + shaken[700_100:]
    data = delta(old, new)
    assert len(data) < 0.22 * len(new)
    assert applied(data, old, new) == new


def test_a_shift_the_caller_knows_of_is_used():
    rng = np.random.default_rng(9)
    weighed = weights(rng, 3 << 20)
    shaken = moved(rng, weighed, 1.0).tobytes()  # no anchor is left
    base, new = weighed.tobytes(), shaken[2 << 20 :] + shaken[: 2 << 20]  # further away than a search looks
    assert len(delta(base, new)) > 0.5 * len(new)
    assert len(delta(base, new, shifts=[2 << 20, -(1 << 20)])) < 0.16 * len(new)


def test_a_delta_over_the_bound_is_not_made_and_not_taken():
    rng = np.random.default_rng(10)
    old, new = rng.bytes(100_000), rng.bytes(100_000)
    assert make_delta(old, new, io.BytesIO()) is None, "nothing in common"
    assert make_delta(old, old[:99_000] + new[:1000], io.BytesIO()) is not None
    with pytest.raises(BundleRefused) as caught:
        apply_delta([delta(old, new)], io.BytesIO(old), len, sha256=sha256_hex(new), length=len(new))
    assert caught.value.code == "DELTA_FORM"


def test_a_file_gives_the_same_delta_as_its_bytes(tmp_path):
    rng = np.random.default_rng(11)
    old = weights(rng, 100_001)
    new = moved(rng, old, 0.1)
    (tmp_path / "old").write_bytes(old.tobytes())
    (tmp_path / "new").write_bytes(new.tobytes())
    (tmp_path / "empty").write_bytes(b"")
    sink = io.BytesIO()
    with opened(tmp_path / "old") as left, opened(tmp_path / "new") as right:
        make_delta(left, right, sink)
    assert sink.getvalue() == delta(old.tobytes(), new.tobytes())
    with opened(tmp_path / "empty") as nothing:
        assert (len(nothing), nothing[0:5]) == (0, b"")


def test_a_file_that_shrinks_is_an_error_and_no_shorter_base(tmp_path):
    path = tmp_path / "base"
    path.write_bytes(b"x" * 1000)
    with opened(path) as data:
        path.write_bytes(b"x" * 10)
        with pytest.raises(OSError, match="shorter"):
            data[0:1000]


def test_tensors_that_changed_places_are_found_however_far_they_went():
    rng = np.random.default_rng(13)
    base = weights(rng, 3 << 20)
    old, shaken = base.tobytes(), moved(rng, base, 0.1).tobytes()
    new = shaken[2 << 20 :] + shaken[: 1 << 20] + b"odd" + shaken[1 << 20 : 2 << 20]
    data = delta(old, new)
    assert len(data) < 0.12 * len(new)
    assert applied(data, old, new) == new


def test_applying_a_large_delta_needs_little_memory():
    rng = np.random.default_rng(12)
    base = weights(rng, 12 << 20)
    old, new = base.tobytes(), moved(rng, base, 0.01).tobytes()
    data, total = delta(old, new), [0]
    source, digest = io.BytesIO(old), sha256_hex(new)

    def count(piece: bytes) -> None:
        total[0] += len(piece)

    tracemalloc.start()
    try:
        pieces = (data[at : at + (1 << 16)] for at in range(0, len(data), 1 << 16))
        apply_delta(pieces, source, count, sha256=digest, length=len(new))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # bzip2's own 4 MiB are allocated by its library, unseen here.
    assert total == [len(new)]
    assert peak < 4 << 20


# --- round trips ---

blocks = st.binary(max_size=300) | st.integers(0, 255).map(lambda byte: bytes([byte]) * 5000)


@st.composite
def pairs(draw):
    """Two files with something in common: pieces of the old one, some changed, cut, repeated or swapped."""
    old = b"".join(draw(st.lists(blocks, max_size=5)))
    pieces = []
    for _ in range(draw(st.integers(0, 5))):
        if draw(st.booleans()) or not old:
            pieces.append(draw(blocks))
        else:
            start = draw(st.integers(0, len(old) - 1))
            piece = bytearray(old[start : start + draw(st.integers(1, 6000))])
            for at in draw(st.lists(st.integers(0, len(piece) - 1), max_size=4)):
                piece[at] ^= draw(st.integers(1, 255))
            pieces.append(bytes(piece))
    return old, b"".join(pieces)


@settings(max_examples=120, deadline=None)
@given(pairs(), st.integers(1, 4000), st.lists(st.integers(-9000, 9000), max_size=3))
def test_what_was_made_makes_the_file_again(pair, piece, shifts):
    old, new = pair
    assert applied(delta(old, new, shifts=shifts), old, new, piece) == new


@settings(max_examples=300, deadline=None)
@given(pairs(), st.data())
def test_a_mutated_delta_is_refused_or_makes_exactly_the_signed_file(pair, data):
    old, new = pair
    bad = bytearray(delta(old, new))
    for _ in range(data.draw(st.integers(1, 4), label="mutations")):
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "double"]), label="kind")
        at = data.draw(st.integers(0, max(0, len(bad) - 1)), label="at")
        if kind == "flip" and bad:
            bad[at] ^= data.draw(st.integers(1, 255), label="by")
        elif kind == "cut":
            del bad[at:]
        elif kind == "insert":
            bad[at:at] = data.draw(st.binary(min_size=1, max_size=20), label="bytes")
        else:
            bad += bad[at:]
    made = bytearray()

    def write(piece: bytes) -> None:
        made.extend(piece)
        assert len(made) <= len(new)

    code = ""
    try:
        apply(iter([bytes(bad)]), old, new, write)
    except BundleRefused as error:
        code = error.code
    assert code in {"", "DELTA_FORM", "DELTA_BASE", "DELTA_RESULT"}
    assert code or bytes(made) == new


ops = st.lists(
    st.builds(
        Op,
        new_off=st.integers(-2, 12),
        length=st.integers(-1, 12),
        old_off=st.none() | st.integers(-2, 12) | st.just(2**62),
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(ops, st.binary(max_size=12), st.binary(max_size=12), st.binary(max_size=16))
def test_ops_of_any_kind_are_refused_or_make_exactly_the_signed_file(wanted, old, new, residual):
    data = raw(wanted, old, new, residual)
    made = bytearray()
    try:
        apply(iter([data]), old, new, made.extend)
    except BundleRefused:
        assert len(made) <= len(new)
    else:
        assert bytes(made) == new


@given(st.integers(0, 70), st.data())
def test_lanes_are_sums_and_differences_of_bytes(size, data):
    left = data.draw(st.binary(min_size=size, max_size=size))
    right = data.draw(st.binary(min_size=size, max_size=size))
    assert lanes.add(left, right) == bytes((a + b) % 256 for a, b in zip(left, right, strict=True))
    assert lanes.subtract(left, right) == bytes((a - b) % 256 for a, b in zip(left, right, strict=True))


# --- attack 20 ---


def raw(wanted: list[Op], old: bytes, new: bytes, residual: bytes, **changes) -> bytes:
    """A delta put together by hand: nothing is checked on the way."""
    fields = {"codec": SUB_BZ2, "base": side(old), "new": side(new), "ops": wanted, **changes}
    head = canonical_json(Header(**fields))
    return PREFIX.pack(b"WGD1", len(head)) + head + bz2.compress(residual)


def side(data: bytes) -> Side:
    return Side(sha256_hex(data), len(data))


OLD, NEW = b"0123456789" * 20, b"abcdefghij" * 20
WHOLE = [Op(0, 200, None)]


def test_a_delta_made_by_hand_is_as_good_as_any():
    assert applied(raw(WHOLE, OLD, NEW, NEW), OLD, NEW) == NEW


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param([Op(0, 200, 1)], id="reads beyond the base's end"),
        pytest.param([Op(0, 200, -1)], id="reads before the base"),
        pytest.param([Op(0, 200, 2**62)], id="reads far away"),
        pytest.param([Op(0, 201, None)], id="writes beyond the new file"),
        pytest.param([Op(-1, 201, None)], id="writes before it"),
        pytest.param([Op(0, 100, None), Op(99, 101, None)], id="overlap"),
        pytest.param([Op(0, 100, None), Op(101, 99, None)], id="gap"),
        pytest.param([Op(100, 100, None), Op(0, 100, None)], id="out of order"),
        pytest.param([Op(0, 199, None)], id="end not covered"),
        pytest.param([Op(1, 199, None)], id="beginning not covered"),
        pytest.param([], id="nothing covered"),
        pytest.param([Op(0, 0, None), *WHOLE], id="op of no bytes"),
        pytest.param([Op(n, 1, None) for n in range(5000)], id="too many"),
    ],
)
def test_ops_out_of_bounds_are_refused_before_a_byte_is_written(wanted):
    with pytest.raises(BundleRefused) as caught:
        apply(iter([raw(wanted, OLD, NEW, NEW)]), OLD, NEW, pytest.fail)
    assert caught.value.code == "DELTA_FORM"


def test_a_wrong_base_is_refused_before_anything_is_made_of_it():
    other = bytes([OLD[0] ^ 1]) + OLD[1:]
    with pytest.raises(BundleRefused) as caught:
        apply(iter([delta(OLD, NEW)]), other, NEW, pytest.fail)
    assert caught.value.code == "DELTA_BASE"


def test_a_wrong_result_is_refused():
    assert refused(raw(WHOLE, OLD, NEW, NEW[:-1] + b"x"), OLD, NEW) == "DELTA_RESULT", "it makes another file"
    assert refused(delta(OLD, OLD + b"x"), OLD, NEW) == "DELTA_RESULT", "it promises another file"
    assert refused(delta(OLD, NEW[:-1]), OLD, NEW) == "DELTA_RESULT", "one byte short"


def test_a_bomb_stops_at_the_length_that_was_signed():
    bomb = bz2.compress(bytes(1 << 28))
    assert len(bomb) < 1000
    data = raw(WHOLE, OLD, NEW, b"")
    data = data[: PREFIX.size + PREFIX.unpack_from(data)[1]] + bomb
    tracemalloc.start()
    try:
        assert refused(data, OLD, NEW) == "DELTA_FORM"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("cut", [0, 3, 7, 8, 40, -20, -1])
def test_a_delta_that_ends_too_early_is_refused(cut):
    assert refused(delta(OLD, NEW)[:cut], OLD, NEW) == "DELTA_FORM"


@pytest.mark.parametrize(
    "data",
    [
        b"<html>Please sign in</html>",
        b"WGD2" + delta(OLD, NEW)[4:],
        b"WGD1" + struct.pack(">I", 0xFFFFFFFF) + b"{}",
        b"WGD1" + struct.pack(">I", 2) + b"[]",
        b"WGD1" + struct.pack(">I", 60_000) + b"[" * 60_000,
        delta(OLD, NEW) + b"more",
        delta(OLD, NEW) + bz2.compress(b"more"),
        raw(WHOLE, OLD, NEW, NEW, codec="run+this"),
        raw(WHOLE, OLD, NEW, NEW, base=Side("../../etc/passwd", 200)),
        raw(WHOLE, OLD, NEW, NEW, base=Side(sha256_hex(OLD), -1)),
        raw(WHOLE, OLD, NEW, NEW + b"x"),
        raw(WHOLE, OLD, NEW, NEW[:-1]),
    ],
)
def test_what_is_no_delta_is_refused(data):
    assert refused(data, OLD, NEW) == "DELTA_FORM"


def test_fields_of_a_later_release_are_ignored():
    data = raw(WHOLE, OLD, NEW, NEW)
    length = PREFIX.unpack_from(data)[1]
    header = {**msgspec.json.decode(data[PREFIX.size : PREFIX.size + length]), "hint": {"tensor": 1}}
    head = canonical_json(header)
    assert applied(PREFIX.pack(b"WGD1", len(head)) + head + data[PREFIX.size + length :], OLD, NEW) == NEW


def test_the_header_that_is_written_is_checked_as_well():
    with pytest.raises(BundleRefused):
        form.encode_header(Header(SUB_BZ2, side(OLD), side(NEW), [Op(0, 1, None)]))
