"""People with a shell each: their own folder, their own keys, and a small bundle project to sign."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bundles.contract import Contract, TensorSpec, encode_contract
from control_plane.cli.root import run

PROJECT = """
contract = "contract.json"
goldens = "goldens.npz"
[bundle]
team = "{team}"
model = "digits"
version = "{version}"
release_counter = {counter}
[[variants]]
id = "t"
runtime = "tflite"
file = "m.tflite"
[training]
rows = "rows.npz"
"""
CONTRACT = Contract(
    inputs=[TensorSpec("x", "float32", [1, 2], kind="tabular", features=["a", "b"])],
    outputs=[TensorSpec("p", "float32", [1, 2], min=0, max=1)],
    task="classification",
    labels=["no", "yes"],
)


class Person:
    """Somebody in a folder of their own, with a shell."""

    def __init__(self, home: Path, monkeypatch, capsys) -> None:
        home.mkdir()
        self.home, self._monkeypatch, self._capsys = home, monkeypatch, capsys

    def call(self, line: str) -> tuple[int, str, str]:
        """Run one command line here; return (exit code, stdout, stderr)."""
        self._monkeypatch.chdir(self.home)
        self._capsys.readouterr()
        code = run(line.split())
        out, err = self._capsys.readouterr()
        return code, out, err

    def do(self, line: str) -> dict:
        """Run a command line that must succeed; return its JSON answer."""
        code, out, err = self.call(line + " --json")
        assert code == 0, err
        return json.loads(out)

    def fail(self, line: str, code: str) -> str:
        """Run a command line that must be refused with ``code``; return what it said."""
        exit_code, _, err = self.call(line)
        assert exit_code != 0
        assert f"[{code}]" in err, err
        return err

    def send(self, name: str, other: Person) -> None:
        """Pass a file or folder on, as a copy."""
        source, target = self.home / name, other.home / Path(name).name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)

    def build(self, team: str, version: str, counter: int) -> str:
        """Build a bundle; return its file name."""
        rng = np.random.default_rng(3)
        home, name = self.home, f"{team}-{version}.wgb"
        half = np.full((4, 2), 0.5, np.float32)
        np.savez(home / "goldens.npz", **{"input.x": np.ones((4, 2), np.float32), "output.p": half})
        np.savez(home / "rows.npz", **{"input.x": rng.random((300, 2))})
        (home / "m.tflite").write_bytes(b"model " + version.encode())
        (home / "contract.json").write_bytes(encode_contract(CONTRACT))
        (home / "bundle.toml").write_text(PROJECT.format(team=team, version=version, counter=counter))
        code, _, err = self.call(f"bundle build bundle.toml -o {name}")
        assert code == 0, err
        return name


@pytest.fixture
def person(tmp_path, monkeypatch, capsys):
    """Return a maker of people."""
    for name in ("WAVEGATE_KEY_PASSPHRASE", "WAVEGATE_OUTPUT", "WAVEGATE_ROOT", "WAVEGATE_METADATA"):
        monkeypatch.delenv(name, raising=False)
    return lambda name: Person(tmp_path / name, monkeypatch, capsys)
