"""Who may do what on the operators' side: roles, teams, and the form of tokens.

A token is ``wgo_`` and 43 characters of 256 random bits; only its sha256 is kept, so a copy of the database signs
nobody in. Leaves the table of tokens to ``services.tokens`` and HTTP to ``api``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from bundles.digest import sha256_hex
from control_plane.errors import NotAllowed

TOKEN_PREFIX = "wgo_"
TOKEN_RANDOM_BYTES = 32
ALL_TEAMS = "*"


class Role(IntEnum):
    """Roles, each including those below it."""

    VIEWER = 1
    OPERATOR = 2
    APPROVER = 3
    ADMIN = 4

    @property
    def label(self) -> str:
        """The role's name on the wire and in the database."""
        return self.name.lower()

    @classmethod
    def of(cls, label: str) -> Role:
        """Return the role called ``label``.

        Raises:
            NotAllowed: ``ROLE_UNKNOWN``.
        """
        try:
            return cls[label.upper()]
        except KeyError:
            names = ", ".join(role.label for role in cls)
            raise NotAllowed(f"{label!r} is no role.", code="ROLE_UNKNOWN", remedy=f"Use one of {names}.") from None


@dataclass(frozen=True)
class Principal:
    """Somebody who signed in.

    Attributes:
        name: who; what audit rows and the four-eyes rule compare.
        role: the most they may do.
        teams: the teams they may do it for; ``*`` for all.
        token_id: the token they came with.
    """

    name: str
    role: Role
    teams: tuple[str, ...] = (ALL_TEAMS,)
    token_id: str = ""

    def require(self, role: Role, team: str = "") -> None:
        """Refuse unless this principal has ``role`` (and may act for ``team``, where one is named).

        Raises:
            NotAllowed: ``ROLE_REQUIRED`` or ``TEAM_REQUIRED``.
        """
        if self.role < role:
            raise NotAllowed(
                f"This needs the role {role.label}; {self.name!r} has {self.role.label}.",
                code="ROLE_REQUIRED",
                remedy="Ask an administrator for a token with that role.",
            )
        if team and not self.may_see(team):
            raise NotAllowed(
                f"{self.name!r} may not act for team {team!r}.",
                code="TEAM_REQUIRED",
                remedy="Ask an administrator for a token of that team.",
            )

    def may_see(self, team: str) -> bool:
        """Whether ``team`` is among this principal's teams."""
        return ALL_TEAMS in self.teams or team in self.teams


def new_token(random_bytes: Callable[[int], bytes]) -> str:
    """Make a token from an injected source of randomness, such as ``secrets.token_bytes``."""
    body = base64.urlsafe_b64encode(random_bytes(TOKEN_RANDOM_BYTES)).decode().rstrip("=")
    return TOKEN_PREFIX + body


def token_hash(token: str) -> str:
    """Return what the database keeps of ``token``. (256 random bits need no slow hash.)"""
    return sha256_hex(token.encode())
