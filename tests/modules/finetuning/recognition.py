"""Tiny pretrained checkpoints, models that are fine-tuned from them, and speech with transcripts."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from tests.contracts.tiny import audio_batch
from tests.helpers.unit_files import tiny_units
from tests.modules.training import loader, make_batches, make_trainer
from w2vlab.masking import ChannelMasking, SpanMasking
from w2vlab.modules import CTCFineTuning, PretrainingModule
from w2vlab.types import AudioBatch
from w2vlab.vocabulary import Vocabulary

TRANSCRIPTS = ("ab", "ba ab", "b", "a bb a")
VOCABULARY = Vocabulary.of("characters", TRANSCRIPTS)
SAMPLES = (400, 350)

ENCODER = {"class_path": "ConvFeatureEncoder", "init_args": {"layers": [[8, 10, 5], [8, 3, 2]]}}
QUIET = {"dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0, "activation_dropout": 0.0, "layer_drop": 0.0}
NOISY = {"dropout": 0.2, "attention_dropout": 0.2, "input_dropout": 0.2, "activation_dropout": 0.2, "layer_drop": 0.3}
TRANSFORMER = {
    "class_path": "TransformerContext",
    "init_args": {
        **{"model_dim": 8, "num_layers": 2, "num_heads": 2, "feedforward_dim": 12},
        **{"position_kernel": 4, "position_groups": 2, **QUIET},
    },
}
CONFIGS: dict[str, dict[str, Any]] = {
    "masked": {
        "class_path": "w2vlab.modules.MaskedPrediction",
        "init_args": {
            "encoder": ENCODER,
            "context": TRANSFORMER,
            "quantizer": {"class_path": "KMeansQuantizer", "init_args": {"codebook_size": 5}},
            "loss": {"class_path": "ContrastiveLoss", "init_args": {"projection_dim": 6, "num_negatives": 4}},
            "penalties": {"features": {"class_path": "FeaturePenalty"}},
        },
    },
    "future": {
        "class_path": "w2vlab.modules.FuturePrediction",
        "init_args": {
            "encoder": ENCODER,
            "context": {"class_path": "ConvContext", "init_args": {"layers": [[8, 2], [8, 3]]}},
            "loss": {"class_path": "FuturePredictionLoss", "init_args": {"num_steps": 3, "num_negatives": 4}},
        },
    },
}
CONFIGS["quantized"] = deepcopy(CONFIGS["masked"])
CONFIGS["quantized"]["init_args"]["inputs"] = "quantized"
CONFIGS["codes"] = deepcopy(CONFIGS["future"])
CONFIGS["codes"]["init_args"]["quantizer"] = {
    "class_path": "GumbelQuantizer",
    "init_args": {"codebook_size": 5, "output_dim": 8},
}
CONFIGS["given codes"] = deepcopy(CONFIGS["masked"])
CONFIGS["given codes"]["init_args"] |= {
    "quantizer": {
        "class_path": "FileTargets",
        "init_args": {"path": tiny_units(), "num_codebooks": 2, "codebook_size": 5},
    },
    "loss": {"class_path": "CodePredictionLoss", "init_args": {"similarity": "cosine", "projection_dim": 6}},
    "penalties": {},
}

MASKS = partial(
    ChannelMasking, partial(SpanMasking, length=3, equalize="none"), channel_length=2, equalize_channels=False
)
"""Of which no utterance's depends on another of its batch."""


def pretrain(path: Path, kind: str = "masked") -> PretrainingModule:
    """Trains one update, and writes a checkpoint as the command line does."""
    torch.manual_seed(0)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PretrainingModule, "model")
    config = {"model": deepcopy(CONFIGS[kind])}
    model: PretrainingModule = parser.instantiate_classes(parser.parse_object(config)).model
    model.run_config = {"model": deepcopy(CONFIGS[kind])}
    trainer = make_trainer(1)
    trainer.fit(model, loader(make_batches(1, 1, 2)))
    trainer.save_checkpoint(path)
    return model


def recognizer(checkpoint: Path, vocabulary: Vocabulary | None = VOCABULARY, **options: Any) -> CTCFineTuning:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"masking": MASKS, "freeze_updates": 0}
    defaults |= {"optimizer": partial(torch.optim.SGD, lr=0.05)}
    defaults |= {"scheduler": partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)}
    model = CTCFineTuning(str(checkpoint), **{**defaults, **options})
    if vocabulary is not None:
        model.set_vocabulary(vocabulary)
    return model


def fine_tune(path: Path, checkpoint: Path) -> CTCFineTuning:
    """Fine-tunes `checkpoint` for one update, and writes a checkpoint."""
    model = recognizer(checkpoint)
    trainer = make_trainer(1)
    trainer.fit(model, loader(spoken_batches(1, 1, 2)))
    trainer.save_checkpoint(path)
    return model


def spoken_batch(size: int, first: int = 0, transcripts: Sequence[str] = TRANSCRIPTS) -> AudioBatch:
    """Noise with transcripts; an utterance is the same in every batch."""
    numbers = range(first, first + size)
    batch = audio_batch(tuple(SAMPLES[number % len(SAMPLES)] for number in numbers), first=first)
    return replace(batch, transcripts=tuple(transcripts[number % len(transcripts)] for number in numbers))


def spoken_batches(updates: int, micro_batches: int, size: int) -> list[AudioBatch]:
    """`updates * micro_batches` batches of `size`: the same utterances in the same order, however they are cut."""
    return [spoken_batch(size, first=index * size) for index in range(updates * micro_batches)]
