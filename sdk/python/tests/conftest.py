"""What several tests use."""

import sys
import time
from pathlib import Path

import pytest

# The library need not be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))


@pytest.fixture
def eventually():
    """Waits for a condition, at most ten seconds."""

    def wait(condition):
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.005)

    return wait
