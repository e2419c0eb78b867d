"""vq-wav2vec with Gumbel-softmax: wav2vec with quantized inputs and targets (Baevski et al. 2019, Section 3.1).

python examples/vq_wav2vec_gumbel.py --updates 150
"""

from __future__ import annotations

from functools import partial

import torch
from jsonargparse import auto_cli
from lightning.pytorch import Trainer

from w2vlab.contexts import ConvContext
from w2vlab.data import SpeechDataModule
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.losses import DiversityPenalty
from w2vlab.modules import FuturePrediction
from w2vlab.optim import CosineSchedule
from w2vlab.quantizers import GumbelQuantizer

ENCODER = [(96, 10, 5), (96, 8, 4), (96, 4, 2), (96, 4, 2), (96, 4, 2), (256, 1, 1)]
CONTEXT = [(96, width) for width in range(2, 8)]


def build(updates: int) -> FuturePrediction:
    """Returns a small vq-wav2vec; the temperature falls from 2 to 0.9 over 150 updates."""
    return FuturePrediction(
        encoder=partial(ConvFeatureEncoder, layers=ENCODER, normalization="layer", bias=True, gradient_scale=1.0),
        context=partial(ConvContext, layers=CONTEXT),
        quantizer=partial(GumbelQuantizer, codebook_size=40, output_dim=96, temperature_decay=0.995),
        # Not in the published model; without it, such a short run would collapse to a single code.
        penalties={"diversity": partial(DiversityPenalty, weight=0.2)},
        optimizer=partial(torch.optim.AdamW, lr=5e-4, weight_decay=0.0),
        scheduler=partial(CosineSchedule, warmup_updates=max(1, updates // 5), total_updates=updates),
    )


def main(updates: int = 150, corpus: str = "sample", folder: str = "runs/examples") -> str:
    """Trains, and returns the path of the last checkpoint.

    Args:
        updates: Number of updates.
        corpus: A folder of audio, a manifest, or the name of a sample corpus.
        folder: Folder of the checkpoint.
    """
    data = SpeechDataModule(corpus, batch_seconds=40, max_seconds=5, num_workers=1)
    # The data module already distributes the batches over the processes.
    trainer = Trainer(max_steps=updates, accelerator="auto", default_root_dir=folder, use_distributed_sampler=False)
    trainer.fit(build(updates), data)
    path = trainer.checkpoint_callback.best_model_path
    FuturePrediction.load_from_checkpoint(path)  # the checkpoint also records the parts
    return path


if __name__ == "__main__":
    print(auto_cli(main))
