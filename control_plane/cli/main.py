"""``wavegate``: the entry point. Answers ``version`` at once, everything else through the lazily loaded groups.

Rules: data on stdout, chatter and errors on stderr as ``[CODE] sentence remedy``; exit codes as in ``EXIT``. Nothing of
the server is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["version"], ["--version"]):
        from bundles import __version__

        sys.stdout.write(f"wavegate {__version__}\n")
        sys.exit(0)
    try:
        from control_plane.cli.root import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "yaml", "httpx", "platformdirs"):
            raise
        # A device has only the agent's packages; this command is for operators.
        sys.stderr.write(f"[CLI_NOT_INSTALLED] {error.name} is missing here. Install it: pip install 'wavegate[cli]'\n")
        sys.exit(1)
    sys.exit(run(given))


if __name__ == "__main__":
    main()
