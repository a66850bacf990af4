"""One thread and one seed for every test.

Two workers on two cores leave no core for a second thread, and threads that wait for each other are slow.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for this process, as torch is imported later, and for those it starts

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    """A recipe may ask for more threads; the next test starts with one again."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
