"""Evaluates a pretrained model by measurements on its frozen features, with controls."""

from w2vlab.evaluation.evaluate import Evaluation, evaluate, load_model, make_tasks
from w2vlab.evaluation.features.corpus import EvaluationCorpus, open_corpus
from w2vlab.evaluation.results import as_dict, table_rows

__all__ = [
    "Evaluation",
    "EvaluationCorpus",
    "as_dict",
    "evaluate",
    "load_model",
    "make_tasks",
    "open_corpus",
    "table_rows",
]
