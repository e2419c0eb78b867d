"""Audio codecs and compilers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2vlab.cli.doctor.finding import Finding, note, ok

_PROGRAM = "#include <cmath>\nint main() { return static_cast<int>(std::floor(0.5)); }\n"


def check_codecs(facts: Mapping[str, Any]) -> Finding:
    """Checks which audio formats can be read.

    Args:
        facts: Results of writing and reading each codec; empty if soundfile cannot be loaded.
    """
    ffmpeg = "ffmpeg is there" if shutil.which("ffmpeg") else "no ffmpeg, which is not needed"
    if "codecs" not in facts:
        return note("codecs", f"not known: {facts.get('failed', 'soundfile cannot be loaded')}; {ffmpeg}", "")
    failed = {ending: why for ending, why in facts["codecs"].items() if why is not None}
    can = ", ".join(ending for ending in facts["codecs"] if ending not in failed)
    text = f"{can or 'none'} (libsndfile {facts['libsndfile']}); {ffmpeg}"
    if failed:
        cannot = "; ".join(f"{ending}: {why}" for ending, why in failed.items())
        advice = "Take soundfile's wheel, which has them (pip install --force-reinstall soundfile), or convert to flac."
        return note("codecs", f"{text}; not {cannot}", advice)
    return ok("codecs", text)


def check_compiler() -> Finding:
    """Checks the C++ compiler, which CompileModel needs on a CPU."""
    name = os.environ.get("CXX", "g++")
    advice = "Install g++ (apt-get install g++), or set CXX, to use CompileModel; nothing else needs it."
    program = shutil.which(name)
    if program is None:
        return note("C++ compiler", f"no {name}", advice)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "program.cpp")
        source.write_text(_PROGRAM, encoding="utf-8")
        command = [program, "-std=c++20", "-fopenmp", str(source), "-o", str(source.with_suffix(""))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            return note("C++ compiler", f"{name} cannot be run: {error}", advice)
    if done.returncode != 0:
        line = next((line for line in done.stderr.splitlines() if "error" in line), "it failed without a word")
        return note("C++ compiler", f"{name} cannot compile a program: {line.strip()}", advice)
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    if not headers.is_file():
        advice = "Install Python's headers (apt-get install python3-dev) to use CompileModel; nothing else needs them."
        return note("C++ compiler", f"{name}, but no Python.h", advice)
    return ok("C++ compiler", name)
