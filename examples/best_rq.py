"""BEST-RQ: predict the codes of masked log-mel frames under a frozen random projection (Chiu et al. 2022).

python examples/best_rq.py --updates 1000
"""

from __future__ import annotations

from functools import partial

import torch
from jsonargparse import auto_cli
from lightning.pytorch import Trainer

from w2vlab.contexts import ConformerContext, SubsampledContext
from w2vlab.data import SpeechDataModule
from w2vlab.encoders import LogMelEncoder
from w2vlab.losses import CodePredictionLoss
from w2vlab.masking import SpanMasking
from w2vlab.modules import MaskedPrediction
from w2vlab.optim import PolynomialSchedule
from w2vlab.quantizers import RandomProjectionQuantizer


def build(updates: int) -> MaskedPrediction:
    """Returns a small BEST-RQ: the targets are codes of log-mel frames, before all that is trained."""
    frames = partial(LogMelEncoder, stack=4)  # 40 ms a frame, as published
    conformer = partial(ConformerContext, model_dim=128, num_layers=3, num_heads=4, feedforward_dim=512)
    return MaskedPrediction(
        encoder=frames,
        target_encoder=frames,
        target_gradient=False,
        context=partial(SubsampledContext, context=conformer, channels=(32, 16)),
        quantizer=partial(RandomProjectionQuantizer, codebook_size=1024, normalize=False),
        masking=partial(SpanMasking, length=5),
        loss=CodePredictionLoss,
        penalties={},
        optimizer=partial(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01),
        scheduler=partial(PolynomialSchedule, warmup_updates=max(1, updates // 12), total_updates=updates),
    )


def main(updates: int = 1000, corpus: str = "sample", folder: str = "runs/examples") -> str:
    """Trains, and returns the path of the last checkpoint.

    Args:
        updates: Number of updates.
        corpus: A folder of audio, a manifest, or the name of a sample corpus.
        folder: Folder of the checkpoint.
    """
    data = SpeechDataModule(corpus, batch_seconds=20, max_seconds=10, num_workers=1)
    # The data module already distributes the batches over the processes.
    trainer = Trainer(max_steps=updates, accelerator="auto", default_root_dir=folder, use_distributed_sampler=False)
    trainer.fit(build(updates), data)
    path = trainer.checkpoint_callback.best_model_path
    MaskedPrediction.load_from_checkpoint(path)  # the checkpoint also records the parts
    return path


if __name__ == "__main__":
    print(auto_cli(main))
