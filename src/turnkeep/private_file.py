"""Files that hold what people said, or secrets: for their owner alone, and never through somebody
else's link.
"""

from __future__ import annotations

import os
from pathlib import Path


def make(path: Path) -> int:
    """A descriptor of a new file, to be written. Raises FileExistsError for anything that is there,
    a link too: O_EXCL follows none.
    """
    # The mode at creation: a chmod afterwards leaves a moment in which others can open it.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
