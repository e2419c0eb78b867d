"""Versions: which are installed, which were tested, and whether they can be loaded."""

from __future__ import annotations

import platform

import w2vlab
from w2vlab.cli.doctor.finding import Finding, note, ok, problem
from w2vlab.cli.doctor.loading import Loaded
from w2vlab.cli.errors.packages import installed, load_error, python_range, repair, requirements

_NEEDED_BY = {
    "torchaudio": "LogMelEncoder, BeamDecoder and the MFCC control of an evaluation",
    "matplotlib": "pictures",
}
"""Optional packages, and the features that need them."""


def check_python() -> Finding:
    """Checks the version of Python."""
    found, tested = platform.python_version(), python_range()
    if _within(found, tested) is False:
        return note("python", f"{found}, which was not tested ({tested})", "Take a version in that range.")
    return ok("python", _with_range(found, tested))


def check_w2vlab() -> Finding:
    """Checks whether w2vlab is installed, or only imported from the working folder."""
    here, there = w2vlab.__version__, installed("w2vlab")
    if there is None:
        return note("w2vlab", f"{here}, which is not installed", "In the folder that holds it: pip install -e .")
    if there != here:
        return note("w2vlab", f"{here}, but {there} is installed", "Install it again: pip install -e .")
    return ok("w2vlab", here)


def check_package(name: str, loaded: Loaded) -> Finding:
    """Checks one package that w2vlab needs.

    Args:
        name: Name of the package on the package index.
        loaded: The result of importing it.
    """
    found, tested = installed(name), requirements().get(name, "")
    needed_by = _NEEDED_BY.get(name)
    if loaded.error is not None:
        if loaded.culprit not in (None, name):
            text = f"{found} cannot be loaded, because {loaded.culprit} cannot"
            return problem(name, text, "", blocks=needed_by is None)
        text = load_error(name, loaded.error).rstrip(".").removeprefix(f"{name} ")
        if needed_by is not None:
            text += f"; runs start without it, but {needed_by} need it"
        return problem(name, text, f"{repair(name)}.", blocks=needed_by is None)
    if found is None:  # a copy of its source on the path
        return ok(name, "loaded, of unknown version")
    if _within(found, tested) is False:
        return note(name, f"{found}, which was not tested ({tested})", f"{repair(name)}.")
    return ok(name, _with_range(found, tested))


def _within(version: str, tested: str) -> bool | None:
    """Returns whether a version is in a range; None if that is unknown."""
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
        from packaging.version import InvalidVersion
    except ImportError:  # it comes with other packages, and those may be missing
        return None
    try:
        return SpecifierSet(tested).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return None


def _with_range(version: str, tested: str) -> str:
    return f"{version} (tested: {tested})" if tested else version
