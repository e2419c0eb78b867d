"""Confidence intervals of metrics over the choice of test utterances.

Metrics that are sums over utterances use the jackknife (`functional.measures.jackknife`), ABX, whose triples need
several utterances, uses subsampling (`functional.measures.subsampling`). The utterances that are left out are the same
for all checkpoints, so that differences are paired. The intervals do not include the variation between seeds or runs.
"""

from __future__ import annotations

import numpy as np

from w2vlab.evaluation.tasks.abx_errors import AbxErrors
from w2vlab.evaluation.tasks.probe import ProbeResult
from w2vlab.evaluation.tasks.unit_quality import JOINT, UnitData, leave_one_out_pnmi
from w2vlab.functional.measures.jackknife import JackknifeEstimate
from w2vlab.functional.measures.subsampling import SubsamplingEstimate


def jackknife_probe(probe: ProbeResult) -> JackknifeEstimate:
    """Returns the accuracy of a probe, and those that leave out each test utterance; the probe is not fitted again."""
    ids = sorted(probe.total)
    correct, total = (np.array([counts[name] for name in ids], float) for counts in (probe.correct, probe.total))
    left = total.sum() - total
    without = np.divide(correct.sum() - correct, left, out=np.full(len(ids), np.nan), where=left > 0)
    return JackknifeEstimate(probe.accuracy, without)


def subsample_abx(errors: AbxErrors) -> SubsamplingEstimate:
    """Returns an ABX error, and those on parts of the utterances; cells share utterances and are not independent."""
    return SubsamplingEstimate(
        value=errors.value, number=errors.num_utterances, halves=errors.halves, quarters=errors.quarters
    )


def jackknife_pnmi(data: UnitData) -> JackknifeEstimate:
    """Returns the PNMI of the tuples of codes, and those that leave out each test utterance.

    The plug-in estimate has a positive bias that increases with the number of codes per frame; for comparisons between
    models with different numbers of codes use `JackknifeEstimate.bias_corrected`.
    """
    codes, _ = data.numbered()[JOINT]
    return leave_one_out_pnmi(data, codes)
