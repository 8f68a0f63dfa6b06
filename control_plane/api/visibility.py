"""Which teams a caller sees."""

from __future__ import annotations

from control_plane.auth import ALL_TEAMS, Principal


def visible_teams(caller: Principal) -> tuple[str, ...] | None:
    """Return the teams ``caller`` sees, None for all of them."""
    return None if ALL_TEAMS in caller.teams else caller.teams
