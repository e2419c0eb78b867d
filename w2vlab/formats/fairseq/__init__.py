"""Checkpoints of fairseq."""

from w2vlab.formats.fairseq.reading import is_fairseq, read_fairseq
from w2vlab.formats.fairseq.writing import write_fairseq

__all__ = ["is_fairseq", "read_fairseq", "write_fairseq"]
