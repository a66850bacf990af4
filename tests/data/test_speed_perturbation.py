"""Speed perturbation: pitch and length of a clip change by the speed, its target does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.data.test_spoken_digits import write_clips

from limbeck import LimbeckError
from limbeck.data.sources import SpokenDigits
from limbeck.data.speed_perturbation import change_speed


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_a_tone_is_higher_and_shorter_by_the_speed(speed):
    time = np.arange(8000) / 8000
    tone = torch.from_numpy(np.sin(2 * np.pi * 500 * time)).float()
    changed, rate = change_speed(tone, 8000, speed)
    assert (rate, len(changed)) == (8000, int(np.ceil(8000 / speed)))
    expected = np.sin(2 * np.pi * 500 * speed * np.arange(len(changed)) / 8000)
    np.testing.assert_allclose(changed[300:-300].numpy(), expected[300:-300], atol=2e-3)


def test_training_clips_are_samples_at_each_speed_with_their_target(tmp_path):
    folder = write_clips(tmp_path / "fsdd", takes=7, speakers=("ann", "bob", "cat"))
    settings = {"root": str(folder), "mels": 8, "test_by": "speakers", "test_speakers": ("bob",),
                "val_speakers": ("cat",), "num_labeled": 20}  # fmt: skip
    plain, data = SpokenDigits(**settings).load(), SpokenDigits(**settings, speeds=(0.9, 1.0, 1.25)).load()
    count = len(plain.train)
    assert (len(data.train), data.num_labeled) == (3 * count, 60)
    assert len(data.train.sample_ids.unique()) == 3 * count
    assert not set(data.train.sample_ids.tolist()) & set(data.validation.sample_ids.tolist())
    first, copies = (data.train.read_fields(torch.arange(i * count, (i + 1) * count)) for i in (0, 1))
    assert torch.equal(first["target"], copies["target"])
    assert torch.equal(first["target_length"], copies["target_length"])
    num_samples = (first["input_length"].numpy() - 1) * 80  # a frame is 10 ms, and the clips are whole frames
    assert copies["input_length"].tolist() == (1 + np.ceil(num_samples / 0.9).astype(int) // 80).tolist()
    assert torch.equal(data.train.sample_ids[:count], plain.train.sample_ids)


@pytest.mark.parametrize("speeds", [(0.9, 1.1), (1.0, 1.0), (1.0, 3.0), (1.0, float("nan"))])
def test_speeds_that_cannot_work_are_refused(tmp_path, speeds):
    folder = write_clips(tmp_path / "fsdd", takes=6, speakers=("ann",))
    with pytest.raises(LimbeckError, match=r"speeds must be at most 16 numbers from 0\.5 to 2\.0"):
        SpokenDigits(root=str(folder), mels=4, speeds=speeds).load()
