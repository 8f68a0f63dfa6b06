"""``python -m agent.cli``: the same as ``wavegate-agent``."""

import sys

from agent.cli import main

sys.exit(main())
