"""wav2vec 2.0: mask spans of latents, and distinguish quantized targets from distractors (Baevski et al. 2020).

python examples/wav2vec2.py --updates 1800
"""

from __future__ import annotations

from functools import partial

import torch
from jsonargparse import auto_cli
from lightning.pytorch import Trainer

from w2vlab.contexts import TransformerContext
from w2vlab.data import SpeechDataModule
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.losses import ContrastiveLoss, DiversityPenalty, FeaturePenalty
from w2vlab.masking import SpanMasking
from w2vlab.modules import MaskedPrediction
from w2vlab.optim import PolynomialSchedule
from w2vlab.quantizers import GumbelQuantizer

LAYERS = [(32, 10, 5), (48, 3, 2), (64, 3, 2), (96, 3, 2), (128, 3, 2), (192, 2, 2), (256, 2, 2)]


def build(updates: int) -> MaskedPrediction:
    """Returns a wav2vec 2.0 of the quickstart's size; all other options are BASE's."""
    return MaskedPrediction(
        encoder=partial(ConvFeatureEncoder, layers=LAYERS, gradient_scale=1.0),
        context=partial(
            TransformerContext, model_dim=128, num_layers=2, num_heads=4, feedforward_dim=512, pre_norm=True
        ),
        quantizer=partial(GumbelQuantizer, codebook_size=40, output_dim=128, temperature_decay=0.9989),
        masking=partial(SpanMasking, probability=0.65, length=3),
        loss=partial(ContrastiveLoss, projection_dim=128),
        penalties={"diversity": partial(DiversityPenalty, weight=0.3), "feature": FeaturePenalty},
        optimizer=partial(torch.optim.AdamW, lr=7e-4, betas=(0.9, 0.98), eps=1e-6),
        scheduler=partial(PolynomialSchedule, warmup_updates=max(1, updates // 18), total_updates=updates),
    )


def main(updates: int = 1800, corpus: str = "sample", folder: str = "runs/examples") -> str:
    """Trains, and returns the path of the last checkpoint.

    Args:
        updates: Number of updates.
        corpus: A folder of audio, a manifest, or the name of a sample corpus.
        folder: Folder of the checkpoint.
    """
    data = SpeechDataModule(corpus, batch_seconds=8, max_seconds=4, num_workers=1)
    # The data module already distributes the batches over the processes.
    trainer = Trainer(max_steps=updates, accelerator="auto", default_root_dir=folder, use_distributed_sampler=False)
    trainer.fit(build(updates), data)
    path = trainer.checkpoint_callback.best_model_path
    MaskedPrediction.load_from_checkpoint(path)  # the checkpoint also records the parts
    return path


if __name__ == "__main__":
    print(auto_cli(main))
