"""Write the sample database of kmc.toml to a file, to look at it or to try a file URL.

python examples/tools/make_sample.py kmc-sample.sqlite3

Then `url = "sqlite:///kmc-sample.sqlite3"` in the TOML file, without `script`; the path is relative to that file.
"""

import sqlite3
import sys
from pathlib import Path


def make_sample(target: Path) -> None:
    """A new database; an existing file is left alone."""
    if target.exists():
        raise SystemExit(f"{target} exists; remove it or name another file")
    script = Path(__file__).with_name("kmc-sample.sql").read_text(encoding="utf-8")
    connection = sqlite3.connect(target)
    connection.executescript(script)
    connection.close()


if __name__ == "__main__":
    make_sample(Path(sys.argv[1] if len(sys.argv) > 1 else "kmc-sample.sqlite3"))
