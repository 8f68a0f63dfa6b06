"""The baseline as a file of a bundle: its bytes, its id, and the checks its reader makes.

The bytes are signed with the bundle they belong to; a device reads them once at activation. Leaves making a baseline
to ``build``. A reader ignores fields it does not know and refuses whatever binning could trip over later, so that
the hot path needs no checks.
"""

from __future__ import annotations

import math
from typing import NoReturn

import msgspec

from bundles.digest import canonical_json, sha256_hex
from bundles.errors import BundleRefused
from bundles.sketch.form import BINS, MAX_CATEGORIES, NUMERIC_SLOTS, Baseline, ColumnBaseline

FORMAT_VERSION = 1
MAX_BASELINE_BYTES = 4 << 20
"""512 columns of about 800 bytes are 0.4 MiB; ten times that is a mistake or an attack."""
MAX_COLUMNS = 512


def encode_baseline(baseline: Baseline) -> bytes:
    """Return the bytes of a baseline file (canonical JSON).

    Raises:
        BundleRefused: the baseline breaks a rule of ``parse_baseline``.
    """
    data = canonical_json(baseline)
    parse_baseline(data)
    return data


def parse_baseline(data: bytes) -> Baseline:
    """Parse and check the bytes of a baseline file.

    Raises:
        BundleRefused: ``BASELINE_JSON``, ``BASELINE_FORMAT_VERSION`` or ``BASELINE_FIELD``.
    """
    if len(data) > MAX_BASELINE_BYTES:
        _refuse("BASELINE_JSON", f"The baseline has {len(data)} bytes; {MAX_BASELINE_BYTES} is the limit.")
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse("BASELINE_JSON", f"The baseline is not valid JSON: {error}.")
    version = raw.get("format_version", FORMAT_VERSION) if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        _refuse(
            "BASELINE_FORMAT_VERSION",
            f"The baseline has format version {version!r}; this program reads {FORMAT_VERSION}.",
        )
    try:
        baseline = msgspec.convert(raw, Baseline)
    except (msgspec.ValidationError, RecursionError) as error:
        _refuse("BASELINE_FIELD", f"The baseline is not well formed: {error}.")
    names = [column.name for column in baseline.columns]
    if len(names) > MAX_COLUMNS or len(set(names)) != len(names) or not all(names):
        _refuse("BASELINE_FIELD", f"The baseline needs at most {MAX_COLUMNS} columns with unique names.")
    for column in baseline.columns:
        if fault := _fault(column):
            _refuse("BASELINE_FIELD", f"Column {column.name!r} of the baseline {fault}.")
    return baseline


def baseline_id(data: bytes) -> str:
    """Return the id that windows name their baseline by: the sha256 of the file's bytes."""
    return sha256_hex(data)


def _fault(column: ColumnBaseline) -> str:
    """Return what is wrong with ``column`` as the end of a sentence; empty = nothing."""
    if any(count < 0 for count in column.counts) or column.missing < 0:
        return "has a negative count"
    if column.n != sum(column.counts) + column.missing:
        return f"has counts that do not add up to its {column.n} rows"
    if not (0 < column.floor < math.inf and 0 <= column.importance <= 1):
        return "has a floor or an importance outside its range"
    if column.kind == "categorical":
        categories = column.categories
        if not 1 <= len(categories) <= MAX_CATEGORIES or len(set(categories)) != len(categories):
            return f"needs 1 to {MAX_CATEGORIES} different categories"
        return "" if len(column.counts) == len(categories) + 1 else "needs one count a category and one for the others"
    edges = column.edges
    if len(edges) != BINS + 1 or len(column.counts) != NUMERIC_SLOTS:
        return f"needs {BINS + 1} edges and {NUMERIC_SLOTS} counts"
    bounds = [column.low, *edges, column.high]
    if not all(map(math.isfinite, [*bounds, column.mu0, column.sd0])) or sorted(bounds) != bounds:
        return "has guards and edges that do not ascend"
    return "" if column.sd0 > 0 else "has a standard deviation of zero"


def _refuse(code: str, sentence: str) -> NoReturn:
    raise BundleRefused(sentence, code=code, remedy="Build the bundle again with `wavegate bundle build`.")
