"""Named servers and tokens in one file (0600) of the user's configuration folder; ``WAVEGATE_CONFIG`` moves it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from control_plane.errors import NotFound, SetUpWrong


@dataclass(frozen=True)
class Profile:
    """One server."""

    url: str = ""
    token: str = ""


@dataclass(frozen=True)
class Profiles:
    """All of them; ``current`` is used where none is named."""

    current: str = ""
    profiles: dict[str, Profile] = field(default_factory=dict)

    def named(self, name: str) -> Profile:
        """Return the profile ``name``, the current one where ``name`` is empty, an empty one where there is none.

        Raises:
            NotFound: ``PROFILE_UNKNOWN`` for a name that was never set.
        """
        wanted = name or self.current
        if not wanted:
            return Profile()
        if wanted not in self.profiles:
            raise NotFound(
                f"No profile is called {wanted!r}.", code="PROFILE_UNKNOWN", remedy="See `wavegate profile list`."
            )
        return self.profiles[wanted]

    def with_profile(self, name: str, *, url: str, token: str) -> Profiles:
        """Return these with ``name`` set; an empty ``url`` or ``token`` keeps what was there. The first is current."""
        old = self.profiles.get(name, Profile())
        new = Profile(url=url or old.url, token=token or old.token)
        return replace(self, current=self.current or name, profiles={**self.profiles, name: new})


def path() -> Path:
    """Return where the file is."""
    if told := os.environ.get("WAVEGATE_CONFIG"):
        return Path(told)
    import platformdirs

    return Path(platformdirs.user_config_dir("wavegate")) / "profiles.json"


def load() -> Profiles:
    """Read the file; empty where there is none.

    Raises:
        SetUpWrong: ``PROFILE_FILE`` where it cannot be read.
    """
    try:
        return msgspec.json.decode(path().read_bytes(), type=Profiles)
    except FileNotFoundError:
        return Profiles()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetUpWrong(
            f"The profile file {path()} cannot be read: {error}.", code="PROFILE_FILE", remedy="Mend or remove it."
        ) from error


def save(profiles: Profiles) -> None:
    """Write the file so that only its owner can read it, whole or not at all."""
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(profiles), indent=2))
    scratch.replace(target)
