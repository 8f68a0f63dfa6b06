"""The scripts are no installed package: their folder goes on the path, as running them does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))
