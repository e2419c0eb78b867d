"""The examples of docs/train/clusters.md."""

from __future__ import annotations

import re
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from w2vlab.frame_grid import FrameGrid
from w2vlab.units.centers import Centers, read_centers, write_centers

PAGE = (Path(__file__).parents[2] / "docs/train/clusters.md").read_text(encoding="utf-8")


def test_centers_are_read_and_k_means_of_scikit_learn_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = torch.randn(50, 6)
    write_centers(Centers(vectors=frames[:4], grid=FrameGrid(160, 400), stream="mfcc"), Path("centers.safetensors"))
    kmeans = KMeans(3, n_init=1).fit(np.asarray(frames))
    joblib.dump(kmeans, "km.bin")
    names = {"frames": frames}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/train/clusters.md", "exec"), names)
    found = read_centers(Path("centers.safetensors"))
    assert (found.stream, found.grid) == ("layer 6", FrameGrid(320, 400))
    assert found.nearest(frames).tolist() == kmeans.labels_.tolist()
