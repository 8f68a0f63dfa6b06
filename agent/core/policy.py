"""Bounds of the updater that are the device owner's, not the rollout's. The rollout's timing is the signed profile."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.retry import Backoff

RETRY = Backoff(base_s=2.0, cap_s=300.0)
"""Between tries of one effect."""
DEFER = Backoff(base_s=30.0, cap_s=600.0, floor_s=2.0)
"""Between tries of a whole update that was put off."""
LOOK_AGAIN_S = 30.0
"""Between looks at a condition that puts an update off; a look costs a few small files, a try costs an update."""
JUDGE_EVERY = 8
"""Judgements asked for within one probation time."""
MAX_WRONG_CONTENT = 3
"""Downloads of one release that may arrive with wrong bytes (a captive portal, a damaged disk) before it fails."""
SERVE_AGAIN_S = 600.0
"""Between looks at a committed release that does not answer, where nothing else is left to answer in its stead."""
MAX_EFFECT_TRIES = 5
"""Tries of Serve and Revert before the next older release is taken."""


@dataclass(frozen=True)
class Policy:
    """What the owner of the device decides.

    Attributes:
        commit_offline: a healthy release is committed without contact with the control plane.
        max_attempts: activations of one digest before it is denied here (design page 03, device guards).
        max_recoveries: starts of the agent while one release is at work.
        max_transitions: times that one instruction may touch what answers: each activation, probation and way back
            is one. The last bound of every loop, whatever it is made of. 30 = ten rounds of activation, probation
            and return, where ``max_attempts`` allows two to a release that is to blame: only what is nobody's fault
            (no contact in probation, files that are damaged again and again) comes this far.
    """

    commit_offline: bool = False
    max_attempts: int = 2
    max_recoveries: int = 10
    max_transitions: int = 30


DEFAULT_POLICY = Policy()
