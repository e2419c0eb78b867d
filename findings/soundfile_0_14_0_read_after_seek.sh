#!/usr/bin/env bash
# soundfile 0.14.0: in Opus and mp3 files of speech, reading from `start` returns other samples than the whole file.
#
# Packages   soundfile 0.14.0 with its libsndfile 1.2.2; seen on 2026-11-29, Linux x86-64, Python 3.11.
# Expected   `soundfile.read(path, frames=n, start=s)` gives `soundfile.read(path)[s : s + n]`, as it does for FLAC.
#            For Opus, libsndfile 1.2.2 itself starts decoding 660 ms earlier, after which its source expects the output
#            to be bit-identical with high probability (src/ogg_opus.c; RFC 7845 recommends 80 ms).
# Actual     On a synthetic voice that soundfile itself has written, half a second read from some position differs from
#            the same half second of the whole file: at 44 of 60 places of the Opus file, by up to 5 % of the signal, and at 22
#            of 60 places of the mp3 file, by up to 30 %. No error; the number of samples is right. The state
#            of an Opus decoder takes seconds to converge: with half a second of pre-roll, 30 places still differ.
#            White noise does not show it, in either format: the signal must be speech-like.
# Seen       PCM_16, 0 s of pre-roll: 0 of 60 off by over 0.1 %, the worst by 0.00%
#            OPUS, 0 s of pre-roll: 44 of 60 off by over 0.1 %, the worst by 5.22%
#            OPUS, 0.5 s of pre-roll: 30 of 60 off by over 0.1 %, the worst by 3.70%
#            OPUS, 1 s of pre-roll: 24 of 60 off by over 0.1 %, the worst by 2.88%
#            OPUS, 10 s of pre-roll: 0 of 60 off by over 0.1 %, the worst by 0.00%
#            MPEG_LAYER_III, 0 s of pre-roll: 22 of 60 off by over 0.1 %, the worst by 30.29%
#            MPEG_LAYER_III, 0.5 s, 1 s and 10 s of pre-roll: 0 of 60 off by over 0.1 %, the worst by 0.00%
# Workaround Start reading earlier and drop the extra samples: a second for mp3, 10 s or more for Opus.
#
# Downloads about 20 MB. Ends with status 0 as long as the behavior is as described here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet soundfile==0.14.0 numpy==2.4.6
"$folder/env/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import soundfile

FOLDER = Path(sys.argv[1])
SECONDS, STRETCH = 20, 0.5
PRE_ROLLS = (0, 0.5, 1, 10)


def voice(rate):
    """Returns pulses of a moving pitch, with a little breath, through three moving resonances, in syllables."""
    time = np.arange(SECONDS * rate) / rate
    pitch = 120 + 25 * np.sin(4.4 * time) + 15 * np.sin(1.9 * time + 1)
    pulses = np.diff(np.floor(np.cumsum(pitch) / rate), prepend=0.0)
    sound = pulses + 0.01 * np.random.default_rng(0).standard_normal(len(time))
    for low, high, period, width in ((300, 800, 0.37, 80), (900, 2200, 0.53, 110), (2400, 3000, 0.71, 160)):
        centre = low + (high - low) * (0.5 + 0.5 * np.sin(2 * np.pi * time / period))
        radius = np.exp(-np.pi * width / rate)
        turn = 2 * radius * np.cos(2 * np.pi * centre / rate)
        last = before = 0.0
        resonated = []
        for value, weight in zip(sound.tolist(), turn.tolist(), strict=True):
            last, before = (1 - weight + radius**2) * value + weight * last - radius**2 * before, last
            resonated.append(last)
        sound = np.array(resonated)
    sound *= np.clip(np.sin(2 * np.pi * 3.1 * time) + 0.6, 0, 1)
    return (0.5 * sound / np.abs(sound).max()).astype("float32")


def compare(name, rate, container, coding):
    """Returns, by pre-roll in seconds, how far 60 stretches of a file are from those of the whole, relative to them."""
    path = FOLDER / name
    soundfile.write(path, voice(rate), rate, format=container, subtype=coding)
    whole, _ = soundfile.read(path, dtype="float32")
    length = int(STRETCH * rate)
    errors = {}
    for pre_roll in PRE_ROLLS:
        errors[pre_roll] = np.zeros(60)
        for number, start in enumerate(np.linspace(0, len(whole) - length, 61).astype(int)[1:]):
            before = min(start, int(pre_roll * rate))
            got, _ = soundfile.read(path, frames=before + length, start=start - before, dtype="float32")
            wanted = whole[start : start + length]
            errors[pre_roll][number] = np.linalg.norm(got[before:] - wanted) / np.linalg.norm(wanted)
        off, worst = (errors[pre_roll] > 1e-3).sum(), errors[pre_roll].max()
        print(f"{coding}, {pre_roll} s of pre-roll: {off} of 60 off by over 0.1 %, the worst by {worst:.2%}")
    return errors


print("soundfile", soundfile.__version__, "with libsndfile", soundfile.__libsndfile_version__)
flac = compare("voice.flac", 24000, "FLAC", "PCM_16")
opus = compare("voice.opus", 24000, "OGG", "OPUS")
mp3 = compare("voice.mp3", 44100, "MP3", "MPEG_LAYER_III")
assert flac[0].max() == 0, "FLAC has changed"
assert (opus[0] > 1e-3).sum() >= 15 and opus[0].max() > 0.01, "Opus has changed"
assert (opus[0.5] > 1e-3).sum() >= 8, "Opus with half a second of pre-roll has changed"
assert (mp3[0] > 1e-3).sum() >= 6 and mp3[0].max() > 0.05, "mp3 has changed"
assert max(opus[10].max(), mp3[1].max(), mp3[10].max()) < 1e-4, "the way around has changed"
PYTHON
