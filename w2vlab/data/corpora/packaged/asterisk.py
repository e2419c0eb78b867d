"""The prompts of the telephone system Asterisk: five languages, four voices, 16 kHz in G.722, with their texts.

CC-BY-SA-3.0; Italian and Russian: CC-BY-3.0. Many prompts are one or two seconds long, and some texts occur twice.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import soundfile
from rich.progress import track

from w2vlab.data.audio.audio_files import UnusableAudioError
from w2vlab.data.corpora.cache import hold_lock, make_writable
from w2vlab.data.corpora.packaged import g722
from w2vlab.data.corpora.packaged.apt import AptCorpus, fetch_package
from w2vlab.types import SAMPLE_RATE

GROUP = "asterisk"
"""Name of all languages together, for `w2vlab prepare`."""

VOICES: Mapping[str, str] = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
"""Folder of the voice of each language in the packages."""

NAMES = tuple(f"{GROUP}-{language}" for language in VOICES)

NUM_FILES = 500
"""Files of a complete package, at least: there are 527 to 599."""

NOT_SPEECH = frozenset(
    ["ascending-2tone", "beep", "beeperr", "confbridge-join", "confbridge-leave", "descending-2tone", "tt-monkeys"]
)
"""Prompts that are a tone or a noise in every language; some texts describe it without brackets."""

_SILENCE = "silence/"
_DESCRIPTION = re.compile(r"\[.*\]|\(.*\)|<.*>")


def package_of(name: str) -> AptCorpus:
    """Returns the packages of a language, by the name of its corpus, such as `asterisk-ru`."""
    language = name.removeprefix(f"{GROUP}-")
    texts = f"asterisk-core-sounds-{language}"
    folder = f"usr/share/asterisk/sounds/{VOICES[language]}"
    return AptCorpus(f"{texts}-g722", folder, NUM_FILES, pattern="**/*.g722", others=(texts,))


def folder_of(name: str, cache: Path) -> Path:
    """Returns the folder of a language after `fetch`."""
    return cache / "corpora" / name


def fetch(name: str, cache: Path) -> Path:
    """Downloads a language unless it is in the cache, converts it to FLAC, and returns its folder.

    The folder has the prompts with a text, and the texts as LibriSpeech has them (`.trans.txt`). Samples are those that
    the codec gives, without its delay.

    Args:
        name: One of `NAMES`.
        cache: The cache folder.

    Raises:
        ValueError: PyAV is missing, the download fails, or a prompt cannot be decoded.
    """
    folder = folder_of(name, cache)
    if folder.is_dir():
        return folder
    g722.check_available()
    make_writable(folder.parent)
    package = package_of(name)
    audio = fetch_package(package, cache)
    with hold_lock(folder.with_name(f"{name}.lock")):
        if folder.is_dir():  # another process has converted it in the meantime
            return folder
        partial = folder.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _convert(name, audio, read_texts(_text_file(name, cache)), partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(cache / "corpora" / package.package, ignore_errors=True)  # what was converted is not needed again
    return folder


def _text_file(name: str, cache: Path) -> Path:
    package = package_of(name)
    language = name.removeprefix(f"{GROUP}-")
    file = f"usr/share/doc/{package.others[0]}/core-sounds-{language}.txt.gz"
    return cache / "corpora" / package.package / file


def read_texts(file: Path) -> dict[str, str]:
    """Returns the text of each prompt that is speech, by its path without an ending.

    Raises:
        ValueError: The file is missing or malformed.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8-sig", errors="replace") as lines:
            found = [line.strip().partition(":") for line in lines if not line.startswith(";")]
    except (OSError, EOFError) as problem:
        raise ValueError(f"The texts of {GROUP} must be in {file}, but cannot be read: {problem}.") from None
    return {
        name.strip(): text.strip()
        for name, colon, text in found
        if colon and text.strip() and is_speech(name.strip(), text.strip())
    }


def is_speech(name: str, text: str) -> bool:
    """Returns whether a prompt is speech: no silence, tone or noise."""
    return not (name.startswith(_SILENCE) or name in NOT_SPEECH or _DESCRIPTION.fullmatch(text))


def _convert(name: str, audio: Path, texts: Mapping[str, str], folder: Path) -> None:
    lines = []
    for file in track(sorted(audio.rglob("*.g722")), f"Converting {name}"):
        prompt = file.relative_to(audio).with_suffix("").as_posix()
        if prompt not in texts:
            continue
        try:
            samples = g722.decode(file)
        except UnusableAudioError as problem:
            raise ValueError(f"{file} must be G.722, but is {problem}.") from None
        target = (folder / prompt).with_suffix(".flac")
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, samples, SAMPLE_RATE, subtype="PCM_16")
        lines.append(f"{prompt} {' '.join(texts[prompt].split())}\n")
    if not lines:
        raise ValueError(f"{name} must have prompts with a text, but none of those in {audio} has.")
    (folder / f"{name}.trans.txt").write_text("".join(lines), encoding="utf-8")
