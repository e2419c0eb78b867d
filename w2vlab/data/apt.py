"""Corpora that Debian and Ubuntu package: fetched with the system's apt, unpacked without installing anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from w2vlab.data.cache import exclusive, make_writable


@dataclass(frozen=True)
class AptCorpus:
    """A corpus inside a Debian package.

    Attributes:
        package: Name of the package, which is the name of the corpus too.
        folder: Where its audio lies inside the package.
        num_files: Wav files that a whole copy has.
    """

    package: str
    folder: str
    num_files: int

    def audio_folder(self, cache: Path) -> Path:
        """Returns where the audio lies once fetched into `cache`."""
        return cache / "corpora" / self.package / self.folder

    def is_whole(self, audio: Path) -> bool:
        """Tells whether the folder `audio` holds every file of the corpus, none of them empty."""
        if not audio.is_dir():
            return False
        return sum(file.stat().st_size > 0 for file in audio.glob("*.wav")) >= self.num_files


FESTVOX_RU = AptCorpus(
    package="festvox-ru", folder="usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav", num_files=620
)


def apt_available() -> bool:
    """Tells whether this system has the tools to fetch and unpack a package."""
    return shutil.which("apt-get") is not None and shutil.which("dpkg") is not None


def fetch_package(corpus: AptCorpus, cache: Path) -> Path:
    """Fetches `corpus` into `cache` unless it is there, and returns the folder of its audio.

    It is unpacked beside its final place and moved there only when whole, so what an interrupted fetch leaves is never
    taken for the corpus; the next fetch clears it away.

    Raises:
        ValueError: The cache is not writable, or the corpus could not be fetched.
    """
    audio = corpus.audio_folder(cache)
    if corpus.is_whole(audio):
        return audio
    corpora = cache / "corpora"
    make_writable(corpora)
    with exclusive(corpora / f"{corpus.package}.lock"):
        if corpus.is_whole(audio):  # another process fetched it in the meantime
            return audio
        work = corpora / f"{corpus.package}.partial"
        shutil.rmtree(work, ignore_errors=True)
        try:
            unpacked = _download_and_unpack(corpus, work)
            if not corpus.is_whole(unpacked / corpus.folder):
                raise _fetch_error(corpus, f"the package does not hold {corpus.num_files} wav files in {corpus.folder}")
            target = corpora / corpus.package
            shutil.rmtree(target, ignore_errors=True)
            unpacked.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return audio


def _download_and_unpack(corpus: AptCorpus, work: Path) -> Path:
    # Lists and caches of our own: it works without root, and where `apt-get update` was never run.
    lists, archives = work / "lists", work / "cache"
    (lists / "partial").mkdir(parents=True)
    (archives / "archives" / "partial").mkdir(parents=True)
    # Root would otherwise be warned that the user _apt cannot write here.
    apt = ["apt-get", "-q", f"-oDir::State::Lists={lists}", f"-oDir::Cache={archives}", "-oAPT::Sandbox::User=root"]
    unpacked = work / "unpacked"
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns) as progress:
        step = progress.add_task(f"{corpus.package}: package lists", total=None)
        # Without this mode, apt calls it a success that no list could be fetched.
        listing = _run([*apt, "-oAPT::Update::Error-Mode=any", "update"], work)
        uris = _run([*apt, "--print-uris", "download", corpus.package], work)
        progress.update(step, description=f"{corpus.package}: download", total=_download_size(uris.output))
        download = _run([*apt, "download", corpus.package], work, progress, step)
        packages = list(work.glob("*.deb"))
        if download.failed or not packages:
            # When the lists could not be fetched, that is the reason, not the package that is then unknown.
            raise _fetch_error(corpus, listing.error if listing.failed else download.error)
        progress.update(step, description=f"{corpus.package}: unpack")
        unpacking = _run(["dpkg", "-x", str(packages[0]), str(unpacked)], work)
        if unpacking.failed:
            raise _fetch_error(corpus, unpacking.error)
    return unpacked


@dataclass(frozen=True)
class _Result:
    failed: bool
    output: str
    error: str


def _run(command: list[str], work: Path, progress: Progress | None = None, step: TaskID | None = None) -> _Result:
    """Runs `command` in `work`; shows on `progress` how the package there grows."""
    # Into files: a pipe that nobody reads in time would block the command.
    out, err = work / "stdout", work / "stderr"
    with out.open("w") as stdout, err.open("w") as stderr:
        environment = {**os.environ, "LC_ALL": "C"}
        process = subprocess.Popen(command, cwd=work, stdout=stdout, stderr=stderr, env=environment)
        try:
            while process.poll() is None:
                time.sleep(0.05)
                if progress is not None and step is not None:
                    progress.update(step, completed=sum(file.stat().st_size for file in work.glob("*.deb")))
        finally:
            process.kill()  # nothing to a command that ended; an interrupted fetch leaves none behind
            process.wait()
    lines = [line for line in err.read_text(errors="replace").splitlines() if line.strip()]
    # apt marks errors; the first is the cause, and those behind it are its consequences.
    errors = [line for line in lines if line.startswith("E:")] or lines[-1:] or [f"exit status {process.returncode}"]
    return _Result(process.returncode != 0, out.read_text(errors="replace"), errors[0])


def _download_size(uris: str) -> int | None:
    """Returns the bytes to fetch from apt's line `'URI' FILE SIZE HASH`; None where it printed none."""
    for line in uris.splitlines():
        fields = line.split()
        if line.startswith("'") and len(fields) >= 3 and fields[2].isdigit():
            return int(fields[2])
    return None


def _fetch_error(corpus: AptCorpus, reason: str) -> ValueError:
    return ValueError(
        f"Could not fetch {corpus.package}: {reason}. Check the network, "
        "or give a folder of audio with --data.corpus=FOLDER."
    )
