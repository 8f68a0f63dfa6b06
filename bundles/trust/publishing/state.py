"""The newest metadata of a repository as one value: what every change is drafted on and every event held against."""

from __future__ import annotations

from dataclasses import dataclass, field

from tuf.api.metadata import Root, Signed, Snapshot, Targets, Timestamp

from bundles.trust.roles import epoch_ms, key_fingerprint


@dataclass
class State:
    """The newest metadata of a repository; fields are replaced as an event is applied.

    Attributes:
        root: the newest root.
        timestamp: what is current.
        snapshot: the version of every role, also of roles no longer delegated.
        targets: the top-level targets role.
        roles: delegated roles by name.
        learned: role -> digest of the keys its content was published under: what was said under keys that have since
            been exchanged no longer binds.
    """

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    roles: dict[str, Targets]
    learned: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Note the keys of every role as this state names them."""
        if not self.learned:
            self.relearn()

    def relearn(self) -> None:
        """Note the keys again, once a whole event is in: devices hold what they see against the keys in force."""
        below = {role: key_fingerprint(self.targets, role) for role in delegated_names(self.targets)}
        self.learned = {"targets": key_fingerprint(self.root, "targets"), **below}

    def copy(self) -> State:
        """Return a state whose fields and tables can be replaced without changing this one."""
        return State(self.root, self.timestamp, self.snapshot, self.targets, dict(self.roles), dict(self.learned))

    def version(self, role: str) -> int:
        """Return the newest version of an offline ``role`` ever published; 0 = there was none."""
        if role == "root":
            return self.root.version
        if role == "targets":
            return self.targets.version
        published = self.snapshot.meta.get(f"{role}.json")
        held = self.roles.get(role)
        return max(published.version if published else 0, held.version if held else 0)


def delegated_names(targets: Targets) -> list[str]:
    """Return the names of the roles that ``targets`` delegates to."""
    roles = targets.delegations.roles if targets.delegations is not None else None
    return list(roles or {})


def state_expiries(state: State) -> dict[str, int]:
    """Return when each role in force expires, UTC epoch ms."""
    top: dict[str, Signed] = {
        "root": state.root,
        "targets": state.targets,
        "snapshot": state.snapshot,
        "timestamp": state.timestamp,
    }
    inside = {role: state.roles[role] for role in delegated_names(state.targets) if role in state.roles}
    return {role: epoch_ms(signed.expires) for role, signed in (top | inside).items()}


def expired_roles(state: State, now_ms: int) -> list[str]:
    """Return the roles past their expiry."""
    return [role for role, expires_ms in state_expiries(state).items() if expires_ms <= now_ms]
