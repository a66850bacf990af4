"""Log-mel spectrograms and WAV files.

The mel scale is that of HTK, m = 2595 · log10(1 + f / 700) (Young et al., *The HTK Book*, section 5.4,
https://labrosa.ee.columbia.edu/doc/HTKBook21/HTKBook.html).
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import require_regular_file

__all__ = ["log_mel", "mel_filters", "read_wav"]


def read_wav(path: Path) -> tuple[Tensor, int]:
    """The samples of a WAV file of 8 or 16 bits in −1..1, the mean of its channels, and its sampling rate in hertz."""
    try:
        with wave.open(str(require_regular_file(path)), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            # A header may ask for gigabytes, which would be allocated.
            num_frames = min(file.getnframes(), path.stat().st_size // max(channels * width, 1))
            raw = file.readframes(num_frames)
    except (OSError, wave.Error, EOFError) as error:
        raise LimbeckError(f"the clip {path} cannot be read ({error}): replace or remove it") from error
    if not raw or len(raw) % (channels * width):
        raise LimbeckError(f"the clip {path} must have whole samples, got {len(raw)} bytes: replace or remove it")
    if width not in (1, 2):
        raise LimbeckError(f"the clip {path} must have 8 or 16 bits per sample, got {8 * width}: convert it")
    values = torch.from_numpy(np.frombuffer(raw, np.uint8 if width == 1 else "<i2").astype(np.float32))
    values = (values - 128) / 128 if width == 1 else values / 32768
    return values.reshape(-1, channels).mean(dim=1), rate


def mel_filters(mels: int, n_fft: int, rate: int) -> Tensor:
    """Triangular filters ``[n_fft / 2 + 1, mels]`` from 0 to half the sampling rate, each 1 at its center.

    >>> mel_filters(4, 16, 8000).shape
    torch.Size([9, 4])
    """
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, n_fft // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.maximum(0, np.minimum(rising, falling))).float()


def log_mel(samples: Tensor, rate: int, *, mels: int = 40, window: float = 0.025, hop: float = 0.01) -> Tensor:
    """The logarithm of the energy of ``samples`` ``[n]`` by mel band, ``[frames, mels]``.

    Args:
        samples: in −1..1.
        rate: sampling rate in hertz.
        mels: number of bands.
        window: length of the Hann window in seconds.
        hop: distance of frames in seconds.

    >>> log_mel(torch.zeros(800), 8000, mels=4).shape
    torch.Size([11, 4])
    """
    length, step = round(window * rate), round(hop * rate)
    n_fft = 1 << (length - 1).bit_length()
    spectrum = torch.stft(
        samples, n_fft, step, length, torch.hann_window(length), pad_mode="constant", return_complex=True
    )
    return (spectrum.abs().square().T @ mel_filters(mels, n_fft, rate) + 1e-6).log()
