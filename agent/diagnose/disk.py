"""What lies in the agent's folder: names and sizes of files, slots and where pointers point. Reads no model, no key.

Beside the store, and on purpose with less trust in what it finds: of a damaged slot is told what can be told.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MOST_FILES = 500
MOST_SLOTS = 200
MAX_MANIFEST_BYTES = 256 * 1024
MANIFEST = "bundle.json"


def tree(folder: Path, most: int = MOST_FILES) -> list[str]:
    """Return size in bytes and path of the files below ``folder``.

    Where there are more than ``most``, the first ones of each folder are named, and how many more it holds.
    """
    walked = sorted((Path(top), sorted(names)) for top, _, names in os.walk(folder))
    count = sum(len(names) for _, names in walked)
    each = count if count <= most else max(2, most // len(walked))
    found: list[str] = []
    for top, names in walked:
        if len(found) >= most:
            found.append(f"{'':12} and more folders; {count} files altogether")
            break
        for name in names[:each]:
            path = top / name
            try:
                found.append(f"{path.lstat().st_size:12} {path.relative_to(folder)}")
            except OSError:
                continue
        if len(names) > each:
            found.append(f"{'':12} {len(names) - each} more in {top.relative_to(folder)}/")
    return found


def slots(folder: Path) -> dict[str, Any]:
    """Return the slots, the factory's bundles, and what the pointers name.

    Args:
        folder: of the agent.

    Returns:
        ``pointers`` (model -> pointer as it lies there), ``slots`` and ``factory`` (place, digest of the manifest,
        model, version, bytes), and how many there are of both where not all are told.
    """
    pointers = {
        path.name.removeprefix("current.").replace("+", "/"): _json(path)
        for path in sorted(folder.glob("current.*+*"))[:MOST_SLOTS]
    }
    told: dict[str, Any] = {"pointers": pointers}
    for place in ("slots", "factory"):
        held = sorted((path for path in (folder / place).glob("*") if path.is_dir()), key=_by_number)
        told[place] = [_slot(path) for path in held[:MOST_SLOTS]]
        if len(held) > MOST_SLOTS:
            told[f"{place}_altogether"] = len(held)
    return told


def _by_number(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdecimal() else 0, path.name)


def _slot(path: Path) -> dict[str, Any]:
    try:
        data = _read(path / MANIFEST)
        manifest = json.loads(data)
        return {
            "place": path.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "model": f"{manifest.get('team')}/{manifest.get('model')}",
            "version": manifest.get("version"),
            "bytes": sum(one.lstat().st_size for one in path.rglob("*") if not one.is_dir()),
        }
    except (OSError, ValueError, AttributeError) as error:
        return {"place": path.name, "error": f"no manifest that can be read: {type(error).__name__}"}


def _json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except (OSError, ValueError) as error:
        return {"error": f"cannot be read: {type(error).__name__}"}


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_MANIFEST_BYTES)
