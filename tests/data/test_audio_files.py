"""Clips of audio: values of each format, and damaged or hostile files as one sentence with the name of the file."""

from __future__ import annotations

import struct
import wave

import numpy as np
import pytest
import torch

from limbeck import LimbeckError
from limbeck.data.audio_files import read_audio, resample


def write(path, raw, *, width=2, channels=1, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_each_width_are_fractions_of_full_scale(tmp_path, width):
    scale = 2 ** (8 * width - 1)
    values = [-scale, -scale // 2, 0, scale // 2, scale - 1]
    offset = scale if width == 1 else 0  # 8 bits have no sign
    raw = b"".join((v + offset).to_bytes(width, "little", signed=width > 1) for v in values)
    samples, rate = read_audio(write(tmp_path / "a.wav", raw, width=width))
    assert (rate, samples.dtype) == (8000, torch.float32)
    np.testing.assert_allclose(samples.numpy(), np.array(values) / scale, atol=1e-6)


def test_channels_are_averaged(tmp_path):
    path = write(tmp_path / "a.wav", struct.pack("<4h", 100, 300, -200, 0), channels=2)
    np.testing.assert_allclose(read_audio(path)[0].numpy() * 32768, [200, -100], atol=1e-3)


def test_flac_and_floating_point_wav(tmp_path):
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed: pip install 'limbeck[speech]'")
    values = np.random.default_rng(0).uniform(-0.9, 0.9, size=300)
    soundfile.write(tmp_path / "a.flac", values, 16000, subtype="PCM_24")
    soundfile.write(tmp_path / "b.wav", values.astype(np.float32), 16000, subtype="FLOAT")
    for name in ("a.flac", "b.wav"):
        samples, rate = read_audio(tmp_path / name)
        assert rate == 16000
        np.testing.assert_allclose(samples.numpy(), values, atol=1e-6)
    soundfile.write(tmp_path / "c.wav", np.array([0.0, np.nan], np.float32), 16000, subtype="FLOAT")
    with pytest.raises(LimbeckError, match=r"sample 1 of the clip \S+c\.wav must be finite, got nan"):
        read_audio(tmp_path / "c.wav")
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "d.flac").write_bytes(content[:20])
    with pytest.raises(LimbeckError, match=r"d\.flac cannot be read"):
        read_audio(tmp_path / "d.flac")


@pytest.mark.parametrize(
    ("rate", "message"), [(1, "from 1,000 to 768,000 Hz, got 1:"), (2**31 - 1, "got 2,147,483,647")]
)
def test_an_absurd_sampling_rate_is_refused(tmp_path, rate, message):
    path = write(tmp_path / "a.wav", b"\0\0" * 8, rate=8000)
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(bytes(content))
    with pytest.raises(LimbeckError, match=message) as error:
        read_audio(path)
    assert "a.wav" in str(error.value)


def test_without_soundfile_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    with pytest.raises(LimbeckError, match=r"a\.flac needs soundfile, .* pip install 'limbeck\[speech\]'"):
        read_audio(tmp_path / "a.flac")


def test_resampling_keeps_a_tone():
    time = np.arange(1600) / 8000
    tone = torch.from_numpy(np.sin(2 * np.pi * 440 * time)).float()
    expected = np.sin(2 * np.pi * 440 * np.arange(3200) / 16000)
    np.testing.assert_allclose(resample(tone, 8000, 16000)[200:-200].numpy(), expected[200:-200], atol=2e-3)


def test_a_truncated_file_is_named_with_its_reason(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    with pytest.raises(LimbeckError, match=r"a\.wav cannot be read \(it is truncated\)"):
        read_audio(tmp_path / "a.wav")
