"""``python -m weitiao``."""

import sys

from weitiao.cli import main

if __name__ == "__main__":
    sys.exit(main())
