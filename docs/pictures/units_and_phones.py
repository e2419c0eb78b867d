"""Draws `units_and_phones.png`: units of a file of `w2vlab encode`, beside the phones of festvox-ru.

The commands:

w2vlab encode CHECKPOINT festvox-ru labels --what units --centers centers.safetensors
python docs/pictures/units_and_phones.py labels festvox-ru [UTTERANCE]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.reading import read_window
from w2vlab.data.corpora.utterances import num_samples
from w2vlab.evaluation.features.corpus import open_corpus
from w2vlab.extraction.picture import draw_units
from w2vlab.units.reading import read_units
from w2vlab.utils.files import cache_root

PICTURE = Path(__file__).with_suffix(".png")


def main(args: Sequence[str], picture: Path = PICTURE) -> None:
    """Draws the picture; of no given utterance, the first of the test utterances of `w2vlab evaluate`."""
    units, name, *rest = args
    corpus = open_corpus(name, cache_root(None))
    table = read_units(units)
    utterance = rest[0] if rest else next(test for test in corpus.split.test if test in table)
    cut = corpus.cuts[utterance]
    waveform = read_window(cut, Window(0, num_samples(cut)))
    draw_units(table, corpus.alignments, utterance, waveform, start=0.2).savefig(picture, dpi=150)


if __name__ == "__main__":
    main(sys.argv[1:])
