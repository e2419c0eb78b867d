"""Downloads corpora that Debian and Ubuntu package, with the system's apt; nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from w2vlab.data.corpora.cache import hold_lock, make_writable


@dataclass(frozen=True)
class AptCorpus:
    """A corpus inside a Debian package.

    Attributes:
        package: Name of the package and of the corpus.
        folder: Path of the audio inside the package.
        num_files: Number of audio files in a complete copy, at least.
        pattern: Names of these files.
        others: Packages that are unpacked into the same place, such as that of the texts.
    """

    package: str
    folder: str
    num_files: int
    pattern: str = "*.wav"
    others: tuple[str, ...] = ()

    def audio_folder(self, cache: Path) -> Path:
        """Returns the folder of the audio after a download into `cache`."""
        return cache / "corpora" / self.package / self.folder

    def is_complete(self, audio: Path) -> bool:
        """Returns whether the folder `audio` has all files of the corpus, none of them empty."""
        if not audio.is_dir():
            return False
        return sum(file.stat().st_size > 0 for file in audio.glob(self.pattern)) >= self.num_files


FESTVOX_RU = AptCorpus(
    package="festvox-ru", folder="usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav", num_files=620
)


def apt_available() -> bool:
    """Returns whether apt-get and dpkg, which download and unpack packages, are installed."""
    return shutil.which("apt-get") is not None and shutil.which("dpkg") is not None


def fetch_package(corpus: AptCorpus, cache: Path) -> Path:
    """Downloads `corpus` into `cache` unless it is already there, and returns the folder of its audio.

    The package is unpacked in a temporary folder and renamed only when complete, so that the remains of an interrupted
    download are never used as the corpus; the next download removes them.

    Raises:
        ValueError: The cache is not writable, or the download failed.
    """
    audio = corpus.audio_folder(cache)
    if corpus.is_complete(audio):
        return audio
    corpora = cache / "corpora"
    make_writable(corpora)
    with hold_lock(corpora / f"{corpus.package}.lock"):
        if corpus.is_complete(audio):  # another process has downloaded it in the meantime
            return audio
        work = corpora / f"{corpus.package}.partial"
        shutil.rmtree(work, ignore_errors=True)
        try:
            unpacked = _download_and_unpack(corpus, work)
            if not corpus.is_complete(unpacked / corpus.folder):
                kind = corpus.pattern.rpartition(".")[2]
                raise _fetch_error(
                    corpus, f"the package does not have {corpus.num_files} {kind} files in {corpus.folder}"
                )
            target = corpora / corpus.package
            shutil.rmtree(target, ignore_errors=True)
            unpacked.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return audio


def _download_and_unpack(corpus: AptCorpus, work: Path) -> Path:
    # With separate package lists and caches apt needs neither root nor an earlier `apt-get update`.
    lists, archives = work / "lists", work / "cache"
    (lists / "partial").mkdir(parents=True)
    (archives / "archives" / "partial").mkdir(parents=True)
    # As root, apt would otherwise warn that its user _apt cannot write here.
    apt = ["apt-get", "-q", f"-oDir::State::Lists={lists}", f"-oDir::Cache={archives}", "-oAPT::Sandbox::User=root"]
    unpacked = work / "unpacked"
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns) as progress:
        step = progress.add_task(f"{corpus.package}: package lists", total=None)
        # Without this mode, apt exits with status 0 although no list could be downloaded.
        listing = _run([*apt, "-oAPT::Update::Error-Mode=any", "update"], work)
        names = (corpus.package, *corpus.others)
        uris = _run([*apt, "--print-uris", "download", *names], work)
        progress.update(step, description=f"{corpus.package}: download", total=_download_size(uris.output))
        download = _run([*apt, "download", *names], work, progress, step)
        packages = sorted(work.glob("*.deb"))
        if download.failed or len(packages) < len(names):
            # If the lists could not be downloaded, the package is unknown because of that, so report the first error.
            raise _fetch_error(corpus, listing.error if listing.failed else download.error)
        progress.update(step, description=f"{corpus.package}: unpack")
        for package in packages:
            unpacking = _run(["dpkg", "-x", str(package), str(unpacked)], work)
            if unpacking.failed:
                raise _fetch_error(corpus, unpacking.error)
    return unpacked


@dataclass(frozen=True)
class _CommandResult:
    failed: bool
    output: str
    error: str


def _run(
    command: list[str], work: Path, progress: Progress | None = None, step: TaskID | None = None
) -> _CommandResult:
    """Runs `command` in `work`, and shows the downloaded bytes of the package on `progress`."""
    # Output goes to files, because a full pipe would block the command.
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
            process.kill()  # without effect on a finished command; ends it if the download is interrupted
            process.wait()
    lines = [line for line in err.read_text(errors="replace").splitlines() if line.strip()]
    # apt marks errors with "E:"; the first one is the cause of the others.
    errors = [line for line in lines if line.startswith("E:")] or lines[-1:] or [f"exit status {process.returncode}"]
    return _CommandResult(process.returncode != 0, out.read_text(errors="replace"), errors[0])


def _download_size(uris: str) -> int | None:
    """Returns the size in bytes from apt's lines `'URI' FILE SIZE HASH`; None without such a line."""
    lines = [line.split() for line in uris.splitlines() if line.startswith("'")]
    sizes = [int(fields[2]) for fields in lines if len(fields) >= 3 and fields[2].isdigit()]
    return sum(sizes) or None


def _fetch_error(corpus: AptCorpus, reason: str) -> ValueError:
    return ValueError(
        f"Could not download {corpus.package}: {reason}. Check the network, "
        "or give a folder of audio with --data.corpus=FOLDER."
    )
