"""K-means over frames in memory."""

import logging
import sys

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

from w2vlab.extraction.clustering import kmeans
from w2vlab.extraction.clustering.clusterer import Clusterer
from w2vlab.extraction.clustering.kmeans import Clusters, k_means
from w2vlab.frame_grid import FrameGrid
from w2vlab.units.centers import Centers


def blobs(num_blobs: int = 12, num_frames: int = 3000, spread: float = 0.3) -> np.ndarray:
    random = np.random.default_rng(0)
    middles = 4 * random.standard_normal((num_blobs, 5))
    noise = spread * random.standard_normal((num_frames, 5))
    return (middles[random.integers(num_blobs, size=num_frames)] + noise).astype(np.float32)


def inertia_of(frames: np.ndarray, vectors: np.ndarray) -> float:
    squares = (frames[:, None].astype(np.float64) - vectors[None].astype(np.float64)) ** 2
    return float(squares.sum(axis=2).min(axis=1).mean())


def test_the_inertia_is_that_of_scikit_learn_and_better_than_mini_batches() -> None:
    frames = blobs(spread=1.5)
    found = k_means(frames.copy(), 20, seed=3, restarts=4)
    theirs = KMeans(20, n_init=4, random_state=3).fit(frames)
    mini = MiniBatchKMeans(20, n_init=4, random_state=3).fit(frames)
    assert found.inertia == pytest.approx(inertia_of(frames, found.vectors), rel=1e-5)
    assert found.inertia < 1.02 * theirs.inertia_ / len(frames)
    assert found.inertia < mini.inertia_ / len(frames)


def test_the_counts_are_those_of_the_nearest_centers() -> None:
    frames = blobs()
    found = k_means(frames, 12, restarts=3)
    centers = Centers(vectors=found.vectors, grid=FrameGrid(160, 400), stream="mfcc")
    units = centers.nearest(torch.from_numpy(frames))
    assert torch.bincount(units, minlength=12).tolist() == found.counts.tolist()
    assert found.vectors.dtype == np.float32


def test_a_seed_gives_the_same_centers_and_restarts_the_best_of_several() -> None:
    frames = blobs(num_blobs=30)
    first, again = k_means(frames.copy(), 25, seed=1), k_means(frames.copy(), 25, seed=1)
    assert np.array_equal(first.vectors, again.vectors)
    single = [k_means(frames.copy(), 25, seed=seed).inertia for seed in range(1, 5)]
    steps: list[int] = []
    best = k_means(frames.copy(), 25, seed=1, restarts=4, advance=lambda: steps.append(1))
    assert len(steps) == 4
    assert best.inertia == pytest.approx(min(single), rel=1e-4)
    assert min(single) < max(single)


def test_more_clusters_than_frames_or_distinct_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="`k` must be at most the number of frames, which is 4, but is 5"):
        k_means(np.zeros((4, 2), dtype=np.float32), 5)
    few = np.repeat(np.eye(3, dtype=np.float32), 100, axis=0)
    with pytest.raises(ValueError, match="`k` must be at most the number of distinct frames, which is 3, but is 4"):
        k_means(few, 4)


def test_an_empty_cluster_is_seeded_anew_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    frames = blobs(num_blobs=4, spread=0.01)
    fit = kmeans._fit_sklearn

    def with_an_empty_cluster(frames: np.ndarray, k: int, seed: int, first: np.ndarray | None = None) -> Clusters:
        found = fit(frames, k, seed, first)
        if first is not None:
            return found
        vectors, counts = found.vectors.copy(), found.counts.copy()
        vectors[2], counts[2] = 1000, 0
        return Clusters(vectors=vectors, counts=counts, inertia=found.inertia)

    monkeypatch.setattr(kmeans, "_fit_sklearn", with_an_empty_cluster)
    with caplog.at_level(logging.WARNING):
        found = k_means(frames, 4)
    assert "Re-seeded 1 cluster that had become empty." in caplog.text
    assert found.counts.all()
    assert found.inertia < 0.01


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    message = r"`engine` must be a package that is installed, but scikit-learn is not: pip install scikit-learn\."
    with pytest.raises(ValueError, match=message):
        k_means(blobs(), 3)
    with pytest.raises(ValueError, match=message):
        Clusterer(3)  # before a corpus is read


def test_faiss_uses_all_frames() -> None:
    pytest.importorskip("faiss", reason="an engine that need not be installed")
    frames = blobs(spread=1.5)
    found = k_means(frames, 5, engine="faiss", restarts=2)
    assert found.inertia == pytest.approx(inertia_of(frames, found.vectors), rel=1e-4)
    assert found.counts.sum() == len(frames)
    assert found.inertia < 1.05 * k_means(frames, 5, restarts=2).inertia
