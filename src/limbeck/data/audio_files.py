"""Clips of audio: WAV by the standard library, FLAC and other formats by soundfile."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.utils.io import require_regular_file

__all__ = ["AUDIO_EXTENSIONS", "read_audio", "read_wav", "resample"]

AUDIO_EXTENSIONS: Final = (".wav", ".flac")
_MIN_RATE, _MAX_RATE = 1_000, 768_000
_MAX_SECONDS: Final = 3_600
_MAX_CHANNELS: Final = 64


def read_audio(path: Path) -> tuple[Tensor, int]:
    """The samples ``[n]`` of a clip in −1..1, float32, the mean of its channels, and its sampling rate in hertz.

    WAV files of 8, 16, 24 or 32 bits per sample are read by the standard library; FLAC, and WAV files of floating-point
    numbers, need soundfile (``pip install 'limbeck[speech]'``).

    Raises:
        LimbeckError: the file is damaged, empty or no audio, its sampling rate is absurd, it is longer than an hour, or
            a sample is not finite; the message has its name.
    """
    if path.suffix.lower() == ".wav" and not _has_float_samples(path):
        return read_wav(path)
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without the library libsndfile
        raise LimbeckError(
            f"the clip {path} needs soundfile, which is not installed: pip install 'limbeck[speech]'"
        ) from error
    try:
        with soundfile.SoundFile(str(require_regular_file(path))) as file:
            _require_limits(path, file.samplerate, file.channels, file.frames)
            values = torch.from_numpy(file.read(dtype="float32", always_2d=True))
            rate = int(file.samplerate)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise LimbeckError(
            f"the clip {path} cannot be read ({format_root_cause(error)}): replace or remove it"
        ) from error
    return _require_samples(path, values.mean(dim=1)), rate


def read_wav(path: Path) -> tuple[Tensor, int]:
    """As :func:`read_audio`, of a WAV file of whole numbers of 8, 16, 24 or 32 bits, without further packages."""
    try:
        with wave.open(str(require_regular_file(path)), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            # A header may ask for gigabytes, which would be allocated.
            num_frames = min(file.getnframes(), path.stat().st_size // max(channels * width, 1))
            _require_limits(path, rate, channels, num_frames)
            raw = file.readframes(num_frames)
    except (OSError, wave.Error, EOFError) as error:
        raise LimbeckError(
            f"the clip {path} cannot be read ({str(error) or 'it is truncated'}): replace or remove it"
        ) from error
    if not raw or len(raw) % (channels * width):
        raise LimbeckError(f"the clip {path} must have whole samples, got {len(raw)} bytes: replace or remove it")
    if not 1 <= width <= 4:
        raise LimbeckError(f"the clip {path} must have 8 to 32 bits per sample, got {8 * width}: convert it")
    values = torch.from_numpy(_to_floats(raw, width))
    return _require_samples(path, values.reshape(-1, channels).mean(dim=1)), rate


def resample(samples: Tensor, rate: int, new_rate: int) -> Tensor:
    """``samples`` ``[n]`` at another sampling rate, by a polyphase filter (``scipy.signal.resample_poly``).

    >>> resample(torch.zeros(80), 8000, 16000).shape
    torch.Size([160])
    """
    if rate == new_rate:
        return samples
    from math import gcd

    from scipy.signal import resample_poly

    divisor = gcd(rate, new_rate)
    return torch.from_numpy(resample_poly(samples.numpy(), new_rate // divisor, rate // divisor).copy())


def _to_floats(raw: bytes, width: int) -> NDArray[np.float32]:
    """Whole numbers of ``width`` bytes, of 1 byte without a sign, in −1..1."""
    if width == 1:
        return ((np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128).astype(np.float32)
    if width == 3:  # as the upper bytes of 32 bits
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        raw, width = padded.tobytes(), 4
    values: NDArray[np.float32] = (np.frombuffer(raw, f"<i{width}") / 2 ** (8 * width - 1)).astype(np.float32)
    return values


def _has_float_samples(path: Path) -> bool:
    """Whether the header of a WAV file declares floating-point numbers, which the standard library does not read."""
    try:
        with require_regular_file(path).open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False  # reading the clip reports it
    start = head.find(b"fmt ")
    if head[:4] != b"RIFF" or start < 0 or len(head) < start + 34:
        return False
    code = int.from_bytes(head[start + 8 : start + 10], "little")
    if code == 0xFFFE:  # extensible: the code is the start of the sub-format
        code = int.from_bytes(head[start + 32 : start + 34], "little")
    return code == 3


def _require_limits(path: Path, rate: int, channels: int, num_frames: int) -> None:
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise LimbeckError(
            f"the sampling rate of the clip {path} must be from {_MIN_RATE:,} to {_MAX_RATE:,} Hz, got {rate:,}: "
            "replace or remove it"
        )
    if not 1 <= channels <= _MAX_CHANNELS or num_frames > rate * _MAX_SECONDS:
        raise LimbeckError(
            f"the clip {path} must have 1 to {_MAX_CHANNELS} channels and at most {_MAX_SECONDS:,} seconds, got "
            f"{channels} and {num_frames / rate:,.0f}: cut or remove it"
        )


def _require_samples(path: Path, samples: Tensor) -> Tensor:
    if not len(samples):
        raise LimbeckError(f"the clip {path} must have samples, got none: replace or remove it")
    if not bool(samples.isfinite().all()):
        index = int((~samples.isfinite()).nonzero()[0])
        raise LimbeckError(f"sample {index} of the clip {path} must be finite, got {samples[index].item()}: replace it")
    return samples
