"""K-means over a stream of frames: a sample in one pass, and its clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from w2vlab.extraction.clustering.kmeans import Clusters, Engine, k_means, load_engine
from w2vlab.extraction.clustering.reservoir import Reservoir
from w2vlab.utils.checks import check_at_least

FramesOfAnUtterance = tuple[str, int, Tensor]
"""Id of an utterance, the number of the first of some of its frames, and these frames `(T, D)`."""

_LEAST_FRAMES = 200_000
_FRAMES_OF_A_CLUSTER = 500


def default_max_frames(k: int) -> int:
    """Returns how many frames are kept for `k` clusters.

    Centers of N frames have a mean squared distance to all frames that is about `k / N` above that of the centers of
    all frames: with 500 frames a cluster, 0.2 %.
    """
    return max(_LEAST_FRAMES, _FRAMES_OF_A_CLUSTER * k)


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Clusters of a sample of frames.

    Attributes:
        clusters: The clusters of the frames that were kept.
        num_seen: Frames of the corpus that are finite.
        num_kept: Frames in the sample.
        num_not_finite: Frames of the corpus that are not finite.
    """

    clusters: Clusters
    num_seen: int
    num_kept: int
    num_not_finite: int


class Clusterer:
    """Clusters the frames of a corpus in constant memory.

    Args:
        k: Number of clusters.
        max_frames: Frames to keep; None for `default_max_frames`.
        seed: Seed of the sample and of the first centers.
        restarts: Draws of first centers, of which the best one counts.
        engine: What computes the clusters: `scikit-learn` or `faiss`.

    Raises:
        ValueError: An option is out of its range, or the engine is not installed.
    """

    def __init__(
        self,
        k: int,
        *,
        max_frames: int | None = None,
        seed: int = 0,
        restarts: int = 1,
        engine: Engine = "scikit-learn",
    ) -> None:
        check_at_least(2, k=k)
        check_at_least(1, restarts=restarts)
        check_at_least(0, seed=seed)
        if max_frames is not None and max_frames < k:
            raise ValueError(f"`max_frames` must be at least the number of clusters ({k:,}), but is {max_frames:,}.")
        load_engine(engine)
        self.k = k
        self.max_frames = default_max_frames(k) if max_frames is None else max_frames
        self.seed = seed
        self.restarts = restarts
        self.engine = engine

    def reservoir(self, dim: int) -> Reservoir:
        """Returns an empty reservoir for frames of `dim` dimensions."""
        return Reservoir(self.max_frames, dim, self.seed)

    def sample(self, frames: Iterable[FramesOfAnUtterance], dim: int) -> Reservoir:
        """Returns a uniform sample of the frames of all utterances.

        Args:
            frames: The utterances, in any order; frames are on the host.
            dim: Width D of a frame.
        """
        reservoir = self.reservoir(dim)
        for name, first_frame, vectors in frames:
            reservoir.add(name, vectors, first_frame)
        return reservoir

    def cluster(self, reservoir: Reservoir, advance: Callable[[], None] = lambda: None) -> Clustering:
        """Clusters a sample, to which nothing may be added any more.

        Args:
            reservoir: The sample.
            advance: Called after each of `restarts`.

        Raises:
            ValueError: There are fewer distinct frames than clusters, or the engine is not installed.
        """
        frames, _ = reservoir.sample()
        if not len(frames) and reservoir.num_not_finite:
            raise ValueError(
                f"`source` must compute finite frames, but all of its {reservoir.num_not_finite:,} are NaN or infinite."
            )
        clusters = k_means(frames, self.k, seed=self.seed, restarts=self.restarts, engine=self.engine, advance=advance)
        return Clustering(
            clusters=clusters,
            num_seen=reservoir.num_seen,
            num_kept=len(frames),
            num_not_finite=reservoir.num_not_finite,
        )
