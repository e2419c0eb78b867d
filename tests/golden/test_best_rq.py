"""The codes of BEST-RQ against SpeechBrain's."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from w2vlab.quantizers import RandomProjectionQuantizer

FILE = Path(__file__).parent / "best_rq" / "speechbrain.safetensors"


def test_codes_are_speechbrains_for_the_same_projection_and_codebook() -> None:
    theirs = load_file(FILE)
    width, (size, code_dim) = theirs["stacked"].shape[-1], theirs["codebook"].shape
    ours = RandomProjectionQuantizer(width, 1, size, code_dim, normalize=False)
    projection, entries = theirs["projection"].T[None], theirs["codebook"][None]  # they multiply from the right
    ours.load_state_dict({"projection": projection, "entries": entries})
    assert torch.equal(ours(theirs["stacked"]).codes[..., 0], theirs["codes"])
    assert theirs["codes"].unique().numel() > 30  # of 80 frames
