"""`python -m turnkeep`."""

from __future__ import annotations

import sys

from turnkeep.cli import main

if __name__ == "__main__":
    sys.exit(main())
