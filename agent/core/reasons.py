"""From error codes to the reason words of the rollout design, which say who is to blame.

A reason is one word of page 03 (``verify``, ``schema``, ``load``, ``golden_mismatch``, ``oom``, ``accel_fallback``,
``health``, ``deadline``...). Reasons in ``ENVIRONMENT`` say nothing about the model: the device defers, tries again by
itself and is not held against the release. The error code travels beside the reason, so nothing is lost.
"""

from __future__ import annotations

CONDITIONS = frozenset({"window", "lock", "battery", "metered", "memory", "budget"})
"""What an owner or an application set, or the device lacks for now: looked at again every ``policy.LOOK_AGAIN_S``."""
ENVIRONMENT = CONDITIONS | {"offline", "disk", "transport", "timeout_download", "no_variant", "user", "power"}
"""Deferred, never failed; none counts as an attempt."""

_EXACT: dict[str, str] = {
    "DISK_FULL": "disk",
    "DISK_HELD_BY_PREVIOUS": "disk",
    "NO_VARIANT": "no_variant",
    "CONDITION_WINDOW": "window",
    "CONDITION_LOCK": "lock",
    "CONDITION_BATTERY": "battery",
    "CONDITION_METERED": "metered",
    "CONDITION_MEMORY": "memory",
    "CONDITION_BUDGET": "budget",
    "BUNDLE_DIGEST": "verify",
    "STORE_CORRUPT": "verify",
    "STORE_MISSING": "verify",
    "GOLDEN_MISMATCH": "golden_mismatch",
    "ACCELERATOR_FALLBACK": "accel_fallback",
    "MODEL_IO": "schema",
    "CONTRACT_INVALID": "schema",
    "OUT_OF_MEMORY": "oom",
    "WORKER_CRASHED": "native_crash",
    "RUN_DEADLINE": "deadline",
}
_PREFIX: tuple[tuple[str, str], ...] = (
    ("TRUST_", "verify"),
    ("BUNDLE_", "verify"),
    ("DOWNLOAD_", "transport"),
    ("ACCELERATOR_", "accel_fallback"),
    ("GOLDEN", "golden_mismatch"),
    ("CONTRACT_", "schema"),
    ("INPUT_", "schema"),
    ("MODEL_", "load"),
    ("BACKEND_", "load"),
    ("RUN_", "load"),
)
WRONG_CONTENT = frozenset({"DOWNLOAD_DIGEST", "DOWNLOAD_LENGTH", "STORE_CORRUPT", "STORE_MISSING", "BUNDLE_DIGEST"})
"""The bytes that arrived are not the ones promised. Tried again a few times only: each try may cost a whole file."""
IN_VAIN = "DOWNLOAD_IN_VAIN"
"""A file was fetched again and again, and none of it could be kept: it rests (``agent.download.losses``)."""
DISK_HELD = "DISK_HELD_BY_PREVIOUS"
"""There would be room without the release kept to return to, and the new one's bundle allows that (``swap: cold``)."""
STORE_DAMAGE = frozenset({"STORE_CORRUPT", "STORE_MISSING"})
"""What was on this disk is damaged or gone; the release itself is not to blame."""
_PASSING_PREFIXES = ("TRUST_EXPIRED", "TRUST_SLOW", "TRUST_CACHE_CORRUPT", "TRUST_CLOCK")


def reason_of(code: str) -> str:
    """Return the reason word for an error code; an unknown code counts as ``load``, against the release."""
    if code in _EXACT:
        return _EXACT[code]
    return next((reason for prefix, reason in _PREFIX if code.startswith(prefix)), "load")


def is_passing_refusal(code: str) -> bool:
    """Whether a refusal by trust may pass by itself: stale metadata, a slow mirror, a clock that is not set yet."""
    return code.startswith(_PASSING_PREFIXES)
