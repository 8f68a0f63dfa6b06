"""``factory install``: a bundle that this device falls back on for ever."""

from __future__ import annotations

import argparse

from agent.cli.words import say, tell


def factory(options: argparse.Namespace) -> int:
    """Install a ``.wgb`` as the factory release of its model."""
    from agent.runner.factory import install_factory

    release = install_factory(options.dir, options.file)
    say(release.sha256)
    tell(f"{release.target} is this device's factory release: it answers where nothing else here is sound.")
    return 0
