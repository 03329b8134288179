"""Log-mel spectrograms: what a recording sounds like, as a picture of frequencies over time."""

import torch
from torch import Tensor

RATE, HOP, WINDOW = 22_050, 441, 1024  # samples a second, from frame to frame (20 ms), and in a frame (46 ms)
MELS, LOWEST, HIGHEST = 32, 60.0, 8000.0  # bands, and where they begin and end, in Hz
DEPTH = 60.0  # dB below a recording's loudest point that are told apart


def to_mel(frequency: Tensor) -> Tensor:
    """Of a frequency in Hz the pitch that is heard, in mel: 2595 log10(1 + f / 700). O'Shaughnessy, 1987."""
    return 2595 * (1 + frequency / 700).log10()


def mel_matrix() -> Tensor:
    """What each band takes of each frequency of a frame: [MELS, WINDOW / 2 + 1].

    A band is a triangle that rises from the middle of the one below to 1 and falls to the middle of the one above; the
    middles are as many mel apart.
    """
    pitch = to_mel(torch.linspace(0, RATE / 2, WINDOW // 2 + 1))
    lowest, highest = to_mel(torch.tensor([LOWEST, HIGHEST])).tolist()
    middles = torch.linspace(lowest, highest, MELS + 2)
    step = (highest - lowest) / (MELS + 1)
    return (1 - (pitch - middles[1:-1, None]).abs() / step).clamp(min=0)


def log_mel(sound: Tensor) -> Tensor:
    """The spectrograms of recordings [N, samples] as bytes [N, 1, MELS, samples // HOP + 1], high frequencies on top.

    255 is a recording's loudest point, 0 what is ``DEPTH`` dB below it or less. Silence throughout is 0.
    """
    frames = torch.stft(sound, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
    power = mel_matrix() @ frames.abs().square()
    decibels = 10 * (power.clamp(min=1e-10) / power.amax((1, 2), keepdim=True).clamp(min=1e-4)).log10()
    return (1 + decibels / DEPTH).clamp(0, 1).mul(255).round().byte().flip(1)[:, None]
