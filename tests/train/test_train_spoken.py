"""Spectrograms, recordings of words, and the networks that find a word in them.

The words are tones here; where espeak-ng is installed, its own are tried too.
"""

import math
import shutil
import wave
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from suite import slow
from test_train import ROOT, SHORT, check_one_sentence
from torch import Generator, Tensor, nn

import train.spoken as spoken
from train.errors import InputError
from train.networks import build
from train.networks.scanned import SoftmaxOverTime
from train.networks.speech import FrequencyPool
from train.spectrogram import DEPTH, HIGHEST, HOP, LOWEST, MELS, RATE, log_mel, mel_matrix, to_mel
from train.spoken import FRAMES, LENGTH, OTHERS, WORD, arrange, read_recording, read_welcome, record, speak

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
STEP = float(to_mel(torch.tensor(HIGHEST)) - to_mel(torch.tensor(LOWEST))) / (MELS + 1)  # mel from band to band


def middle(band: int) -> float:
    """Hz in the middle of a band, of 0..MELS-1 from below."""
    mel = float(to_mel(torch.tensor(LOWEST))) + (band + 1) * STEP
    return 700 * (10 ** (mel / 2595) - 1)


def tone(frequency: float, samples: int, strength: float = 0.5) -> Tensor:
    return strength * (2 * math.pi * frequency / RATE * torch.arange(samples)).sin()


def beep(word: str, speaker: str, generator: Generator) -> Tensor:
    """A tone of 0.3 s for a word, the word's own an octave and more above all others'."""
    band = 28 if word == WORD else 4 + len(word)
    return tone(middle(band), RATE * 3 // 10)


@pytest.fixture
def beeps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Beeps instead of speech, and few of them; who has spoken, word by word."""
    heard = []

    def listened(word: str, speaker: str, generator: Generator) -> Tensor:
        heard.append(speaker)
        return beep(word, speaker, generator)

    for name, value in (("speak", listened), ("RECORDINGS", 40), ("TEST_RECORDINGS", 12), ("TIMES", 1)):
        monkeypatch.setattr(spoken, name, value)
    monkeypatch.setattr(spoken, "SPEAKERS", ["a", "b"])
    monkeypatch.setattr(spoken, "TEST_SPEAKERS", ["c"])
    monkeypatch.setattr(spoken, "which", lambda name: name)
    return heard


# ------------------------------------------------------------------------------------------------------ spectrograms


def test_a_tone_is_heard_in_its_band() -> None:
    sounds = torch.stack([tone(middle(band), 20 * HOP) for band in range(MELS)])
    pictures = log_mel(sounds)
    assert pictures.shape == (MELS, 1, MELS, 21)
    loudest = pictures[:, 0, :, 5:15].float().mean(2)
    assert loudest.argmax(1).tolist() == list(range(MELS - 1, -1, -1))  # high frequencies on top
    assert loudest.amax(1).min() > 250


def test_bands_share_each_frequency() -> None:
    matrix = mel_matrix()
    frequencies = torch.linspace(0, RATE / 2, matrix.shape[1])
    between = (frequencies >= middle(0)) & (frequencies <= middle(MELS - 1))
    torch.testing.assert_close(matrix.sum(0)[between], torch.ones(int(between.sum())), rtol=1e-4, atol=1e-4)
    assert matrix[:, (frequencies < LOWEST) | (frequencies > HIGHEST)].count_nonzero() == 0


def test_loudness_is_in_decibels_below_the_loudest() -> None:
    sound = torch.cat([tone(1000, 20 * HOP), tone(1000, 20 * HOP, 0.05)])  # 20 dB less
    (picture,) = log_mel(sound[None])[0].float()
    loud, quiet = picture[:, 5:15].amax(0), picture[:, 25:35].amax(0)
    torch.testing.assert_close(
        loud - quiet, torch.full((10,), 20 / DEPTH * 255), rtol=0, atol=2.0
    )  # 1 of rounding each
    torch.testing.assert_close(log_mel(sound[None] / 7)[0, 0].float(), picture, rtol=0, atol=1.0)
    assert log_mel(torch.zeros(1, 20 * HOP)).count_nonzero() == 0


# -------------------------------------------------------------------------------------------------------- recordings


def test_words_are_whole_and_in_order() -> None:
    words = [torch.full((size,), float(value)) for size, value in ((5, 1), (9, 2), (3, 3))]
    starts = set()
    for seed in range(300):
        sound = arrange(words, 20, Generator().manual_seed(seed))
        assert sound[sound != 0].tolist() == [1] * 5 + [2] * 9 + [3] * 3
        for value in (1, 2, 3):
            places = (sound == value).nonzero()[:, 0]
            assert int(places[-1] - places[0]) == len(places) - 1
        starts.add(int(sound.nonzero()[0]))
    assert starts == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="words of 17 samples do not fit in 16"):
        arrange(words, 16, Generator())


def test_every_other_recording_has_the_word() -> None:
    images, labels = record(["a", "b"], 30, beep, LENGTH, Generator().manual_seed(0))
    assert (images.shape, images.dtype) == ((30, 1, MELS, FRAMES), torch.uint8)
    assert labels.tolist() == [0, 1] * 15
    word = (images[:, 0, MELS - 1 - 28] > 225).sum(1)  # frames with the word's tone; noise is 5 dB or more below
    assert (word > 8).tolist() == [False, True] * 15
    others = (images[:, 0, 16:] > 225).any(1).sum(1)
    assert others[0::2].min() > 8
    assert 0 < int((others[1::2] > 8).sum()) < 15  # some have the word alone
    places = [int(picture[0, MELS - 1 - 28].argmax()) for picture in images[1::2]]
    assert max(places) - min(places) > FRAMES // 2
    again, _ = record(["a", "b"], 30, beep, LENGTH, Generator().manual_seed(0))
    assert torch.equal(again, images)


def test_recordings_are_made_once_and_test_speakers_heard_in_the_test_alone(beeps: list[str], tmp_path: Path) -> None:
    (images, labels), (tests, _) = read_welcome(str(tmp_path / "new"), False)
    assert (len(images), len(labels), len(tests)) == (40, 40, 12)
    words = 1 + len(OTHERS)
    assert beeps == ["a"] * words + ["b"] * words + ["c"] * words
    again, _ = read_welcome(str(tmp_path / "new"), False)
    assert torch.equal(again[0], images)
    assert len(beeps) == 3 * words
    (path,) = (tmp_path / "new" / "welcome").iterdir()
    path.write_bytes(b"garbage")
    with pytest.raises(InputError, match=f"the recordings '{path}' are damaged: remove the file"):
        read_welcome(str(tmp_path / "new"), False)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write recordings '.*file/welcome/"):
        read_welcome(str(tmp_path / "file"), False)


def test_without_espeak(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spoken, "which", lambda name: None)
    assert train("fit", "--config", ROOT / "train" / "recipes" / "welcome_tdnn.yaml") == 2
    check_one_sentence(capfd, "no recordings in 'data/welcome', and espeak-ng, which speaks them, is not installed")
    assert not any(tmp_path.iterdir())


def test_networks_for_pictures_of_another_size(train: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert train("fit", "--data.name", "welcome") == 2
    check_one_sentence(capfd, "model 'lenet5' takes no images of 32x128 pixels")


def write_wave(path: Path, sound: Tensor, rate: int = RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * 2**15).short().numpy().tobytes())
    return path


def test_recording_from_a_file(tmp_path: Path) -> None:
    sound = tone(middle(9), LENGTH + 5 * HOP)
    picture = read_recording(str(write_wave(tmp_path / "long.wav", sound)))
    assert picture.shape == (1, MELS, FRAMES + 5)
    torch.testing.assert_close(picture.float(), log_mel(sound[None])[0].float(), rtol=0, atol=1.0)
    short = read_recording(str(write_wave(tmp_path / "short.wav", sound[: 10 * HOP])))
    assert short.shape == (1, MELS, FRAMES)
    assert short[0, MELS - 1 - 9, 2:8].min() > 250
    assert short[..., 13:].count_nonzero() == 0


WRONG = {
    "missing.wav": "cannot read recording 'missing.wav': No such file or directory",
    "text.wav": "recording 'text.wav' is no WAV file: file does not start with RIFF id",
    "slow.wav": "recording 'slow.wav' has 1 x 16 bits at 8000 Hz: one channel of 16 bits at 22050 Hz is expected",
    "empty.wav": "recording 'empty.wav' is empty",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_recording(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.wav").write_text("a text, not a recording")
    write_wave(Path("slow.wav"), torch.zeros(100), 8000)
    write_wave(Path("empty.wav"), torch.zeros(0))
    with pytest.raises(InputError) as raised:
        read_recording(name)
    assert str(raised.value) == WRONG[name]


# ---------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("name", ["tdnn", "tdnn_softmax", "tdnn_mlp"])
def test_a_scanned_tdnn_is_the_tdnn_on_every_window(name: str) -> None:
    layers = [*build(name, "torchconv", 1, 2).double()]
    last = max(place for place, layer in enumerate(layers) if isinstance(layer, nn.Conv1d))
    window, combine = nn.Sequential(*layers[: last + 1]), nn.Sequential(*layers[last + 1 :])
    recording = torch.randn(2, 1, 32, 60, dtype=torch.float64)
    answers = torch.cat([window(recording[..., at : at + 19]) for at in range(60 - 18)], 2)  # one of each window
    assert answers.shape == (2, 2, 42)
    torch.testing.assert_close(window(recording), answers)
    torch.testing.assert_close(nn.Sequential(*layers)(recording), combine(answers))
    if name == "tdnn":
        torch.testing.assert_close(combine(answers), answers.amax(2))


def test_softmax_over_time() -> None:
    answers = torch.tensor([[[0.0, math.log(3)], [5.0, 5.0]]])
    torch.testing.assert_close(SoftmaxOverTime()(answers), torch.tensor([[0.75 * math.log(3), 5.0]]))
    torch.testing.assert_close(SoftmaxOverTime()(1000 * answers), 1000 * answers.amax(2))


@pytest.mark.parametrize("frequencies", [7, 8])
def test_each_group_of_maps_is_pooled_in_frequency_by_its_own_size(frequencies: int) -> None:
    maps = torch.randn(2, 6, frequencies, 5)
    pooled = FrequencyPool(nn, (1, 3, 5))(maps)
    assert pooled.shape == (2, 6, -(-frequencies // 2), 5)
    for c, reach in enumerate((0, 0, 1, 1, 2, 2)):
        for row in range(pooled.shape[2]):
            seen = maps[:, c, max(2 * row - reach, 0) : 2 * row + reach + 1]
            assert torch.equal(pooled[:, c, row], seen.amax(1))


@pytest.mark.parametrize("recipe", ["welcome_tdnn", "welcome_cnn"])
def test_recipe_on_beeps_and_what_it_predicts(
    recipe: str, beeps: list[str], train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "train" / "recipes" / f"{recipe}.yaml"
    few = ["--data.validation", 8, "--data.batch_size", 8, "--trainer.max_epochs", 1]
    assert train("fit", "--config", path, *SHORT[2:], *few) == 0
    assert "welcome: 32 train, 8 validation, 12 test" in capsys.readouterr().out
    (last,) = tmp_path.rglob("last.ckpt")
    files = [write_wave(tmp_path / f"{n}.wav", tone(1000, n * RATE)) for n in (1, 4)]
    assert train("predict", "--ckpt_path", last, *files) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["1.wav", "4.wav"]
    assert all("welcome " in line and "other " in line for line in lines)


# ----------------------------------------------------------------------------------------------------------- espeak-ng


@needs_espeak
def test_espeak_speaks_the_same_word_in_different_voices() -> None:
    one, same, other = (speak(WORD, name, Generator().manual_seed(0)) for name in ("f1", "f1", "m3"))
    assert torch.equal(one, same)
    assert 0.2 * RATE < len(one) < 1.5 * RATE
    assert one.abs().max() <= 1
    assert one[:50].abs().max() > 0.01  # no silence before it
    assert not torch.equal(one[:1000], other[:1000])


@slow
@needs_espeak
@pytest.mark.parametrize("name", ["tdnn", "tdnn_softmax", "tdnn_mlp"])
def test_unseen_voices(name: str, train: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp() / "spoken"  # made by the first of these tests
    recipe = ROOT / "train" / "recipes" / "welcome_tdnn.yaml"
    assert train("fit", "--config", recipe, "--model.name", name, "--data.root", root, *SHORT[2:]) == 0
    table = Path("runs", f"{name}-welcome", "version_0", "metrics.csv").read_text().splitlines()
    assert float(table[-1].split(",")[table[0].split(",").index("test/accuracy")]) >= 0.97
