"""One thread for every test: two workers on two cores leave no core for more, and waiting threads are slow."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for this process, as torch is imported later, and for those it starts

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """A recipe may ask for more; the next test starts with one again."""
    torch.set_num_threads(1)
