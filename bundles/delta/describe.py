"""Two bundles compared: what changed, in words. For people.

Leaves tables and JSON to the command line, and the size of a delta to ``between``. Both archives are read, none is
believed more than the other: neither signatures nor versions are judged here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from bundles.archive import Archive
from bundles.contract import parse_contract
from bundles.delta.base import base_for
from bundles.manifest import BundleFile
from bundles.provenance import lineage_rows
from bundles.sketch.baseline import parse_baseline

_HEAD = (
    "team",
    "model",
    "version",
    "release_counter",
    "channel",
    "kind",
    "swap",
    "safe_mode",
    "requires",
    "critical",
    "parameters",
    "licence",
)


@dataclass(frozen=True)
class Change:
    """One difference; an empty side means that there was, or is, none.

    Attributes:
        what: such as ``file model/digits.onnx`` or ``input image: max``.
        before: in words.
        after: in words.
    """

    what: str
    before: str
    after: str


def diff(old: Archive, new: Archive) -> list[Change]:
    """Return what differs between two bundles, from the manifest's head to the baseline.

    Raises:
        BundleRefused: a contract or a baseline is damaged.
    """
    before, after = old.manifest, new.manifest
    return [
        *_pairs("", {n: getattr(before, n) for n in _HEAD}, {n: getattr(after, n) for n in _HEAD}),
        *_files(old, new),
        *_items("variant ", {v.id: v for v in before.variants}, {v.id: v for v in after.variants}, "id"),
        *_order("variants, in order of preference", [v.id for v in before.variants], [v.id for v in after.variants]),
        *_labels(before.labels, after.labels),
        *_contracts(old, new),
        *_pairs("health check: ", _plain(before.health_check), _plain(after.health_check)),
        *_lineage(old, new),
        *_baselines(old, new),
    ]


def _files(old: Archive, new: Archive) -> Iterator[Change]:
    before = {entry.path: entry for entry in old.manifest.files}
    after = {entry.path: entry for entry in new.manifest.files}
    renamed: set[str] = set()
    for path, entry in after.items():
        base = before.get(path) or base_for(entry, new.manifest, old.manifest)
        if base is not None and base.path != path and base.path not in after:
            renamed.add(base.path)
            yield Change(f"file {path}", f"{base.path}, {_size(base)}", _size(entry, base))
        elif path not in before:
            yield Change(f"file {path}", "", f"added, {_size(entry)}")
        elif before[path] != entry:
            yield Change(f"file {path}", _size(before[path]), _size(entry, before[path]))
    for path, entry in before.items():
        if path not in after and path not in renamed:
            yield Change(f"file {path}", _size(entry), "removed")


def _size(entry: BundleFile, base: BundleFile | None = None) -> str:
    text = f"{entry.length:,} bytes ({entry.role})"
    if base is not None and entry.length == base.length:
        return text + ", other content"
    return text if base is None else text + f", {entry.length - base.length:+,}"


def _labels(before: list[str], after: list[str]) -> Iterator[Change]:
    added, removed = [x for x in after if x not in before], [x for x in before if x not in after]
    if added:
        yield Change("labels added", "", ", ".join(added))
    if removed:
        yield Change("labels removed", ", ".join(removed), "")
    # Applications that read classes by index break without an error where the order changes.
    kept = [x for x in before if x in after]
    yield from _order("labels, in order of the output", kept, [x for x in after if x in before])


def _contracts(old: Archive, new: Archive) -> Iterator[Change]:
    contracts = []
    for archive in (old, new):
        entry = archive.manifest.file_with_role("contract")
        contracts.append(parse_contract(archive.read(entry)) if entry else None)
    before, after = contracts
    if before is None or after is None:
        if before is not after:
            yield Change("contract", "there was one" if before else "", "there is one" if after else "removed")
        return
    yield from _pairs("", {"task": before.task}, {"task": after.task})
    for side in ("inputs", "outputs"):
        left, right = ({spec.name: spec for spec in getattr(contract, side)} for contract in (before, after))
        yield from _items(f"{side[:-1]} ", left, right, "name")
        yield from _order(f"{side}, in order", list(left), list(right))


def _lineage(old: Archive, new: Archive) -> Iterator[Change]:
    yield from _pairs("lineage: ", dict(lineage_rows(old.manifest)), dict(lineage_rows(new.manifest)))


def _baselines(old: Archive, new: Archive) -> Iterator[Change]:
    said: list[dict[str, str]] = []
    for archive in (old, new):
        entry = archive.manifest.file_with_role("baseline")
        if entry is None:
            said.append({})
            continue
        baseline = parse_baseline(archive.read(entry))
        columns = {f"column {c.name}": f"{c.kind}, {c.n:,} rows, mean {c.mu0:.4g}" for c in baseline.columns}
        said.append({"rows": f"{baseline.rows:,}", "columns": str(len(baseline.columns)), **columns})
    yield from _pairs("baseline: ", *said)


def _items(what: str, before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> Iterator[Change]:
    """Compare structs by name: those added, those removed, and the fields of those in both."""
    for name in dict.fromkeys([*before, *after]):
        if name not in before or name not in after:
            kept = before.get(name, after.get(name))
            text = ", ".join(f"{n} {_words(v)}" for n, v in _plain(kept).items() if n != key and _words(v))
            yield Change(what + name, text if name in before else "", text if name in after else "removed")
        else:
            yield from _pairs(f"{what}{name}: ", _plain(before[name]), _plain(after[name]))


def _order(what: str, before: list[str], after: list[str]) -> Iterator[Change]:
    if before != after and sorted(before) == sorted(after):
        yield Change(what, ", ".join(before), ", ".join(after))


def _pairs(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield Change(what + name.replace("_", " "), _words(before.get(name)), _words(after.get(name)))


def _plain(struct: Any) -> dict[str, Any]:
    return msgspec.structs.asdict(struct)


def _words(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, list):
        return ", ".join("any" if item is None else str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
