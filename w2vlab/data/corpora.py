"""The sample corpora that can be asked for by name."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path

from w2vlab.data.apt import FESTVOX_RU, apt_available, fetch_package
from w2vlab.data.cache import exclusive, make_writable

MINI_LIBRISPEECH = "mini_librispeech"
SAMPLE = "sample"
NAMES = (FESTVOX_RU.package, MINI_LIBRISPEECH, SAMPLE)

logger = logging.getLogger(__name__)


def resolve_name(name: str, cache: Path) -> str:
    """Returns the corpus that `name` stands for on this system: `sample` is one of the others."""
    if name != SAMPLE:
        return name
    fetched = FESTVOX_RU.is_whole(FESTVOX_RU.audio_folder(cache))
    return FESTVOX_RU.package if fetched or apt_available() else MINI_LIBRISPEECH


def locate(corpus: str, cache: Path) -> Path:
    """Returns the file or folder that `corpus`, a name or a path, stands for; fetches nothing."""
    name = resolve_name(corpus, cache)
    if name == FESTVOX_RU.package:
        return FESTVOX_RU.audio_folder(cache)
    if name == MINI_LIBRISPEECH:
        return cache / "corpora" / MINI_LIBRISPEECH / "LibriSpeech"
    return Path(corpus).expanduser().absolute()


def fetch(corpus: str, cache: Path) -> Path:
    """Makes sure that `corpus`, a name or a path, is on disk, and returns its file or folder.

    Raises:
        ValueError: It cannot be fetched, or the path does not exist.
    """
    name = resolve_name(corpus, cache)
    if corpus == SAMPLE:
        logger.info("The sample corpus of this system is %s.", name)
    if name == FESTVOX_RU.package:
        return _fetch_festvox_ru(cache)
    if name == MINI_LIBRISPEECH:
        return _fetch_mini_librispeech(cache)
    path = locate(corpus, cache)
    if not path.exists():
        raise ValueError(
            f"`corpus` must be an existing path or one of {', '.join(NAMES)}, but is {corpus!r}; there is no {path}."
        )
    return path


def _fetch_festvox_ru(cache: Path) -> Path:
    if not apt_available() and not FESTVOX_RU.is_whole(FESTVOX_RU.audio_folder(cache)):
        raise ValueError(
            f"`corpus` {FESTVOX_RU.package!r} needs apt-get and dpkg (Debian, Ubuntu), which are not here; take "
            f"--data.corpus={MINI_LIBRISPEECH}, or give a folder of audio with --data.corpus=FOLDER."
        )
    return fetch_package(FESTVOX_RU, cache)


def _fetch_mini_librispeech(cache: Path) -> Path:
    from lhotse.recipes.librispeech import MINI_LIBRISPEECH as PARTS
    from lhotse.recipes.librispeech import download_librispeech

    folder = locate(MINI_LIBRISPEECH, cache)
    # The recipe marks each part that it has unpacked to the end.
    if all((folder / part / ".completed").is_file() for part in PARTS):
        return folder
    make_writable(folder.parent)
    with exclusive(folder.parent / "fetch.lock"):
        try:
            download_librispeech(folder.parent, dataset_parts=PARTS)
        except (EOFError, tarfile.TarError):
            for archive in folder.parent.glob("*.tar.gz"):  # or the next start would resume behind its end
                archive.unlink()
            raise _fetch_error("what arrived is not a whole archive") from None
        except OSError as error:  # urllib's errors and a full disk alike
            raise _fetch_error(error) from None
    return folder


def _fetch_error(reason: object) -> ValueError:
    return ValueError(
        f"Could not fetch {MINI_LIBRISPEECH}: {reason}. Check the network, "
        "or give a folder of audio with --data.corpus=FOLDER."
    )
