"""How many people hold the offline keys: the three steps of the ladder from one person to a regulated company."""

from __future__ import annotations

from dataclasses import dataclass

from tuf.api.metadata import Root

from bundles.trust.roles import PROFILE_FIELD


@dataclass(frozen=True)
class Profile:
    """How many keys each offline role has, and how many of them must sign.

    Attributes:
        name: ``solo``, ``team`` or ``regulated``.
        root_keys: root keys made.
        root_threshold: of them must sign.
        targets_keys: keys of the targets role; 0 = the root holders sign it.
        targets_threshold: of them must sign.
        team_keys: keys of each team's role.
        team_threshold: of them must sign.
        revocation_keys: keys of the revocation role (any one may revoke what does not run); 0 = the second root key.
    """

    name: str
    root_keys: int
    root_threshold: int
    targets_keys: int
    targets_threshold: int
    team_keys: int = 1
    team_threshold: int = 1
    revocation_keys: int = 0


PROFILES = {
    "solo": Profile("solo", root_keys=2, root_threshold=1, targets_keys=0, targets_threshold=1),
    "team": Profile("team", root_keys=3, root_threshold=2, targets_keys=2, targets_threshold=2, revocation_keys=2),
    "regulated": Profile(
        "regulated",
        root_keys=5,
        root_threshold=3,
        targets_keys=3,
        targets_threshold=2,
        team_keys=2,
        team_threshold=2,
        revocation_keys=3,
    ),
}
LADDER = tuple(PROFILES)
"""From the least to the most; an upgrade only climbs."""


def profile_name(root: Root) -> str:
    """Return the profile that ``root`` states, or where it states none, the highest whose root threshold it has."""
    stated = root.unrecognized_fields.get(PROFILE_FIELD)
    if isinstance(stated, str) and stated in PROFILES:
        return stated
    threshold = root.roles["root"].threshold
    return max((name for name in LADDER if PROFILES[name].root_threshold <= threshold), key=LADDER.index)
