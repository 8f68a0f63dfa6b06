"""Signing again what would expire: the same content, the next version, a new expiry. Pure; signing is separate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tuf.api.metadata import Root, Targets

from bundles.trust.drafting.drafts import Drafts, as_drafts, ask_person, delegated, next_root, next_targets
from bundles.trust.publishing.state import State, state_expiries
from bundles.trust.roles import DAY_S, UNWRITTEN, Lifetimes, utc

DEFAULT = Lifetimes()
ONLINE = frozenset({"snapshot", "timestamp"})
WITHIN_S = 60 * DAY_S


@dataclass(frozen=True)
class Renewal:
    """Everything that is due, in one event.

    Attributes:
        drafts: what has to be signed and published; empty where nothing is due.
        words: a sentence for each role.
    """

    drafts: Drafts
    words: list[str]


def renew(state: State, roles: Collection[str], now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft the next version of ``roles`` with the content they have.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: one of them is no role that people sign.
    """
    drafted: list[tuple[str, Root | Targets]] = []
    for role in roles:
        if role == "root":
            drafted.append((role, next_root(state.root, now_ms, life)))
        elif role == "targets":
            drafted.append((role, next_targets(role, state.targets, now_ms, life)))
        elif role in state.roles and role in delegated(state.targets):
            drafted.append((role, next_targets(role, state.roles[role], now_ms, life)))
        else:
            ask_person(
                f"{role!r} is not a role that people renew.",
                "Name root, targets, revocation or team-NAME; the server signs everything else by itself.",
            )
    return as_drafts(*drafted)


def renew_all_due(state: State, now_ms: int, within_s: int = WITHIN_S, life: Lifetimes = DEFAULT) -> Renewal:
    """Draft the renewal of every offline role that expires ``within_s`` seconds, or has.

    Args:
        state: the current state.
        now_ms: time of drafting.
        within_s: how far to look ahead.
        life: how long the roles are good for.
    """
    due = [
        (role, expires_ms)
        for role, expires_ms in state_expiries(state).items()
        if role not in ONLINE and role not in UNWRITTEN and expires_ms - now_ms <= within_s * 1000
    ]
    drafts = renew(state, [role for role, _ in due], now_ms, life)
    versions = {name.removesuffix(".json").partition(".")[2]: metadata.signed for name, metadata in drafts.items()}
    return Renewal(
        drafts,
        [
            f"{role}: the same content as version {versions[role].version - 1}, "
            f"{'expired since' if expires_ms <= now_ms else 'good until'} {_day(expires_ms)}, "
            f"becomes version {versions[role].version}, good until {versions[role].expires:%Y-%m-%d}."
            for role, expires_ms in due
        ],
    )


def _day(at_ms: int) -> str:
    return f"{utc(at_ms):%Y-%m-%d}"
