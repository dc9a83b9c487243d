"""Where Weitiao keeps what it fetched or measured. Apart from ``sources``: a cold start pays for each import."""

import os
from pathlib import Path


def home() -> Path:
    """The folder of the local cache: ``WEITIAO_HOME``, else ``~/.cache/weitiao``."""
    return Path(os.environ.get("WEITIAO_HOME") or "~/.cache/weitiao").expanduser()
