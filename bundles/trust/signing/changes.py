"""What a signature would change, in plain words: the current verified metadata held against the new files. Pure.

Whatever differs is told: what these words have no sentence for is shown as the field it is in. Warnings name what a
careful holder would ask about before signing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuf.api.metadata import Root, TargetFile, Targets

from bundles.digest import sha256_hex
from bundles.trust.publishing.event import publishing_order
from bundles.trust.publishing.state import State
from bundles.trust.revocation import REVOKED_FIELD, read_revoked
from bundles.trust.roles import (
    DEMO_FIELD,
    DIRECTOR,
    FLOORS_FIELD,
    PROFILE_FIELD,
    SERVER_CAS_FIELD,
    TIMESTAMP_LIFE_FIELD,
    parse_root,
    parse_targets,
    read_custom,
    read_floors,
    read_server_cas,
    split_file,
)
from bundles.trust.signing.key_changes import role_keys_changed, title

_TOLD = frozenset({"version", "expires", "keys", "roles", "delegations", "targets", "_type", "spec_version"})
_TOLD_FIELDS = frozenset({FLOORS_FIELD, REVOKED_FIELD, SERVER_CAS_FIELD, PROFILE_FIELD, DEMO_FIELD})


@dataclass
class Changes:
    """What an event changes.

    Attributes:
        lines: one sentence a change.
        warnings: what to think about before signing.
    """

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def describe_changes(state: State | None, files: Mapping[str, bytes]) -> Changes:
    """Describe what publishing ``files`` would change.

    Args:
        state: the current metadata, verified; None where there is none yet.
        files: the new metadata files, whose signatures do not matter here.

    Raises:
        TrustRefused: a file, or a field in it, cannot be read.
    """
    changes = Changes()
    root, targets = (state.root, state.targets) if state is not None else (None, None)
    for name in sorted(files, key=publishing_order):
        role = split_file(name)[0]
        if role == "root":
            new_root = parse_root(name, files[name]).signed
            _tell_root(changes, root, new_root)
            root = new_root
            continue
        new = parse_targets(name, files[name]).signed
        before = targets if role == "targets" else state.roles.get(role) if state is not None else None
        _tell_targets(changes, role, before, new)
        if role == "targets":
            targets = new
    touched = {split_file(name)[0] for name in files}
    if root is not None and "root" in touched:
        _warn_of_root(changes, state.root if state is not None else None, root)
    if root is not None and targets is not None and touched & {"root", "targets"}:
        _warn_of_director(changes, root, targets)
    return changes


def _tell_root(changes: Changes, before: Root | None, new: Root) -> None:
    for role in ("root", "targets", "snapshot", "timestamp"):
        role_keys_changed(role, before, new, changes.lines, changes.warnings)
    was = before.unrecognized_fields if before is not None else {}
    now = new.unrecognized_fields
    if was.get(PROFILE_FIELD) != now.get(PROFILE_FIELD):
        changes.lines.append(f"The profile becomes {now.get(PROFILE_FIELD, 'unstated')}.")
    if was.get(DEMO_FIELD) != now.get(DEMO_FIELD):
        mark = "marked as a demo's: real devices refuse them" if now.get(DEMO_FIELD) else "no longer marked as a demo's"
        changes.lines.append(f"The keys are {mark}.")
    if was.get(TIMESTAMP_LIFE_FIELD) != now.get(TIMESTAMP_LIFE_FIELD) and before is not None:
        changes.lines.append(f"A timestamp now lives {now.get(TIMESTAMP_LIFE_FIELD)} s.")
    if not new.consistent_snapshot:
        changes.warnings.append("Consistent snapshots are switched off: devices could no longer read the repository.")
    _tell_rest(changes, "root", before, new, {TIMESTAMP_LIFE_FIELD})
    _tell_expiry(changes, "root", before, new)


def _tell_targets(changes: Changes, role: str, before: Targets | None, new: Targets) -> None:
    names = {*_delegated(before), *_delegated(new)}
    for name in sorted(names):
        role_keys_changed(name, before, new, changes.lines, changes.warnings)
    if role not in ("targets",) and names:
        changes.warnings.append(f"{title(role)} delegates to others itself; the wavegate tools never do that.")
    _tell_floors(changes, before, new)
    _tell_revoked(changes, role, before, new)
    _tell_server_cas(changes, before, new)
    _tell_listing(changes, role, before, new)
    _tell_rest(changes, role, before, new, set())
    _tell_expiry(changes, role, before, new)


def _tell_floors(changes: Changes, before: Targets | None, new: Targets) -> None:
    was, now = read_floors(before) if before is not None else {}, read_floors(new)
    for model in sorted({*was, *now}):
        low, high = was.get(model, 0), now.get(model, 0)
        if high > low:
            changes.lines.append(f"{model}: no device takes a release counter below {high} any more (was {low}).")
        elif high < low:
            changes.lines.append(f"{model}: the signed floor goes down from {low} to {high}.")
            changes.warnings.append(f"Lowering the floor of {model} lets devices go back to releases ruled out before.")


def _tell_revoked(changes: Changes, role: str, before: Targets | None, new: Targets) -> None:
    was, now = read_revoked(before) if before is not None else {}, read_revoked(new)
    for digest, entry in now.items():
        if digest not in was:
            weight = "at once, even where it runs or came with the device" if role == "targets" else "for good"
            why = f": {entry.reason}" if entry.reason else ""
            changes.lines.append(f"Bundle {digest[:12]} is revoked {weight}{why}.")
        elif was[digest] != entry:
            changes.lines.append(f"Bundle {digest[:12]}: the reason of its revocation changes to {entry.reason!r}.")
    for digest in sorted(set(was) - set(now)):
        changes.lines.append(f"Bundle {digest[:12]} is no longer on the list of revoked ones.")
        changes.warnings.append(f"Revocations are for good under the same keys: taking {digest[:12]} off is refused.")


def _tell_server_cas(changes: Changes, before: Targets | None, new: Targets) -> None:
    was, now = read_server_cas(before) if before is not None else [], read_server_cas(new)
    if was == now:
        return
    shown = ", ".join(sha256_hex(der)[:12] for der in now) or "those given at enrolment"
    changes.lines.append(f"Devices trust these server CAs from now on: {shown} (was {len(was)} others).")
    if was and now and now[0] not in was:
        changes.warnings.append("The first server CA was no spare before: devices not seen since cannot connect to it.")


def _tell_listing(changes: Changes, role: str, before: Targets | None, new: Targets) -> None:
    was: Mapping[str, TargetFile] = before.targets if before is not None else {}
    for path, target in new.targets.items():
        if path in was and was[path].to_dict() == target.to_dict():
            continue
        custom, digest = read_custom(path, target.custom), target.hashes.get("sha256", "")
        verb = "is listed" if path not in was else "is listed with OTHER CONTENT"
        hardware = f" for {', '.join(custom.hardware)}" if custom.hardware else ""
        changes.lines.append(
            f"{path.removesuffix('/bundle.json')} {verb}: counter {custom.release_counter}, channel {custom.channel}"
            f"{hardware}, digest {digest[:12]}."
        )
        if path in was:
            changes.warnings.append(f"{path} was published with other content before; servers refuse that.")
    for path in sorted(set(was) - set(new.targets)):
        changes.lines.append(f"{path.removesuffix('/bundle.json')} is no longer listed: no device can be given it.")
    if role == "targets" and new.targets:
        changes.warnings.append("Top-level targets lists bundles itself; the wavegate tools never do that.")


def _tell_rest(changes: Changes, role: str, before: Root | Targets | None, new: Root | Targets, told: set[str]) -> None:
    """Tell every field that differs and has no sentence of its own."""
    if before is None:
        return
    was, now = before.to_dict(), new.to_dict()
    for name in sorted({*was, *now} - _TOLD - _TOLD_FIELDS - told):
        if was.get(name) != now.get(name):
            changes.lines.append(f"{title(role)}: the field {name!r} becomes {_short(now.get(name))}.")
            changes.warnings.append(f"{title(role)}: this program does not know what {name!r} means.")


def _tell_expiry(changes: Changes, role: str, before: Root | Targets | None, new: Root | Targets) -> None:
    version, date = new.version, f"{new.expires:%Y-%m-%d}"
    if before is None:
        changes.lines.append(f"{title(role)} begins with version {version}, good until {date}.")
        return
    changes.lines.append(
        f"{title(role)}: version {before.version} -> {version}, good until {date} (was {before.expires:%Y-%m-%d})."
    )
    if new.expires < before.expires:
        changes.warnings.append(f"{title(role)} would expire earlier than now.")


def _warn_of_root(changes: Changes, before: Root | None, root: Root) -> None:
    for role in ("root", "targets"):
        # What one person can do already is for `trust status` to say: a warning seen every time is not read.
        if root.roles[role].threshold == 1 and (before is None or before.roles[role].threshold > 1):
            changes.warnings.append(f"After this, one person alone can sign {role}: nothing they sign is reviewed.")
    online = {*root.roles["snapshot"].keyids, *root.roles["timestamp"].keyids}
    if online & _offline(root):
        changes.warnings.append("A key of the server may also sign root or targets: whoever steals it owns all.")


def _warn_of_director(changes: Changes, root: Root, targets: Targets) -> None:
    director = _delegated(targets).get(DIRECTOR)
    if director is not None and _offline(root) & set(director.keyids):
        changes.warnings.append("The director shares a key with root or targets: whoever steals it owns all.")


def _offline(root: Root) -> set[str]:
    return {*root.roles["root"].keyids, *root.roles["targets"].keyids}


def _delegated(targets: Targets | None) -> Mapping[str, Any]:
    delegations = targets.delegations if targets is not None else None
    return (delegations.roles if delegations is not None else None) or {}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
