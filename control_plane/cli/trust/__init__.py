"""``wavegate trust``: keys, roles, and the events that people sign. A file a noun; the work is in ``bundles.trust``.

Every change follows one path: a command drafts it on the verified current metadata and writes an *event*; holders
``sign`` it, each on a copy if they like (``merge``); ``publish`` hands it to the server.
"""

from __future__ import annotations

import typer

from control_plane.cli.trust import (
    ceremony,
    delegation,
    floors,
    founding,
    inspection,
    keys,
    publishing,
    renewal,
    revocation,
    rotation,
    signing,
    staging,
    verification,
)

app = typer.Typer(help="Keys, roles and who may sign what.", no_args_is_help=True)
for noun in (ceremony, founding, inspection, signing, publishing, renewal, floors, verification):
    app.registered_commands += noun.app.registered_commands
for name, group in (
    ("key", keys.app),
    ("delegate", delegation.app),
    ("stage", staging.app),
    ("rotate", rotation.app),
    ("revoke", revocation.app),
):
    app.add_typer(group, name=name)
