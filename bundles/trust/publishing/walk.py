"""Walking a repository's next state as devices will, before any of them can see it.

TUF's own client does the walk, once as a new device and once as one that holds the state before, with every
delegated role looked up: whatever it refuses, a fleet would refuse.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime

from bundles.errors import AskPerson, TrustRefused, TryAgain
from bundles.trust.device.cache import passing_cache
from bundles.trust.fetch import LIMITS, table_fetch
from bundles.trust.publishing.event import not_listed
from bundles.trust.roles import split_file


def check_as_devices(
    before: Mapping[str, bytes],
    written: Mapping[str, bytes],
    paths: Collection[str],
    probes: Collection[str],
    now: datetime,
) -> None:
    """Check that devices accept the next state.

    Args:
        before: every file served until now, by name.
        written: the new files.
        paths: target paths that must then be listed.
        probes: paths, one for each delegated role, that must lead to a role that verifies.
        now: time expiry is judged against.

    Raises:
        TrustRefused: what a device would refuse it with; ``TRUST_NOT_LISTED`` for one of ``paths``.
        AskPerson: ``TRUST_ROOT_CHAIN``: more roots than TUF's client follows, which starts from the root a device was
            made with every time.
    """
    served = {**before, **written}
    bootstrap = _bootstrap(served)
    for has_state in (False, True):
        with passing_cache(bootstrap) as cache:
            if has_state:
                # After a long rest the state before has expired; devices then have nothing newer than it either.
                with suppress(TrustRefused, TryAgain):
                    known = cache.load(table_fetch(dict(before)), now)
                    for path in probes:
                        cache.look_up(known, path, now)
            repository = cache.load(table_fetch(served), now)
            for path in (*paths, *probes):
                if cache.look_up(repository, path, now)[0] is None and path in paths:
                    raise not_listed(path)


def _bootstrap(served: Mapping[str, bytes]) -> bytes:
    """Return the oldest root: a device that starts from it must be able to follow to the newest."""
    roots = {version: name for name in served for role, version in (split_file(name),) if role == "root" and version}
    if max(roots) - min(roots) > LIMITS.max_root_rotations:
        raise AskPerson(
            f"Devices that start from root {min(roots)} follow {LIMITS.max_root_rotations} newer ones, not to "
            f"{max(roots)}.",
            code="TRUST_ROOT_CHAIN",
            remedy="Give all devices a newer root with their next agent, then remove the oldest roots from the folder.",
        )
    return served[roots[min(roots)]]
