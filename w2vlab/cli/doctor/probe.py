"""Imports the packages to check in a separate process, because a broken library may crash it.

`python -m w2vlab.cli.doctor.probe torch torchaudio` writes two lines of JSON for each package: its name before it is
imported, and the result.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from w2vlab.cli.errors.packages import load_failure, module_of, reason

CODECS = ("wav", "flac", "ogg", "opus", "mp3")
"""Endings of the audio files that a corpus may hold."""


def main(distributions: list[str]) -> None:
    """Imports packages one after another and writes the result of each."""
    # What libraries print must not come between the lines.
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        warnings.simplefilter("ignore")
        for distribution in distributions:
            _import(distribution, out)


def _import(distribution: str, out: TextIO) -> None:
    _write({"package": distribution}, out)
    found: dict[str, Any] = {"package": distribution, "error": None, "culprit": None, "facts": {}}
    try:
        importlib.import_module(module_of(distribution))
    except BaseException as problem:  # after any error the package cannot be used
        failure = load_failure(problem)
        found |= {"error": reason(problem), "culprit": failure.package if failure else distribution}
    else:
        found["facts"] = _facts(distribution)
    _write(found, out)


def _facts(distribution: str) -> dict[str, Any]:
    try:
        return _FACTS[distribution]() if distribution in _FACTS else {}
    except Exception as problem:
        return {"failed": reason(problem)}


def _write(line: dict[str, Any], out: TextIO) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()


def torch_facts() -> dict[str, Any]:
    """Returns the devices according to PyTorch."""
    import torch

    facts: dict[str, Any] = {
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "nccl": None,
        "gpus": [],
        "gpu_error": None,
    }
    if not torch.cuda.is_available():
        if torch.version.cuda is not None:
            try:
                torch.cuda.init()  # type: ignore[no-untyped-call]
            except Exception as problem:
                facts["gpu_error"] = reason(problem)
        return facts
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    built_for = torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count()):
        seen = torch.cuda.get_device_properties(number)
        gpu: dict[str, Any] = {"name": seen.name, "total": seen.total_memory, "capability": [seen.major, seen.minor]}
        try:
            gpu["free"] = torch.cuda.mem_get_info(number)[0]
            # Only a computation shows it.
            gpu["works"] = float(torch.ones(8, device=f"cuda:{number}").sum()) == 8.0
        except Exception as problem:
            gpu |= {"works": False, "error": reason(problem)}
        facts["gpus"].append(gpu | {"built_for": built_for})
    return facts


def codec_facts() -> dict[str, Any]:
    """Writes half a second of sound as each codec, and reads it back; returns what went wrong, by ending."""
    import numpy as np
    import soundfile

    sound = (0.5 * np.sin(np.arange(8000) * (2 * np.pi * 440 / 16_000))).astype(np.float32)
    failed: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for ending in CODECS:
            path = Path(folder, f"sound.{ending}")
            form, subtype = ("OGG", "OPUS") if ending == "opus" else (None, None)
            try:
                soundfile.write(path, sound, 16_000, format=form, subtype=subtype)
                read, rate = soundfile.read(path, dtype="float32")
                # Lossy codecs add some silence; the power is that of the tone.
                seconds, power = len(read) / rate, float(np.mean(read**2))
                failed[ending] = None if 0.4 < seconds < 0.8 and 0.05 < power < 0.2 else "the decoded sound differs"
            except Exception as problem:
                failed[ending] = reason(problem)
    return {"codecs": failed, "libsndfile": soundfile.__libsndfile_version__}


_FACTS: dict[str, Callable[[], dict[str, Any]]] = {"torch": torch_facts, "soundfile": codec_facts}

if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(sys.argv[1:])
