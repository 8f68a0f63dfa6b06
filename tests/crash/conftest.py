"""What these tests are made of is a package of its own beside them; a traced process imports it too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
