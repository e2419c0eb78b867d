"""vq-wav2vec with k-means: the nearest entry, and two losses that train it (Baevski et al. 2019, Section 3.2).

python examples/vq_wav2vec_kmeans.py --updates 150
"""

from __future__ import annotations

from functools import partial

import torch
from jsonargparse import auto_cli
from lightning.pytorch import Trainer

from w2vlab.contexts import ConvContext
from w2vlab.data import SpeechDataModule
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.modules import FuturePrediction
from w2vlab.optim import CosineSchedule
from w2vlab.quantizers import KMeansQuantizer

ENCODER = [(96, 10, 5), (96, 8, 4), (96, 4, 2), (96, 4, 2), (96, 4, 2), (256, 1, 1)]
CONTEXT = [(96, width) for width in range(2, 8)]


def build(updates: int) -> FuturePrediction:
    """Returns a small vq-wav2vec; the quantizer returns its codebook and commitment losses."""
    return FuturePrediction(
        encoder=partial(ConvFeatureEncoder, layers=ENCODER, normalization="layer", bias=True, gradient_scale=1.0),
        context=partial(ConvContext, layers=CONTEXT),
        quantizer=partial(KMeansQuantizer, codebook_size=40, gamma=0.25),
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
