"""Resolves the option `data.corpus`: the name of a sample corpus, which is downloaded, or a path."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path

from w2vlab.data.corpora.cache import hold_lock, make_writable, system_errors_in_words
from w2vlab.data.corpora.packaged import asterisk
from w2vlab.data.corpora.packaged.apt import FESTVOX_RU, apt_available, fetch_package
from w2vlab.data.corpus_advice import about_missing
from w2vlab.data.shards.sources import Source, parse_source

MINI_LIBRISPEECH = "mini_librispeech"
SAMPLE = "sample"
PREPARED_CUTS, PREPARED_RECORD = "cuts.jsonl.gz", "prepare.json"
"""Manifest and record in a folder that `w2vlab prepare` has written without shards."""

NAMES = (FESTVOX_RU.package, MINI_LIBRISPEECH, *asterisk.NAMES, SAMPLE)

logger = logging.getLogger(__name__)


def resolve_name(name: str, cache: Path) -> str:
    """Returns `name`, or for `sample` the name of the sample corpus that this system can download."""
    if name != SAMPLE:
        return name
    downloaded = FESTVOX_RU.is_complete(FESTVOX_RU.audio_folder(cache))
    return FESTVOX_RU.package if downloaded or apt_available() else MINI_LIBRISPEECH


def is_downloaded(corpus: str, cache: Path) -> bool:
    """Returns whether `fetch` would not download `corpus`; true for all paths."""
    name = resolve_name(corpus, cache)
    if name == FESTVOX_RU.package:
        return FESTVOX_RU.is_complete(FESTVOX_RU.audio_folder(cache))
    if name == MINI_LIBRISPEECH:
        return _has_mini_librispeech(cache)
    return name not in asterisk.NAMES or asterisk.folder_of(name, cache).is_dir()


def locate(corpus: str, cache: Path) -> Source:
    """Returns the file or folder of `corpus`, a name or a path, without downloading it; of shards also their URL."""
    name = resolve_name(corpus, cache)
    if name == FESTVOX_RU.package:
        return FESTVOX_RU.audio_folder(cache)
    if name == MINI_LIBRISPEECH:
        return _mini_librispeech(cache)
    if name in asterisk.NAMES:
        return asterisk.folder_of(name, cache)
    source = parse_source(corpus)
    if isinstance(source, Path):
        prepared = source / PREPARED_CUTS
        if prepared.is_file() and (source / PREPARED_RECORD).is_file():
            return prepared
    return source


def fetch(corpus: str, cache: Path) -> Source:
    """Downloads `corpus` if it is the name of a sample corpus that is not on disk, and returns its file or folder.

    Shards on a server are fetched when they are read.

    Args:
        corpus: A name of `NAMES`, a path, or a URL of shards.
        cache: The cache folder.

    Raises:
        ValueError: The download fails, or the path does not exist.
    """
    name = resolve_name(corpus, cache)
    if corpus == SAMPLE:
        logger.info("The sample corpus of this system is %s.", name)
    if name == FESTVOX_RU.package:
        return _fetch_festvox_ru(cache)
    if name == MINI_LIBRISPEECH:
        return _fetch_mini_librispeech(cache)
    if name in asterisk.NAMES:
        return _fetch_asterisk(name, cache)
    with system_errors_in_words(cache):
        path = locate(corpus, cache)
        exists = not isinstance(path, Path) or path.exists()
    if not exists:
        raise ValueError(
            f"`corpus` must be an existing path or one of {', '.join(NAMES)}, but is {corpus!r}; there is no {path}."
            f"{about_missing(corpus, NAMES)}"
        )
    return path


def _fetch_festvox_ru(cache: Path) -> Path:
    if not FESTVOX_RU.is_complete(FESTVOX_RU.audio_folder(cache)):
        _check_apt(FESTVOX_RU.package)
    return fetch_package(FESTVOX_RU, cache)


def _fetch_asterisk(name: str, cache: Path) -> Path:
    if not asterisk.folder_of(name, cache).is_dir():
        _check_apt(name)
    return asterisk.fetch(name, cache)


def _check_apt(corpus: str) -> None:
    if not apt_available():
        raise ValueError(
            f"`corpus` {corpus!r} needs apt-get and dpkg (Debian, Ubuntu), which are not installed; use "
            f"--data.corpus={MINI_LIBRISPEECH}, or give a folder of audio with --data.corpus=FOLDER."
        )


def _mini_librispeech(cache: Path) -> Path:
    return cache / "corpora" / MINI_LIBRISPEECH / "LibriSpeech"


def _has_mini_librispeech(cache: Path) -> bool:
    from lhotse.recipes.librispeech import MINI_LIBRISPEECH as PARTS

    # lhotse's recipe writes `.completed` after it has unpacked a part.
    return all((_mini_librispeech(cache) / part / ".completed").is_file() for part in PARTS)


def _fetch_mini_librispeech(cache: Path) -> Path:
    from lhotse.recipes.librispeech import MINI_LIBRISPEECH as PARTS
    from lhotse.recipes.librispeech import download_librispeech

    folder = _mini_librispeech(cache)
    if _has_mini_librispeech(cache):
        return folder
    make_writable(folder.parent)
    with hold_lock(folder.parent / "fetch.lock"):
        try:
            download_librispeech(folder.parent, dataset_parts=PARTS)
        except (EOFError, tarfile.TarError):
            for archive in folder.parent.glob("*.tar.gz"):  # otherwise the next download would resume after its end
                archive.unlink()
            raise _fetch_error("the downloaded archive is incomplete") from None
        except OSError as error:  # urllib's errors and a full disk alike
            raise _fetch_error(error) from None
    return folder


def _fetch_error(reason: object) -> ValueError:
    return ValueError(
        f"Could not download {MINI_LIBRISPEECH}: {reason}. Check the network, "
        "or give a folder of audio with --data.corpus=FOLDER."
    )
