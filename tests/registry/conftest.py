"""A place whose disk is fast: killing a process asks nothing of it, forcing files does."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def quick_path(tmp_path):
    """Like ``tmp_path``, in memory where the system has such a place."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    folder = tempfile.mkdtemp(dir="/dev/shm")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
