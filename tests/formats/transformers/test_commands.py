"""Folders of transformers through `w2vlab import` and `w2vlab export`, whose comparison is with the class that came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from tests.formats.transformers.peers import CHARACTERS, peer, saved
from w2vlab.cli.main import main

pytest.importorskip("transformers")

FOLDERS: dict[str, dict[str, Any]] = {
    "HubertModel": {},
    "Data2VecAudioForCTC": {"vocab_size": 8, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5},
}


def short(path: Path) -> list[str]:
    """Returns the option for half a second of audio to compare on."""
    soundfile.write(path, torch.randn(8000).mul(0.1).clamp(-1, 1).numpy(), 16_000)
    return [f"--audio={path}"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_imported_and_exported_as_it_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    files = {"vocab": CHARACTERS} if "CTC" in name else {}
    came, checkpoint, out = tmp_path / "came", str(tmp_path / "a.ckpt"), tmp_path / "out"
    saved(peer(name, **FOLDERS[name]), came, **files)
    assert main(["import", str(came), checkpoint]) == 0
    assert main(["export", checkpoint, str(out), "--format", "huggingface", *short(tmp_path / "a.wav")]) == 0
    assert f"({name})" in capsys.readouterr().out, "it was compared"
    for file in ("model.safetensors", "config.json"):
        assert (out / file).read_bytes() == (came / file).read_bytes()
