"""What people may do to a rollout from its page: which verb, for whom, when, and what it will set in motion.

Each is confirmed on a form that carries the version its reader saw; ``services.rollouts`` refuses what changed since.
When a verb fits is told from the phase alone, as ``core.rollout.refusal`` does; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import Session

from control_plane.auth import Principal, Role
from control_plane.core.states import PauseReason, RolloutPhase
from control_plane.db.queries.rollouts import RolloutDetail, RolloutView
from control_plane.services import rollouts

P = RolloutPhase
_OPEN = (P.PENDING_APPROVAL, P.SCHEDULED, P.RUNNING, P.PAUSED, P.HALTED)
_UNDECIDED = (PauseReason.INCONCLUSIVE, PauseReason.NO_DATA, PauseReason.ENV_SHIFT)


@dataclass(frozen=True)
class Order:
    """A verb as somebody gave it.

    Attributes:
        rollout: id.
        actor: who.
        reason: in their words.
        expected: the version they saw.
        now_ms: server clock.
    """

    rollout: str
    actor: str
    reason: str
    expected: int
    now_ms: int


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        name: in the address, and of the audit row.
        label: on the button.
        role: at least.
        tone: ``go``, ``wait`` or ``stop``: how the button looks.
        wants_reason: None = it takes no reason, False = one may be given, True = one must.
        fits: whether it can be done where the rollout stands.
        outlook: what will happen, with the numbers of now.
        act: does it.
    """

    name: str
    label: str
    role: Role
    tone: str
    wants_reason: bool | None
    fits: Callable[[RolloutView], bool]
    outlook: Callable[[RolloutDetail], str]
    act: Callable[[Session, Order], object]

    def is_for(self, caller: Principal, rollout: RolloutView) -> bool:
        """Whether ``caller`` may do it to ``rollout`` as it stands."""
        if self.name == "approve" and caller.name in (rollout.creator, *rollout.approver.split(", ")):
            return False
        return caller.role >= self.role and caller.may_see(rollout.team) and self.fits(rollout)


def find_verb(name: str) -> Verb | None:
    """Return the verb called ``name``."""
    return next((verb for verb in VERBS if verb.name == name), None)


def verbs_for(caller: Principal, rollout: RolloutView) -> list[Verb]:
    """Return what ``caller`` may do to ``rollout`` now."""
    return [verb for verb in VERBS if verb.is_for(caller, rollout)]


def _in(*phases: RolloutPhase) -> Callable[[RolloutView], bool]:
    return lambda rollout: rollout.phase in phases


def _is_undecided(rollout: RolloutView) -> bool:
    return rollout.phase == P.PAUSED and rollout.pause in _UNDECIDED


def _approve(session: Session, order: Order) -> object:
    return rollouts.approve(session, order.rollout, actor=order.actor, expected=order.expected, now_ms=order.now_ms)


def _with_reason(act: Callable[..., object]) -> Callable[[Session, Order], object]:
    def run(session: Session, order: Order) -> object:
        return act(
            session,
            order.rollout,
            actor=order.actor,
            reason=order.reason,
            expected=order.expected,
            now_ms=order.now_ms,
        )

    return run


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _approve_outlook(detail: RolloutDetail) -> str:
    missing = detail.approvals_needed - len(detail.approvals)
    first = _devices(detail.waves[0].devices)
    if missing > 1:
        return f"{missing - 1} more approval(s) are needed after yours; then wave 1, {first}, is offered the release."
    return f"It starts at once: wave 1, {first}, is offered the release."


def _resume_outlook(detail: RolloutDetail) -> str:
    number = detail.rollout.wave
    return f"Wave {number} is offered and watched again. It is not promoted by this: its gates still decide."


def _promote_outlook(detail: RolloutDetail) -> str:
    number = detail.rollout.wave
    return f"Wave {number} is promoted though its gates could not decide, and the next one is offered the release."


def _rollback_outlook(detail: RolloutDetail) -> str:
    return (
        f"The rollout is halted. {_devices(detail.rollout.engaged)} that took the offer are asked back to what they "
        "ran before; nobody new is asked. A halted rollout cannot be resumed."
    )


def _abort_outlook(detail: RolloutDetail) -> str:
    return (
        f"The rollout ends where it stands. Nobody new is asked, and nobody is asked back: "
        f"{_devices(detail.rollout.engaged)} that took the offer keep the release."
    )


VERBS: tuple[Verb, ...] = (
    Verb(
        "approve",
        "Approve",
        Role.APPROVER,
        "go",
        None,
        _in(P.PENDING_APPROVAL),
        _approve_outlook,
        _approve,
    ),
    Verb(
        "resume",
        "Resume",
        Role.OPERATOR,
        "go",
        False,
        _in(P.PAUSED),
        _resume_outlook,
        _with_reason(rollouts.resume),
    ),
    Verb(
        "promote",
        "Promote anyway",
        Role.APPROVER,
        "wait",
        True,
        _is_undecided,
        _promote_outlook,
        _with_reason(rollouts.promote),
    ),
    Verb(
        "pause",
        "Pause",
        Role.OPERATOR,
        "wait",
        False,
        _in(P.RUNNING),
        lambda _: (
            "Nobody new is offered the release, and offers nobody took yet are recalled. Devices under way go on."
        ),
        _with_reason(rollouts.pause),
    ),
    Verb(
        "reject",
        "Reject",
        Role.APPROVER,
        "stop",
        True,
        _in(P.PENDING_APPROVAL),
        lambda _: "The rollout ends without having asked any device.",
        _with_reason(rollouts.reject),
    ),
    Verb(
        "rollback",
        "Roll back",
        Role.OPERATOR,
        "stop",
        True,
        _in(P.RUNNING, P.PAUSED, P.HALTED),
        _rollback_outlook,
        _with_reason(rollouts.rollback),
    ),
    Verb(
        "abort",
        "Abort",
        Role.OPERATOR,
        "stop",
        True,
        _in(*_OPEN),
        _abort_outlook,
        _with_reason(rollouts.abort),
    ),
)
"""Forward first, the irreversible last."""
