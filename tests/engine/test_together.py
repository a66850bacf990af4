"""Two processes together do what one does with the doubled batch."""

import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).with_name("together.py")


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = [
        subprocess.run([sys.executable, str(SCRIPT), str(one), "32"], capture_output=True, text=True),
        subprocess.run([*launch, str(SCRIPT), str(two), "16"], capture_output=True, text=True),
    ]
    assert all(process.returncode == 0 for process in done), [process.stderr for process in done]
    ours, theirs = (torch.load(folder / "final.pt", weights_only=True) for folder in (one, two))
    assert ours.keys() == theirs.keys()
    assert any("projection" in name for name in ours)
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-5), name
    assert len(list(two.rglob("*.pt"))) == 2, "each process wrote a checkpoint of its own"
