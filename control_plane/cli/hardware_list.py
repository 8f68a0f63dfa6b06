"""A list of hardware as CSV, and the file of claim tokens made from it.

The list has a header with ``serial``, and perhaps ``device`` and ``hardware``; every other column is a label. The file
of tokens is secret: 0600, and what it held before is kept, so that running the same list again loses nothing.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundles.errors import AskPerson, Refused

COLUMNS = ("serial", "state", "token", "device", "expires_ms")
_FIXED = ("device", "hardware")


def read_list(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a list as the API takes them.

    Raises:
        AskPerson: ``CSV_FILE``: the file cannot be read.
        Refused: ``ENROL_ROW``, naming the line: no serial number, too many cells; ``CSV_HEADER``.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AskPerson(
            f"{path} cannot be read: {error}.", code="CSV_FILE", remedy="Give a CSV file, UTF-8."
        ) from error
    reader = csv.DictReader(io.StringIO(text), restkey="", restval="", strict=True)
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        if "serial" not in header or "" in header or len(set(header)) < len(header):
            raise Refused(
                f"The header of {path.name} must name each column once, and one of them 'serial'.",
                code="CSV_HEADER",
                remedy="Begin it with: serial,device,hardware and then a column for each label.",
            )
        reader.fieldnames = header
        return [_row(path, reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise Refused(
            f"Line {reader.line_num} of {path.name} is not CSV: {error}.", code="ENROL_ROW", remedy="Correct it."
        ) from error


def _row(path: Path, line: int, row: Mapping[str, Any]) -> dict[str, Any]:
    if "" in row:
        problem = "has more cells than the header"
    elif not row["serial"].strip():
        problem = "has no serial number"
    else:
        cells = {name: value.strip() for name, value in row.items()}
        fixed = {name: cells.get(name, "") for name in _FIXED}
        labels = {name: value for name, value in cells.items() if name not in ("serial", *_FIXED) and value}
        return {"serial": cells["serial"], **fixed, "labels": labels}
    raise Refused(f"Line {line} of {path.name} {problem}.", code="ENROL_ROW", remedy="Correct it; nothing was made.")


def read_tokens(path: Path) -> dict[str, dict[str, str]]:
    """Return the tokens ``path`` holds already, by serial number; none where there is no such file."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return {row["serial"]: row for row in csv.DictReader(stream) if row.get("token")}
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise AskPerson(
            f"{path} is there and is no file of tokens: {error}.", code="CSV_FILE", remedy="Name another with --out."
        ) from error


def write_tokens(path: Path, made: Sequence[Mapping[str, Any]], before: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Write the file of tokens, whole or not at all; returns the serial numbers whose token nobody has any more."""
    rows: dict[str, dict[str, Any]] = {serial: dict(row) for serial, row in before.items()}
    lost = []
    for row in made:
        serial = row["serial"]
        kept = rows.get(serial, {}).get("token", "")
        if row["state"] == "exists" and not kept:
            lost.append(serial)
        token = row["token"] or (kept if row["state"] == "exists" else "")
        rows[serial] = {**row, "token": token}
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows.values())
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)
    return lost
