"""K-means over frames in memory, by scikit-learn or faiss."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from w2vlab.utils.messages import count

logger = logging.getLogger(__name__)

Frames = npt.NDArray[np.float32]

Engine = Literal["scikit-learn", "faiss"]

MAX_ITERATIONS = 100

_MODULES: dict[Engine, tuple[str, str]] = {
    "scikit-learn": ("sklearn.cluster", "scikit-learn"),
    "faiss": ("faiss", "faiss-cpu"),
}
"""The module of an engine, and the distribution that has it."""


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """The result of k-means.

    Attributes:
        vectors: The centers, float32 of shape `(k, D)`.
        counts: Frames of each cluster, int64 of shape `(k,)`.
        inertia: Mean squared distance of the frames to their centers.
    """

    vectors: Frames
    counts: npt.NDArray[np.int64]
    inertia: float


def load_engine(engine: Engine) -> Any:
    """Imports the module that computes clusters; to be called before a corpus is read for nothing.

    Raises:
        ValueError: It is not installed.
    """
    module, distribution = _MODULES[engine]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise  # something that it needs
        raise ValueError(
            f"`engine` must be a package that is installed, but {engine} is not: pip install {distribution}."
        ) from None


def k_means(
    frames: Frames,
    k: int,
    *,
    seed: int = 0,
    restarts: int = 1,
    engine: Engine = "scikit-learn",
    advance: Callable[[], None] = lambda: None,
) -> Clusters:
    """Clusters frames: Lloyd's iterations from centers that k-means++ draws, the best of several draws.

    faiss draws the first centers uniformly, and splits a large cluster where one is empty.

    Args:
        frames: Finite, contiguous, shape `(N, D)`. scikit-learn shifts them to their mean and back in place, which
            rounds them, because a copy would double the memory.
        k: Number of clusters.
        seed: Seed of the first centers.
        restarts: Draws of first centers; the clusters with the smallest inertia are returned.
        engine: What computes them.
        advance: Called after each of `restarts`.

    Raises:
        ValueError: There are fewer distinct frames than clusters, or the engine is not installed.
    """
    if len(frames) < k:
        raise ValueError(_too_few(k, len(frames), "frames"))
    fit = _fit_faiss if engine == "faiss" else _fit_sklearn
    best: Clusters | None = None
    for restart in range(restarts):
        found = fit(frames, k, seed + restart)
        if not found.counts.all():
            found = _without_empty_clusters(frames, found)
        if best is None or found.inertia < best.inertia:
            best = found
        advance()
    assert best is not None, "at least one start"
    return best


def _fit_sklearn(frames: Frames, k: int, seed: int, first: Frames | None = None) -> Clusters:
    model = load_engine("scikit-learn").KMeans(
        k,
        init="k-means++" if first is None else first,
        n_init=1,
        max_iter=MAX_ITERATIONS,
        random_state=seed,
        copy_x=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Number of distinct clusters")  # the caller checks that
        model.fit(frames)
    return Clusters(
        vectors=np.ascontiguousarray(model.cluster_centers_, dtype=np.float32),
        counts=np.bincount(model.labels_, minlength=k).astype(np.int64),
        inertia=float(model.inertia_) / len(frames),
    )


def _fit_faiss(frames: Frames, k: int, seed: int) -> Clusters:
    model = load_engine("faiss").Kmeans(
        frames.shape[1],
        k,
        niter=MAX_ITERATIONS,
        seed=seed + 1,  # 0 would be any
        min_points_per_centroid=1,
        max_points_per_centroid=-(-len(frames) // k),  # all of them; by default a sample
    )
    model.train(frames)
    distances, labels = model.index.search(frames, 1)
    return Clusters(
        vectors=np.array(model.centroids, dtype=np.float32),
        counts=np.bincount(labels[:, 0], minlength=k).astype(np.int64),
        inertia=float(distances.mean(dtype=np.float64)),
    )


def _without_empty_clusters(frames: Frames, found: Clusters) -> Clusters:
    """Moves the centers of empty clusters to the frames that are farthest from theirs, and continues from there.

    Raises:
        ValueError: There are fewer distinct frames than clusters.
    """
    k = len(found.counts)
    distinct: set[bytes] = set()
    for row in frames:
        distinct.add(row.tobytes())
        if len(distinct) >= k:
            break
    else:
        raise ValueError(_too_few(k, len(distinct), "distinct frames"))
    logger.warning("Re-seeded %s that had become empty.", count(int((found.counts == 0).sum()), "cluster"))
    return _fit_sklearn(frames, k, 0, found.vectors)  # relocates empty clusters in its first iteration


def _too_few(k: int, number: int, what: str) -> str:
    return (
        f"`k` must be at most the number of {what}, which is {number:,}, but is {k:,}. Use fewer clusters or a larger "
        "corpus."
    )
