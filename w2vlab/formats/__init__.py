"""Checkpoint formats of other projects, as plain configuration and tensors by our names; no class is built here.

Each format is read into a `PublishedModel` and written from one.
"""

from w2vlab.formats.published import HEAD, LazyWeights, Origin, PublishedModel

__all__ = ["HEAD", "LazyWeights", "Origin", "PublishedModel"]
