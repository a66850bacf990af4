"""Spoken digits: log-mel frames and phonemes, split by takes or speakers."""

from __future__ import annotations

import wave

import numpy as np
import pytest
import torch

from limbeck import LimbeckError
from limbeck.data.audio_files import read_wav
from limbeck.data.log_mel import log_mel, mel_filters
from limbeck.data.sources import SpokenDigits
from limbeck.data.sources.spoken_digits import PHONEMES


def write_wav(path, values, *, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.asarray(values) * 32767).astype("<i2").tobytes())


def write_clips(folder, *, takes=8, speakers=("ann", "bob")):
    folder.mkdir()
    random = np.random.default_rng(0)
    for digit in range(10):
        for speaker in speakers:
            for take in range(takes):
                noise = random.normal(size=1200 + 80 * digit) * 0.1
                write_wav(folder / f"{digit}_{speaker}_{take}.wav", noise)
    return folder


def test_a_tone_has_its_energy_in_its_band():
    time = np.arange(4000) / 8000
    energy = log_mel(torch.from_numpy(np.sin(2 * np.pi * 1000 * time)).float(), 8000, mels=40)
    # HTK: 1000 Hz is 1000 mel, and 4000 Hz is 2146 mel: the band of 41 equal steps nearest to 1000 mel.
    top = 2595 * np.log10(1 + 4000 / 700)
    centers = np.arange(1, 41) * top / 41
    assert int(energy.mean(dim=0).argmax()) == int(np.abs(centers - 2595 * np.log10(1 + 1000 / 700)).argmin())


def test_log_mel_is_the_filtered_power_of_windows():
    samples = np.random.default_rng(0).normal(size=900)
    frames = log_mel(torch.from_numpy(samples).float(), 8000, mels=12).double().numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 200)
    padded = np.pad(samples, 128)
    for index in (0, 3, 11):
        start = index * 80 + (256 - 200) // 2
        power = np.abs(np.fft.rfft(np.pad(padded[start : start + 200] * window, (28, 28)))) ** 2
        np.testing.assert_allclose(
            frames[index], np.log(power @ mel_filters(12, 256, 8000).double().numpy() + 1e-6), rtol=1e-4
        )


@pytest.mark.parametrize("rate", [8000, 16000])
def test_log_mel_is_that_of_numpy(rate):
    """Windows, spectrum and filters in NumPy float64, from the definitions."""
    samples = np.random.default_rng(1).normal(size=rate // 4)
    length, hop, size, mels = rate // 40, rate // 100, 256 * rate // 8000, 20
    window = np.sin(np.pi * np.arange(length) / length) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 1400), mels + 2) / 2595) - 1)
    bins = np.arange(size // 2 + 1) * rate / size
    filters = np.array([np.interp(bins, edges[m : m + 3], [0, 1, 0]) for m in range(mels)])
    padded = np.pad(samples, (length // 2, length))
    angles = np.outer(np.arange(size // 2 + 1), np.arange(length)) * -2j * np.pi / size
    expected = [
        np.log(filters @ np.abs(np.exp(angles) @ (padded[start : start + length] * window)) ** 2 + 1e-6)
        for start in range(0, len(samples) + 1, hop)
    ]
    frames = log_mel(torch.from_numpy(samples).float(), rate, mels=mels)
    np.testing.assert_allclose(frames.double().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_log_mel_is_that_of_torchaudio():
    transforms = pytest.importorskip("torchaudio", reason="torchaudio is not installed").transforms
    samples = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    energy = transforms.MelSpectrogram(8000, 256, 200, 80, n_mels=40, pad_mode="constant")(samples)
    torch.testing.assert_close(log_mel(samples, 8000), (energy.T + 1e-6).log(), rtol=1e-4, atol=1e-4)


def test_takes_or_speakers_are_held_out(tmp_path):
    folder = write_clips(tmp_path / "fsdd")
    data = SpokenDigits(root=str(tmp_path), mels=8, num_labeled=20).load(seed=0)
    assert len(data.test) == 10 * 2 * 5
    assert len(data.train) + len(data.validation) == 10 * 2 * 3
    assert data.num_labeled == 20
    assert data.facts == {"mels": 8}
    batch = next(data.validation_batches())
    assert batch["input"].shape[2] == 8
    tokens = batch["target"][0][: batch["target_length"][0]].tolist()
    assert 0 not in tokens
    assert all(PHONEMES[token].isalpha() for token in tokens)
    with pytest.raises(LimbeckError, match="test_speakers must be some of ann, bob, got theo"):
        SpokenDigits(root=str(folder), test_by="speakers").load(seed=0)


def test_a_damaged_clip_and_a_missing_folder_are_one_sentence(tmp_path):
    (tmp_path / "0_ann_0.wav").write_bytes(b"no clip")
    with pytest.raises(LimbeckError, match=r"0_ann_0\.wav cannot be read"):
        read_wav(tmp_path / "0_ann_0.wav")
    write_wav(tmp_path / "1_ann_0.wav", [])
    with pytest.raises(LimbeckError, match="must have whole samples, got 0 bytes"):
        read_wav(tmp_path / "1_ann_0.wav")
    write_wav(tmp_path / "2_ann_0.wav", np.zeros(100))
    content = (tmp_path / "2_ann_0.wav").read_bytes()
    (tmp_path / "2_ann_0.wav").write_bytes(content[:-3])
    with pytest.raises(LimbeckError, match="must have whole samples"):
        read_wav(tmp_path / "2_ann_0.wav")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LimbeckError, match="the spoken digits were not found"):
        SpokenDigits(root=str(tmp_path / "empty")).load(seed=0)


def test_speakers_are_labeled_unlabeled_validated_and_tested(tmp_path):
    speakers = ("ann", "bob", "cat", "dan")
    write_clips(tmp_path / "fsdd", takes=6, speakers=speakers)
    settings = {"root": str(tmp_path), "mels": 4, "test_by": "speakers", "test_speakers": ("dan",)}
    by_speaker = SpokenDigits(**settings, val_speakers=("cat",), labeled_speakers=("ann",)).load()
    assert [len(by_speaker.train), by_speaker.num_labeled, len(by_speaker.validation)] == [120, 60, 60]
    assert len(by_speaker.test) == 60
    by_take = SpokenDigits(**settings, val_takes=True, labeled_speakers=("ann", "bob")).load()
    # Takes 0 to 4 of three speakers; of the sixth take of each digit, two of three speakers have a target.
    assert [len(by_take.validation), len(by_take.train), by_take.num_labeled] == [150, 30, 20]
    for changes, message in (
        ({"labeled_speakers": ("eve",)}, "labeled_speakers must be some of ann, bob, cat, dan, got eve"),
        ({"labeled_speakers": ("dan",)}, "labeled_speakers must have a training speaker, got dan"),
        ({"val_speakers": ("dan",)}, "must be different ones of"),
        ({"val_speakers": ("cat",), "val_takes": True}, "val_takes must be false with val_speakers"),
        ({"test_by": "takes", "val_takes": True}, "need test_by: speakers"),
    ):
        with pytest.raises(LimbeckError, match=message):
            SpokenDigits(**{**settings, **changes}).load()
