"""Packages for a machine without a network, which has PyTorch already.

    python -m benchmarks.gpu.wheels collect FOLDER      # downloads what the check needs beyond PyTorch and its like
    python -m benchmarks.gpu.wheels install FOLDER SITE # installs what is missing into SITE, without a network

Versions are those of `requirements.lock`. It says which package needs which, so that the packages that come with
PyTorch, which would not fit, are neither downloaded nor installed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name, parse_wheel_filename

LOCK = Path(__file__).parents[2] / "requirements.lock"

PYTHON = "3.12"

PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17)] + ["manylinux2014_x86_64"]
"""Those that pip accepts on the other machine, the newest first; it does not add the older ones itself."""

PRESENT = (
    *("torch", "torchaudio", "lightning", "torchmetrics", "transformers"),
    *("scikit-learn", "matplotlib", "pyarrow"),
)
"""What the other machine has, with all that they need; the last three are too large to carry, and seldom missing."""

WANTED = (
    *("wandb", "jsonargparse", "lhotse", "soundfile", "vector-quantize-pytorch", "mpmath", "rich", "urllib3"),
    *("pytest", "pytest-timeout", "pytest-xdist"),
)
"""What w2vlab and its GPU tests need beyond them."""

MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Locked:
    """A package of the lock.

    Attributes:
        name: Its normalized name.
        version: Its version.
        marker: Where it is installed; None for everywhere.
        needed_by: Normalized names of the packages that need it.
    """

    name: str
    version: str
    marker: str | None
    needed_by: tuple[str, ...]


def read_lock(text: str) -> list[Locked]:
    """Returns the packages of a lock as `uv pip compile` writes it."""
    found: list[Locked] = []
    for line in text.splitlines():
        if match := re.match(r"([\w.-]+)==(\S+)(?: ; (.*))?$", line):
            found.append(Locked(canonicalize_name(match[1]), match[2], match[3], ()))
        elif (match := re.match(r"    #\s+(?:via )?([\w.-]+)(?: \(.*\))?$", line)) and match[1] != "via":
            last = found.pop()
            needed_by = (*last.needed_by, canonicalize_name(match[1]))
            found.append(Locked(last.name, last.version, last.marker, needed_by))
    return found


def closure(names: Collection[str], lock: Sequence[Locked]) -> set[str]:
    """Returns `names` and all packages of a lock that they need."""
    found: set[str] = {canonicalize_name(name) for name in names}
    while more := {package.name for package in lock if found.intersection(package.needed_by)} - found:
        found |= more
    return found


def to_carry(lock: Sequence[Locked]) -> list[str]:
    """Returns the requirements to download: what is wanted, without what is present."""
    environment = {
        **{"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "implementation_name": "cpython"},
        **{"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
        "platform_python_implementation": "CPython",
    }
    here = [package for package in lock if package.marker is None or Marker(package.marker).evaluate(environment)]
    names = closure(WANTED, here) - closure(PRESENT, here)
    return [f"{package.name}=={package.version}" for package in here if package.name in names]


def collect(folder: Path) -> None:
    """Downloads the wheels into a folder.

    Raises:
        SystemExit: pip fails, or they are larger than `MAX_BYTES`.
    """
    requirements = to_carry(read_lock(LOCK.read_text(encoding="utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):  # two versions of one would stop the installation
        old.unlink()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", f"--dest={folder}"]
    platforms = [f"--platform={name}" for name in PLATFORMS]
    command = [*pip, f"--python-version={PYTHON}", "--implementation=cp", *platforms, *requirements]
    if status := subprocess.run(command, check=False).returncode:
        raise SystemExit(f"pip ended with status {status}.")
    size = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    if size > MAX_BYTES:
        raise SystemExit(f"The wheels must have at most {MAX_BYTES >> 20} MiB, but have {size / 2**20:.1f}.")
    print(f"{len(requirements)} packages, {size / 2**20:.1f} MiB, in {folder}")


def missing(wheels: Sequence[Path], installed: Mapping[str, str]) -> list[Path]:
    """Returns the wheels of packages that are not installed."""
    return [wheel for wheel in wheels if parse_wheel_filename(wheel.name)[0] not in installed]


def install(folder: Path, site: Path) -> None:
    """Installs the wheels of packages that this Python lacks into a folder of their own, without a network.

    Raises:
        SystemExit: There are no wheels, or pip fails.
    """
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise SystemExit(f"`--wheels` must be a folder with wheels, but {folder} has none: `--collect` downloads them.")
    installed: dict[str, str] = {}
    for wheel in wheels:
        name = parse_wheel_filename(wheel.name)[0]
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    wanted = missing(wheels, installed)
    print(f"{len(wanted)} of {len(wheels)} packages are missing here.", file=sys.stderr)
    if not wanted:
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", f"--find-links={folder}", "--no-deps"]
    command = [*pip, "--no-compile", "--no-cache-dir", f"--target={site}", *(str(wheel) for wheel in wanted)]
    if status := subprocess.run(command, check=False).returncode:
        raise SystemExit(f"pip ended with status {status}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Collects or installs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("collect", help="download them").add_argument("folder", type=Path)
    installing = commands.add_parser("install", help="install what is missing")
    installing.add_argument("folder", type=Path)
    installing.add_argument("site", type=Path, help="folder that `PYTHONPATH` will have")
    options = parser.parse_args(arguments)
    if options.command == "collect":
        collect(options.folder)
    else:
        install(options.folder, options.site)


if __name__ == "__main__":
    main()
