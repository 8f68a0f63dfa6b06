"""The shell of the rollout core: load, reconcile, save, act, in one transaction.

``creating`` makes rollouts, ``steering`` is what people do to them, ``driving`` what reports and time do; ``revoked``
stops rollouts of what signed metadata forbids; ``effects`` carries out what the core decides. Reading is
``db.queries.rollouts``.
"""

from control_plane.services.rollouts.creating import DryRun, RolloutRequest, create, dry_run, find_release
from control_plane.services.rollouts.driving import device_ended, observe_reported, tick
from control_plane.services.rollouts.revoked import rollouts_of_revoked, stop_revoked
from control_plane.services.rollouts.steering import abort, approve, pause, promote, reject, resume, rollback

__all__ = [
    "DryRun",
    "RolloutRequest",
    "abort",
    "approve",
    "create",
    "device_ended",
    "dry_run",
    "find_release",
    "observe_reported",
    "pause",
    "promote",
    "reject",
    "resume",
    "rollback",
    "rollouts_of_revoked",
    "stop_revoked",
    "tick",
]
