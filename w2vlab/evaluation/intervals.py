"""How far figures could be off because of the utterances that they happen to be taken on.

Figures that are sums over utterances are taken without each of them in turn (`functional.jackknife`); ABX, whose
triples need several utterances, on parts of them (`functional.subsampling`). These are the same for all checkpoints, so
that differences are paired. What another seed or run would have learned is not in these intervals.
"""

from __future__ import annotations

import numpy as np

from w2vlab.evaluation.abx_errors import AbxErrors
from w2vlab.evaluation.probe import ProbeResult
from w2vlab.evaluation.unit_quality import JOINT, UnitData, without_each
from w2vlab.functional.jackknife import Jackknifed
from w2vlab.functional.subsampling import Subsampled


def of_probe(probe: ProbeResult) -> Jackknifed:
    """Returns the accuracy of a probe without each test utterance. The probe is not fitted anew."""
    ids = sorted(probe.total)
    correct, total = (np.array([counts[name] for name in ids], float) for counts in (probe.correct, probe.total))
    left = total.sum() - total
    without = np.divide(correct.sum() - correct, left, out=np.full(len(ids), np.nan), where=left > 0)
    return Jackknifed(probe.accuracy, without)


def of_abx(errors: AbxErrors) -> Subsampled:
    """Returns an ABX error on parts of the utterances. Cells share utterances, so they are no independent draws."""
    return Subsampled(errors.value, errors.num_utterances, errors.halves, errors.quarters)


def of_pnmi(data: UnitData) -> Jackknifed:
    """Returns the PNMI of the tuples of codes without each test utterance; `corrected` takes its bias away.

    From counts as they are it is too large, the more so the more codes there are for the frames, so that models with
    different numbers of codes could not be compared.
    """
    codes, _ = data.numbered()[JOINT]
    return without_each(data, codes)
