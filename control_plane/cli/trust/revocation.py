"""``wavegate trust revoke``: forbid a bundle, or take out a key that was lost or stolen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli.output import say
from control_plane.cli.trust.event_command import Making, makes_event

app = typer.Typer(help="Forbid a bundle, or take out a key.", no_args_is_help=True)


@app.command("bundle")
@makes_event
def bundle(
    making: Making,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="TEAM/MODEL/VERSION, a digest, or a .wgb file.")],
    reason: Annotated[str, typer.Option(help="Why, in a few words; devices report it.")],
    by_targets: Annotated[
        bool, typer.Option("--by-targets", help="By the targets role: reaches what devices were made with, too.")
    ] = False,
) -> None:
    """Forbid a bundle for good: one signature keeps it from being installed, two also stop it where it runs."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.statements import revoke_bundle

    ground = making.ground()
    digest = _digest(bundle, {p: t.hashes["sha256"] for r in ground.state.roles.values() for p, t in r.targets.items()})
    drafts = revoke_bundle(ground.state, digest, reason, ground.now_ms, by_targets=by_targets)
    if not by_targets:
        say("One signature keeps it from being installed; a second (`trust sign`) also stops it where it runs.")
    making.finish(ground, "revoke bundle", encode_drafts(drafts), note=reason, more={"bundle": digest})


@app.command("key")
@makes_event
def key(
    making: Making,
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="The key: its id or the beginning of it, or its .pub file.")
    ],
    replacement: Annotated[
        Path | None, typer.Option(help="Public key that takes its place; needed where too few others are left.")
    ] = None,
) -> None:
    """Take a lost or stolen key out of every role it is in, in one event."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.lostkeys import revoke_key
    from bundles.trust.signing.signers import load_public

    ground = making.ground()
    keyid = load_public(Path(key)).keyid if Path(key).with_suffix(".pub").is_file() else key
    fresh = load_public(replacement) if replacement is not None else None
    plan = revoke_key(ground.state, keyid, ground.now_ms, replacement=fresh)
    for sentence in plan.words:
        say(sentence)
    more = {"roles": plan.roles, "words": plan.words}
    making.finish(ground, "revoke key", encode_drafts(plan.drafts), more=more)


def _digest(name: str, listed: dict[str, str]) -> str:
    """Return the bundle digest that ``name`` means; a digest that is not listed is taken as it is.

    Raises:
        NotFound: ``RELEASE_UNKNOWN``.
    """
    from bundles.archive import open_archive
    from bundles.digest import is_sha256
    from control_plane.errors import NotFound

    if name.endswith(".wgb") and Path(name).is_file():
        return open_archive(Path(name)).sha256
    if is_sha256(name):
        return name
    path = f"{name.replace('@', '/').removesuffix('/bundle.json')}/bundle.json"
    found = {
        digest for target, digest in listed.items() if target == path or (len(name) >= 8 and digest.startswith(name))
    }
    if len(found) != 1:
        raise NotFound(
            f"{name!r} means {len(found) or 'none'} of the bundles that are listed.",
            code="RELEASE_UNKNOWN",
            remedy="Give TEAM/MODEL/VERSION as it is listed, the whole digest, or the .wgb file.",
        )
    return found.pop()
