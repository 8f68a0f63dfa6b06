from __future__ import annotations

import subprocess
import sys

PROBE = """
import importlib, pkgutil, sys
import bundles
for module in pkgutil.walk_packages(bundles.__path__, "bundles."):
    importlib.import_module(module.name)
print(sorted(set(name.partition(".")[0] for name in sys.modules) & {
    "numpy", "pydantic", "fastapi", "sqlmodel", "sqlalchemy", "httpx", "typer", "rich", "onnxruntime", "requests",
    "agent", "control_plane",
}))
"""


def test_importing_all_of_bundles_loads_nothing_heavy():
    """Devices import this package; numpy and the rest are loaded where they are used, if at all."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
