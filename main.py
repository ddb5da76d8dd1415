"""The commands of the earlier services, as their documents print them: `python main.py --test-message …`.

`pip install -r requirements.txt` puts the same program onto the PATH as `turnkeep`.
"""

import sys

from turnkeep.cli import main

if __name__ == "__main__":
    sys.exit(main())
