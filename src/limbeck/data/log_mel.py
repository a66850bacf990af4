"""Log-mel spectrograms.

The mel scale is that of HTK, m = 2595 · log10(1 + f / 700) (Young et al., *The HTK Book*, section 5.4,
https://labrosa.ee.columbia.edu/doc/HTKBook21/HTKBook.html).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["log_mel", "mel_filters"]


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
