"""The commands of ``wavegate-agent`` and their options. Imports nothing of the agent, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; ``target`` of what it parses names the command's function as ``module:function``."""
    parser = argparse.ArgumentParser(prog="wavegate-agent", description="The Wavegate agent of this device.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str, target: str, *, has_dir: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(target=f"agent.cli.{target}")
        if has_dir:
            sub.add_argument("--dir", type=Path, required=True, help="the agent's folder")
        return sub

    sub = command("run", "Run the agent until it is told to stop.", "service:run")
    sub.add_argument("--verbose", action="store_true", help="log what the agent does")

    sub = command("enroll", "Give this device an identity at a server.", "service:enroll")
    sub.add_argument("--url", required=True, help="the server's device port, such as https://host:8443")
    sub.add_argument("--token", default="", help="claim token; '-' reads it from standard input; none asks a person")
    sub.add_argument("--wait", action="store_true", help="without a token: ask again until a person has decided")
    sub.add_argument("--serial", default="", help="the hardware's serial number")
    sub.add_argument("--ca", type=Path, required=True, help="server-ca.pem: the pin")
    sub.add_argument("--root", type=Path, required=True, help="root.json of the key ceremony")
    sub.add_argument("--name", default="", help="id to ask for")
    sub.add_argument("--hardware", default="", help="hardware class")
    sub.add_argument("--runtime", action="append", default=[], help="runtime to use, in order (may be repeated)")
    sub.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="trait (may be repeated)")
    sub.add_argument("--channel", choices=("dev", "canary", "prod"), default="prod", help="lowest channel accepted")
    sub.add_argument("--allow-demo-keys", action="store_true", help="take a demo's root of trust; never for real use")
    sub.add_argument("--stream", default="", help=".npz that a built-in camera shows to the model")
    sub.add_argument("--rate-hz", type=float, default=5.0, help="inputs a second of that camera")
    sub.add_argument("--no-mqtt", action="store_true", help="poll over HTTPS even where there is a broker")

    sub.add_argument("--factory", action="append", type=Path, default=[], help=".wgb to fall back on (may be repeated)")

    sub = command("factory", "Install a bundle that this device falls back on for ever.", "factory:factory")
    sub.add_argument("do", choices=("install",), help="place the bundle")
    sub.add_argument("file", type=Path, help=".wgb")

    sub = command("status", "Say how the agent of this folder stands.", "updates:status")
    sub.add_argument("--json", action="store_true")

    sub = command("infer", "Ask a model of the running agent.", "local:infer")
    sub.add_argument("model", help="team/model")
    sub.add_argument("--input", type=Path, required=True, help=".npy (one input) or .json {name: values}")

    command("selftest", "Check identity, store, runtimes and server.", "local:selftest")

    sub = command("doctor", "Say what is wrong with this device, and what blocks the network.", "local:doctor")
    sub.add_argument("--network", action="store_true", help="look at the way to the server alone")
    sub.add_argument("--json", action="store_true")

    sub = command("rollback", "Go back to the previous release of a model.", "updates:rollback")
    sub.add_argument("--model", default="", help="team/model; may be left out where there is one")

    sub = command("retry", "Take up again a release that was put off, failed or was denied.", "updates:retry")
    sub.add_argument("--model", default="", help="team/model; may be left out where there is one")

    sub = command("lock", "Run a command while no other release may begin to answer.", "updates:lock")
    sub.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command and its arguments")

    sub = command("accelerators", "List runtimes and what they can run on.", "local:accelerators")
    sub.add_argument("--json", action="store_true")

    sub = command("simulate", "Run virtual devices; commands are read from standard input.", "service:simulate")
    sub.add_argument("--count", type=int, required=True)
    sub.add_argument("--prefix", default="cam-")
    sub.add_argument("--first", type=int, default=1, help="number of the first device")
    sub.add_argument("--url", required=True)
    sub.add_argument("--ca", type=Path, required=True)
    sub.add_argument("--root", type=Path, required=True)
    sub.add_argument("--token", required=True, help="counted claim token; '-' reads it from the first line of input")
    sub.add_argument("--hardware", required=True, metavar="NAME:RUNTIME,...", help="kinds of device, dealt in turn")
    sub.add_argument("--label", action="append", default=[], metavar="NAME=VALUE,...", help="values dealt in turn")
    sub.add_argument("--allow-demo-keys", action="store_true", help="take a demo's root of trust; never for real use")
    sub.add_argument("--stream", type=Path, required=True, help=".npz the devices watch")
    sub.add_argument("--rate-hz", type=float, default=5.0)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--no-mqtt", action="store_true")
    sub.add_argument("--verbose", action="store_true")

    sub = command("install-service", "Make the agent a service of systemd.", "systemd:install_service")
    sub.add_argument("--user", default="wavegate", help="whom it runs as (default: wavegate)")
    sub.add_argument("--device", action="append", default=[], metavar="/dev/...", help="accelerator (may be repeated)")
    sub.add_argument("--memory-max", type=int, default=0, metavar="MIB", help="most memory, workers included")
    sub.add_argument("--root", type=Path, default=Path("/"), help="write below this folder: of an image being built")
    sub.add_argument("--print", action="store_true", help="show the files and write nothing")
    sub.add_argument("--enable", action="store_true", help="start it now and at every boot")
    sub.add_argument("--json", action="store_true")

    sub = command("uninstall-service", "Take the service away; the agent's folder stays.", "systemd:uninstall_service",
                  has_dir=False)  # fmt: skip
    sub.add_argument("--root", type=Path, default=Path("/"), help="remove below this folder")
    sub.add_argument("--json", action="store_true")

    command("version", "Print the version.", "local:version", has_dir=False)
    return parser
