"""The data set ``welcome``: recordings of spoken words, in half of which one of the words is "welcome".

espeak-ng speaks each word in the voices of many speakers, accents, speeds and pitches; recordings put them one after
the other, with silence between and noise over all. The speakers of the test set are in no other recording.
"""

import hashlib
import io
import subprocess
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which
from typing import IO

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from train.checkpoints import write_whole
from train.errors import InputError, one_line
from train.spectrogram import HOP, MELS, RATE, log_mel

WORD = "welcome"
# Those that sound somewhat like it come first.
OTHERS = """well come become income outcome fulcrum welfare wellington walking woman comb welding velcro balcony elbow
    column awesome handsome will calm hello goodbye morning evening people green table window yellow seven music
    river doctor simple coffee garden picture number orange thank you""".split()
SPEAKERS = """f1 f2 f3 f5 m1 m2 m3 m4 m6 m7 Alex Alicia Andrea Andy Denis Diogo Gene Henrique Hugo Jacky Lee Marco
    Mario Michael adam anika antonio belinda benjamin boris caleb david ed edward gustave iven john linda max
    miguel""".split()
TEST_SPEAKERS = "f4 m5 m8 Annie Mike Nguyen Storm aunty grandma grandpa michel norbert pablo paul rob steph zac".split()
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-us-nyc")
TIMES = 8  # that each speaker says the word, and each other word once
RECORDINGS, TEST_RECORDINGS = 6000, 1500
FRAMES = 128  # of a recording: 2.5 s
LENGTH = (FRAMES - 1) * HOP  # of a recording, in samples
SEED = 0  # always the same recordings

Images = tuple[Tensor, Tensor]
Speak = Callable[[str, str, Generator], Tensor]  # a word by a speaker, drawn how, to samples in -1..1


def speak(word: str, speaker: str, generator: Generator) -> Tensor:
    """The samples of a ``word`` that espeak-ng speaks in one of the ``ACCENTS``, at 120 to 220 words a minute."""
    accent = ACCENTS[_draw(len(ACCENTS), generator)]
    speed, pitch = 120 + _draw(101, generator), 20 + _draw(61, generator)
    command = ["espeak-ng", "-v", f"{accent}+{speaker}", "-s", str(speed), "-p", str(pitch), "--stdout", word]
    done = subprocess.run(command, capture_output=True)
    told = done.stderr.decode(errors="replace")
    sound = read_sound(
        io.BytesIO(done.stdout), f"what espeak-ng made of '{word}' in the voice {accent}+{speaker}", told
    )
    loud = (sound.abs() > 0.02 * sound.abs().max()).nonzero()
    return sound[int(loud[0]) : int(loud[-1]) + 1] if len(loud) else sound


def read_sound(file: str | IO[bytes], what: str, told: str = "") -> Tensor:
    """The samples in -1..1 of a WAV ``file`` of one channel, 16 bits, ``RATE`` samples a second.

    An `InputError` says of ``what`` it is another, and why: what it has ``told`` of itself, or its reader.
    """
    try:
        with wave.open(file, "rb") as content:
            form = content.getnchannels(), 8 * content.getsampwidth(), content.getframerate()
            # Not as many as its header says, which of a stream are too many.
            samples = content.readframes(3600 * RATE)
    except OSError as error:
        raise InputError(f"cannot read {what}: {error.strerror or one_line(error)}") from error
    except (wave.Error, EOFError) as error:
        raise InputError(f"{what} is no WAV file: {one_line(told) or one_line(error)}") from error
    if form != (1, 16, RATE):
        channels, bits, rate = form
        raise InputError(
            f"{what} has {channels} x {bits} bits at {rate} Hz: one channel of 16 bits at {RATE} Hz is expected"
        )
    if not samples:
        raise InputError(f"{what} is empty")
    return torch.frombuffer(bytearray(samples[: len(samples) // 2 * 2]), dtype=torch.int16) / 2**15


def read_recording(path: str) -> Tensor:
    """The spectrogram of the WAV file at ``path``: bytes [1, MELS, T], T at least FRAMES, with silence at its end."""
    sound = read_sound(path, f"recording '{path}'")
    return log_mel(F.pad(sound, (0, max(LENGTH - len(sound), 0)))[None])[0]


def _draw(n: int, generator: Generator) -> int:
    """One of 0..n-1."""
    return int(torch.randint(n, (1,), generator=generator))


def arrange(words: Sequence[Tensor], length: int, generator: Generator) -> Tensor:
    """The ``words`` one after the other in ``length`` samples, the silence before, between and after them at random.

    Raises:
        ValueError: words that are longer together.
    """
    silence = length - sum(len(word) for word in words)
    if silence < 0:
        raise ValueError(f"words of {length - silence} samples do not fit in {length}")
    ends = torch.randint(silence + 1, (len(words),), generator=generator).sort().values.tolist()
    sound, at = torch.zeros(length), 0
    for word, end in zip(words, ends, strict=True):  # `end` is how much silence there is up to its word
        sound[at + end : at + end + len(word)] = word
        at += len(word)
    return sound


def with_noise(sound: Tensor, generator: Generator) -> Tensor:
    """White noise over it that is 5 to 35 dB weaker, drawn evenly."""
    ratio = 5 + 30 * float(torch.rand(1, generator=generator))
    noise = torch.randn(len(sound), generator=generator)
    return sound + noise * sound.square().mean().sqrt() * 10 ** (-ratio / 20)


def record(speakers: Sequence[str], number: int, speak: Speak, length: int, generator: Generator) -> Images:
    """``number`` recordings of ``length`` samples, each of one of the ``speakers``: spectrograms and labels [number].

    Every other one has the word in it, at a random place among up to three others, as many as fit.
    """
    spoken = {
        speaker: (
            [speak(WORD, speaker, generator) for _ in range(TIMES)],
            [speak(word, speaker, generator) for word in OTHERS],
        )
        for speaker in speakers
    }
    labels = torch.arange(number) % 2
    sounds = []
    for label in labels.tolist():
        of_word, of_others = spoken[speakers[_draw(len(speakers), generator)]]
        first = of_word if label else of_others
        words = [first[_draw(len(first), generator)]]
        for _ in range(_draw(4, generator)):
            other = of_others[_draw(len(of_others), generator)]
            if sum(map(len, words)) + len(other) <= length:
                words.insert(_draw(len(words) + 1, generator), other)
        sounds.append(with_noise(arrange(words, length, generator), generator))
    return torch.cat([log_mel(torch.stack(some)) for some in _parts(sounds, 100)]), labels


def _parts(values: list[Tensor], size: int) -> list[list[Tensor]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def read_welcome(root: str, download: bool) -> tuple[Images, Images]:
    """6,000 recordings of 40 speakers and 1,500 of 17 others, as spectrograms [N, 1, 32, 128].

    They are made where ``root`` does not hold them yet, which takes espeak-ng and a minute.
    """
    made_of = repr((WORD, OTHERS, SPEAKERS, TEST_SPEAKERS, ACCENTS, TIMES, RECORDINGS, TEST_RECORDINGS, FRAMES, MELS))
    path = Path(root, "welcome", f"{hashlib.md5(made_of.encode(), usedforsecurity=False).hexdigest()[:8]}.pt")
    if not path.exists():
        if which("espeak-ng") is None:
            raise InputError(
                f"no recordings in '{path.parent}', and espeak-ng, which speaks them, is not installed: "
                "name their directory with --data.root, or apt-get install espeak-ng"
            )
        generator = Generator().manual_seed(SEED)
        halves = [
            record(speakers, number, speak, LENGTH, generator)
            for speakers, number in ((SPEAKERS, RECORDINGS), (TEST_SPEAKERS, TEST_RECORDINGS))
        ]
        write_whole({"train": halves[0], "test": halves[1]}, path, "recordings")
    try:
        content = torch.load(path, weights_only=True)
        return content["train"], content["test"]
    except OSError as error:
        raise InputError(f"cannot read the recordings '{path}': {error.strerror}") from error
    except Exception as error:  # What unpickling raises on bytes that are something else could be anything.
        raise InputError(f"the recordings '{path}' are damaged: remove the file, and they are made again") from error
