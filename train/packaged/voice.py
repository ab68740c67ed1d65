"""Silero's voice activity detector: of every 32 ms of sound, whether somebody speaks (PyPI ``silero-vad``, MIT).

Speech is synthesized by ``espeak-ng`` (a Debian package), in voices and sentences that calibration has not, with noise.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import signal
from scipy.io import wavfile

from train.common.errors import UserError
from train.packaged import runtimes
from train.packaged.prose import sentences
from train.packaged.subject import Folders, Part, Run, Subject, of_pypi
from train.readers import onnx_file

RATE, FRAME, CONTEXT, HIDDEN = 16_000, 512, 64, 128
FRAMES = 512
"""Of a clip: 16 seconds."""
VOICES = (("en-us", "en-gb+f3", "en-gb-scotland+m3", "en-us+f2"), ("en-gb", "en-us+f4", "en-029+m2", "en-gb-x-rp+f1"))
"""Those of calibration, and those that are held out."""


def load(folders: Folders) -> Subject:
    """The network, 8 clips for calibration and 24 that are held out."""
    path = of_pypi("silero_vad", "data/silero_vad_16k_sequence.onnx", "silero-vad")
    network, own = onnx_file.read(path), runtimes.onnx(path)

    def function(params: Any, frames: jax.Array) -> jax.Array:
        nothing = jnp.zeros((1, 1, HIDDEN))
        return network(params, frames, nothing, nothing)[0]

    def original(frames: Any) -> np.ndarray:
        nothing = np.zeros((1, 1, HIDDEN), np.float32)
        return own(frames, nothing, nothing)[0]

    known, others = clips(8, held_out=False), clips(24, held_out=True)

    def answers(runs: Mapping[str, Run]) -> np.ndarray:
        return np.concatenate([np.asarray(runs["voice"](clip)).ravel() for clip in others])

    part = Part(path, function, network.params, original, known, "bytes200000", None, 8, True)
    return Subject({"voice": part}, answers, compared)


def compared(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """The share of frames of which both say the same; of how many; how many of them are speech."""
    agreement = float(np.mean((ours > 0.5) == (theirs > 0.5)))
    return {"score": agreement, "frames": len(theirs), "speech": float(np.mean(theirs > 0.5))}


def clips(count: int, *, held_out: bool) -> list[np.ndarray]:
    """Sounds ``[frames, context + frame]``: sentences and pauses, under noise of 0 to 30 dB less."""
    random = np.random.default_rng(held_out)
    texts, found = sentences(held_out=held_out), list[np.ndarray]()
    for number in range(count):
        voice, sound = VOICES[held_out][number % 4], np.zeros(FRAMES * FRAME)
        at = int(random.uniform(0.3, 1.5) * RATE)
        while at < len(sound):
            said = spoken(texts[random.integers(len(texts))], voice, int(random.integers(130, 190)))
            said = said[: len(sound) - at] * random.uniform(0.2, 1)
            sound[at : at + len(said)] += said
            at += len(said) + int(random.uniform(0.3, 2.5) * RATE)
        loud = np.sqrt(np.mean(sound**2)) * 10 ** (-random.uniform(0, 30) / 20)
        sound += loud * _noise(random, len(sound), number % 3)
        found.append(framed(0.5 * sound / np.abs(sound).max()))
    return found


def _noise(random: np.random.Generator, size: int, kind: int) -> np.ndarray:
    """White, pink, or that of a machine: a hum, its overtones and some hiss; of a mean square of 1."""
    white = random.standard_normal(size)
    if kind == 1:
        spectrum = np.fft.rfft(white)
        white = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), size)
    elif kind == 2:
        time = np.arange(size) / RATE
        white = 0.2 * white + sum(np.sin(2 * np.pi * 50 * n * time + n) / n for n in range(1, 12))
    return white / np.sqrt(np.mean(white**2))


def spoken(text: str, voice: str, speed: int) -> np.ndarray:
    """A sentence as sound, -1 to 1, at 16 kHz.

    Raises:
      UserError: if there is no ``espeak-ng``.
    """
    if shutil.which("espeak-ng") is None:
        raise UserError("speech is synthesized by espeak-ng, which is not here: apt install espeak-ng")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "said.wav")
        subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-w", str(path), text], check=True)
        rate, sound = wavfile.read(path)
    return signal.resample_poly(sound / 32768, RATE, rate)


def framed(sound: np.ndarray) -> np.ndarray:
    """``[samples]`` -> ``[frames, context + frame]`` float32: each frame with the end of the one before."""
    frames = sound[: len(sound) // FRAME * FRAME].astype(np.float32).reshape(-1, FRAME)
    before = np.vstack([np.zeros((1, CONTEXT), np.float32), frames[:-1, -CONTEXT:]])
    return np.hstack([before, frames])
