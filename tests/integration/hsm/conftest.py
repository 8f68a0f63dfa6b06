"""A PKCS#11 token in software (SoftHSM2, as Debian ships it), and command lines in processes of their own.

Every command is a process: a PKCS#11 module is loaded once a process and reads its settings then.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
PIN = "493817"
MAKE_KEY = """
import os, sys
import pkcs11
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(token_label="release")
with token.open(user_pin=sys.argv[1], rw=True) as session:
    curve = encode_named_curve_parameters(sys.argv[3])
    parameters = session.create_domain_parameters(pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True)
    parameters.generate_keypair(store=True, id=bytes([int(sys.argv[2])]), label="targets",
        mechanism_param=None, capabilities=pkcs11.defaults.DEFAULT_KEY_CAPABILITIES[pkcs11.KeyType.EC])
"""


class Desk:
    """A folder, the environment of a signer at a token, and a shell."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def call(self, line: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "control_plane.cli.main", *line.split()],
            cwd=self.folder,
            env={**self.environment, **extra},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    def do(self, line: str, **extra: str) -> dict:
        done = self.call(line + " --json", **extra)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def make_key(self, number: int, curve: str = "secp256r1") -> None:
        """Generate a key pair on the token; its private half never leaves it."""
        line = [sys.executable, "-c", MAKE_KEY, PIN, str(number), curve]
        done = subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def desk(tmp_path):
    module = next((path for path in MODULES if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.fail("SoftHSM2 is missing; install it: apt-get install softhsm2")
    (tmp_path / "tokens").mkdir()
    settings = tmp_path / "softhsm2.conf"
    settings.write_text(
        f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WAVEGATE_")}
    environment |= {"SOFTHSM2_CONF": str(settings), "PYKCS11LIB": module}
    environment["WAVEGATE_CONFIG"] = str(tmp_path / "config" / "profiles.json")
    make = ["softhsm2-util", "--init-token", "--free", "--label", "release", "--pin", PIN, "--so-pin", "86420"]
    done = subprocess.run(make, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (tmp_path / "desk").mkdir()
    return Desk(tmp_path / "desk", environment)
