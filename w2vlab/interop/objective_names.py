"""The published name of what a model was pretrained for, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from w2vlab.formats import PublishedModel

_WAV2VEC = "wav2vec (Schneider et al. 2019, arXiv:1904.05862)"
_VQ_WAV2VEC = "vq-wav2vec (Baevski et al. 2019, arXiv:1910.05453)"
_WAV2VEC_2 = "wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477)"
_HUBERT = "HuBERT (Hsu et al. 2021, arXiv:2106.07447)"
_BEST_RQ = "BEST-RQ (Chiu et al. 2022, arXiv:2202.01855)"
_W2V_BERT = "w2v-BERT (Chung et al. 2021, arXiv:2108.06209)"
_ILS = "HuBERT with losses at intermediate layers (ILS-SSL, Wang et al. 2022, arXiv:2112.08778)"
_DATA2VEC = "data2vec (Baevski et al. 2022, arXiv:2202.03555)"
_MASKED_COPIES = "masked copies of each utterance as in data2vec 2.0 (Baevski et al. 2022, arXiv:2212.07525)"
_DINOSR = "DinoSR (Liu et al. 2023, arXiv:2305.10005)"
_SPIDR = "SpidR (Poli et al. 2025, arXiv:2512.20308)"

_DEFAULTS = {
    "MaskedPrediction": ("ContrastiveLoss", "GumbelQuantizer"),
    "FuturePrediction": ("FuturePredictionLoss", "IdentityQuantizer"),
    "TeacherPrediction": ("RegressionLoss", "IdentityQuantizer"),
}
"""Loss and quantizer of a configuration that names none."""

_PUBLISHED = {
    ("FuturePrediction", "FuturePredictionLoss", "IdentityQuantizer"): _WAV2VEC,
    ("FuturePrediction", "FuturePredictionLoss", "GumbelQuantizer"): _VQ_WAV2VEC,
    ("FuturePrediction", "FuturePredictionLoss", "KMeansQuantizer"): _VQ_WAV2VEC,
    ("MaskedPrediction", "CodePredictionLoss", "FileTargets"): _HUBERT,
    ("MaskedPrediction", "CodePredictionLoss", "RandomProjectionQuantizer"): _BEST_RQ,
    ("TeacherPrediction", "RegressionLoss", "IdentityQuantizer"): _DATA2VEC,
}
"""By objective, loss and quantizer."""


def name_objective(config: Mapping[str, Any]) -> str:
    """Returns the name of an objective with its paper; of one that nobody has published, what it is made of.

    Args:
        config: The configuration of a pretraining model, `class_path` and `init_args`; options may be missing.
    """
    objective = _class(config)
    options = _arguments(config)
    loss, quantizer = (
        _class(options.get(part)) or default
        for part, default in zip(("loss", "quantizer"), _DEFAULTS.get(objective, ("", "")), strict=True)
    )
    if isinstance(losses := options.get("losses"), Mapping) and losses:
        name = _name_several(objective, quantizer, losses)
    elif (objective, loss) == ("TeacherPrediction", "CodePredictionLoss"):
        name = _SPIDR if _predicts_from_layers(options) else _DINOSR
    elif (objective, loss) == ("MaskedPrediction", "ContrastiveLoss"):
        name = _WAV2VEC_2
    else:
        made_of = " and ".join(part for part in (loss, quantizer) if part)
        name = _PUBLISHED.get((objective, loss, quantizer), f"{objective} with {made_of}" if made_of else objective)
    copies = options.get("masked_copies")
    return f"{name}, with {_MASKED_COPIES}" if isinstance(copies, int) and copies > 1 else name


def objective_line(model: PublishedModel, pretraining: Mapping[str, Any]) -> str:
    """Returns what a model card says of the objective.

    Args:
        model: The model, with all options in its configuration.
        pretraining: The configuration of its pretraining, which can say more than that of a model without its
            quantizer; empty if it is not known.
    """
    has_teacher = _class(model.config) == "TeacherPrediction"
    if pretraining or "loss" not in model.missing:
        config = pretraining or model.config
        left_out = ""
        if has_teacher:
            codes = (_class(_arguments(config).get("quantizer")) or "IdentityQuantizer") != "IdentityQuantizer"
            left_out = "; teacher and codebooks are left out" if codes else "; the teacher is left out"
        return f"Objective: {name_objective(config)}{left_out}"
    architecture = model.origin.architecture.lower()
    for word, name in (("hubert", _HUBERT), ("data2vec", _DATA2VEC)):
        if word in architecture:
            return f"Network: that of {name}"
    return f"Network: that of {_WAV2VEC_2}"


def _name_several(objective: str, quantizer: str, losses: Mapping[str, Any]) -> str:
    terms = {name: term if isinstance(term, Mapping) else {} for name, term in losses.items()}
    kinds = [_class(term.get("loss")) for term in terms.values() if term.get("weight", 1.0) != 0]
    if objective == "MaskedPrediction" and sorted(kinds) == ["CodePredictionLoss", "ContrastiveLoss"]:
        return _W2V_BERT
    if (objective, quantizer, set(kinds)) == ("MaskedPrediction", "FileTargets", {"CodePredictionLoss"}):
        return _ILS if len(kinds) > 1 else _HUBERT
    return f"{objective} with {' and '.join(kinds)}"


def _predicts_from_layers(options: Mapping[str, Any]) -> bool:
    """Returns whether a code is predicted from another layer of the student than its last one."""
    layers = _arguments(options.get("loss")).get("layers")
    last = {-1, _arguments(options.get("context")).get("num_layers", 12)}
    return isinstance(layers, list | tuple) and not set(map(str, layers)) <= set(map(str, last))


def _class(node: Any) -> str:
    path = node.get("class_path") if isinstance(node, Mapping) else node
    return path.rpartition(".")[2] if isinstance(path, str) else ""


def _arguments(node: Any) -> Mapping[str, Any]:
    options = node.get("init_args") if isinstance(node, Mapping) else None
    return options if isinstance(options, Mapping) else {}
