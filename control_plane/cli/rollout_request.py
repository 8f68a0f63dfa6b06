"""What ``wavegate rollout plan`` and ``create`` send: a file, with flags on top of it. Pure but for reading files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from control_plane.errors import RequestRefused, SetUpWrong


def read_document(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML (or JSON) file.

    Raises:
        SetUpWrong: ``FILE_UNREADABLE``.
        RequestRefused: ``FILE_FORM``: not YAML, or no mapping.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SetUpWrong(f"{path} cannot be read: {error}.", code="FILE_UNREADABLE", remedy="Name a file.") from error
    except yaml.YAMLError as error:
        raise RequestRefused(f"{path} is not YAML: {error}", code="FILE_FORM", remedy="Mend the file.") from error
    if not isinstance(document, dict):
        raise RequestRefused(f"{path} holds no mapping.", code="FILE_FORM", remedy="Write `name: value` lines.")
    return document


def build(
    document: dict[str, Any],
    *,
    release: str = "",
    baseline: str = "",
    everything: bool = False,
    labels: Sequence[str] = (),
    devices: Sequence[str] = (),
    exclude: Sequence[str] = (),
    waves: Sequence[str] = (),
    soak_s: float | None = None,
    policy: dict[str, Any] | None = None,
    timing: Sequence[str] = (),
    seed: str = "",
) -> dict[str, Any]:
    """Return the body of a request: ``document`` with every flag given laid over it.

    Args:
        document: from a file, or empty.
        release: ``team/model@version`` or a digest.
        baseline: bundle digest.
        everything: the whole fleet.
        labels: ``name=value``.
        devices: ids.
        exclude: ids.
        waves: ``16``, ``25%`` or ``rest``, each with ``:SECONDS`` of soak where it differs from ``soak_s``.
        soak_s: soak of every wave that names none.
        policy: fields laid over the document's policy.
        timing: ``name=seconds`` of the timing profile.
        seed: of the order.

    Raises:
        RequestRefused: ``FLAG_FORM``.
    """
    named = {"release": release, "baseline": baseline, "seed": seed}
    body = {**document, **{name: value for name, value in named.items() if value}}
    if everything or labels or devices or exclude:
        given = {"labels": dict(_pairs(labels)), "devices": list(devices), "exclude": list(exclude), "all": everything}
        body["selector"] = {name: value for name, value in given.items() if value}
    if waves:
        body["waves"] = [_wave(text, soak_s) for text in waves]
    elif soak_s is not None:
        body["waves"] = [{"soak_s": soak_s, **wave} for wave in body.get("waves", [{"rest": True}])]
    if policy:
        body["policy"] = {**body.get("policy", {}), **policy}
    if timing:
        body["profile"] = {**body.get("profile", {}), **{name: _number(value) for name, value in _pairs(timing)}}
    return body


def _wave(text: str, soak_s: float | None) -> dict[str, Any]:
    size, _, soak = text.partition(":")
    wave: dict[str, Any] = {"soak_s": _number(soak)} if soak else {} if soak_s is None else {"soak_s": soak_s}
    if size == "rest":
        return {"rest": True, **wave}
    if size.endswith("%"):
        return {"percent": _number(size[:-1]), **wave}
    if size.isdigit():
        return {"count": int(size), **wave}
    raise _bad(text, "16, 25% or rest, and :SECONDS of soak after it")


def _pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise _bad(text, "NAME=VALUE")
        pairs.append((name, value))
    return pairs


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _bad(text, "a number") from None


def _bad(text: str, form: str) -> RequestRefused:
    return RequestRefused(f"{text!r} cannot be read.", code="FLAG_FORM", remedy=f"Write {form}.")
