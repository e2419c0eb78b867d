"""The packages that w2vlab needs: tested versions, installed versions, and packages that cannot be loaded.

Nothing here imports any of them, because each may be missing or broken.
"""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from types import TracebackType
from typing import Any

import w2vlab

_MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Distributions whose module has another name."""

_LOCK = "requirements.lock"
"""Versions that were tested together: beside the package in a clone, within it if it is installed."""


def requirements() -> dict[str, str]:
    """Returns the version ranges of the packages that every installation needs, as `">=2.11.0,<2.15"`, by distribution.

    They come from the metadata of the installed w2vlab; in a clone that is not installed, from `pyproject.toml`.
    """
    try:
        lines = metadata("w2vlab").get_all("Requires-Dist") or []
    except PackageNotFoundError:
        lines = _project().get("dependencies", [])
    found = {}
    for line in lines:
        parts = re.fullmatch(r"([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?", line)
        if parts is not None and "extra" not in (parts[3] or ""):
            found[parts[1].lower()] = _readable(parts[2])
    return found


def python_range() -> str:
    """Returns the versions of Python that were tested, as `">=3.11,<3.14"`."""
    try:
        return _readable(",".join(metadata("w2vlab").get_all("Requires-Python") or []))
    except PackageNotFoundError:
        return _readable(_project().get("requires-python", ""))


def installed(distribution: str) -> str | None:
    """Returns the installed version of a distribution; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def module_of(distribution: str) -> str:
    """Returns the name by which a distribution is imported."""
    return _MODULES.get(distribution, distribution.replace("-", "_"))


@dataclass(frozen=True)
class LoadFailure:
    """A package that cannot be loaded, as a distribution, and why, in a line."""

    package: str
    why: str


def load_failure(problem: BaseException) -> LoadFailure | None:
    """Returns the package that could not be loaded according to `problem`; None if the problem is another one.

    It is a missing package, or the innermost one whose import was running.
    """
    needed = {module_of(name): name for name in requirements()}
    found: BaseException | None = problem
    while found is not None:
        missing = needed.get((found.name or "").partition(".")[0]) if isinstance(found, ModuleNotFoundError) else None
        if package := missing or _importing(found.__traceback__, needed):
            return LoadFailure(package, reason(found))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return None


def load_error(distribution: str, why: str) -> str:
    """Returns a line about a package that cannot be loaded, with its version; `why` is the error of its import."""
    found = installed(distribution)
    if found is None:
        return f"{distribution} is not installed."
    beside = f" beside torch {installed('torch')}" if distribution == "torchaudio" else ""
    return f"{distribution} {found} cannot be loaded{beside}: {why}."


def reason(problem: BaseException) -> str:
    """Returns the message of an exception, or of its cause, in a line."""
    while problem.__cause__ is not None:  # PyTorch names only the library; the error of the system has the reason
        problem = problem.__cause__
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return (lines[0] if lines else type(problem).__name__).rstrip(".")


def repair(distribution: str) -> str:
    """Returns how to repair a package that cannot be loaded."""
    # torchaudio is compiled for the torch that it was released with.
    names = ("torch", "torchaudio") if distribution in ("torch", "torchaudio") else (distribution,)
    lock = _lock_file()
    locked = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)) if lock else {}
    # pip does not reinstall a package of the right version, even if its files are broken.
    again = "--force-reinstall --no-deps " if all(installed(name) == locked.get(name, "") for name in names) else ""
    return f"Install the tested versions: pip install {again}-c {_shortest(lock)} {' '.join(names)}"


def _lock_file() -> Path | None:
    package = Path(w2vlab.__file__).parent
    return next((folder / _LOCK for folder in (package, package.parent) if (folder / _LOCK).is_file()), None)


def _shortest(file: Path | None) -> str:
    if file is None:
        return _LOCK
    with suppress(OSError, ValueError):  # the working folder is gone, or another one
        return str(file.relative_to(Path.cwd()))
    return str(file)


def _readable(versions: str) -> str:
    """Returns a range with its lowest version first; metadata has its parts in any order."""
    parts = [part.strip() for part in versions.split(",") if part.strip()]
    return ",".join(sorted(parts, key=lambda part: (part[0] != ">", part[0] == "<", part)))


def _importing(traceback: TracebackType | None, needed: dict[str, str]) -> str | None:
    found = None
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "<module>":
            found = needed.get(str(frame.f_globals.get("__name__")).partition(".")[0], found)
        traceback = traceback.tb_next
    return found


def _project() -> dict[str, Any]:
    """Returns the metadata of the package in a clone; empty elsewhere."""
    file = Path(w2vlab.__file__).parents[1] / "pyproject.toml"
    try:
        project: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError, ValueError):
        return {}
    return project
