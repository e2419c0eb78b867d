"""Draws and configurations of masks, for their tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser

from w2vlab.interfaces import Masking, MaskingFactory
from w2vlab.masking import SpanMasking
from w2vlab.types import Mask

CONFIGS = Path(__file__).parents[3] / "configs/masking"


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def draw(masking: Masking, lengths: tuple[int, ...], seed: int, num_channels: int = 8) -> Mask:
    return masking(lengths, [rng(seed, row) for row in range(len(lengths))], num_channels)


def from_yaml(name: str) -> Masking:
    def model(masking: MaskingFactory = SpanMasking) -> Masking:
        return masking()

    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(model, "model", sub_configs=True)
    config = parser.parse_args([f"--model.masking={CONFIGS / name}.yaml"])
    built: Masking = parser.instantiate_classes(config).model.masking()
    return built


def text_of(name: str) -> str:
    lines = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.strip("# ") for line in lines if line.startswith("#"))


def runs_of(frames: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """First frames of the masked spans, and the frames after their last ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], frames.numpy(), [0]])))
    return edges[::2], edges[1::2]
