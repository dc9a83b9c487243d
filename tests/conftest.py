"""What all tests share: one language, no hub, one thread, and where the data lies."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Set before anything imports torch or numpy, and inherited by the commands that tests start.
os.environ |= {
    "WEITIAO_LANG": "en",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "WANDB_MODE": "offline",
    "MPLBACKEND": "Agg",
}

ROOT = Path(__file__).resolve().parents[1]

# A busy machine must not fail a test: no deadline for an example.
settings.register_profile("weitiao", deadline=None, max_examples=50)
settings.load_profile("weitiao")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def example_data() -> Path:
    """The data sets that ship with the project: examples/data/README.md lists them."""
    return ROOT / "examples" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The larger data sets beside the repository, which may not be shipped; the test skips where they are absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data sets are not on this machine")
    return folder
