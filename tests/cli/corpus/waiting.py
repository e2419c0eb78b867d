"""Parts of a test: a run that waits in the shard that `W2VLAB_TEST_WAIT` names, so that it can be ended there."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from w2vlab.extraction.writing.npy import NpyWriter
from w2vlab.extraction.writing.utterance import EncodedUtterance

_write = NpyWriter.write


def _wait_and_write(self: NpyWriter, path: Path, utterances: Sequence[EncodedUtterance]) -> list[Path]:
    files = _write(self, path, utterances)
    if path.name == os.environ.get("W2VLAB_TEST_WAIT"):
        (path.parent / "waiting").touch()
        time.sleep(600)
    return files


NpyWriter.write = _wait_and_write  # type: ignore[method-assign]
