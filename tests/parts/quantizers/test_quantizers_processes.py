"""Two processes learn the codebooks that one would from all utterances."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from tests.ddp.processes import in_two_processes
from w2vlab.interfaces import LearnsByStatistics, StepDependent
from w2vlab.quantizers import EMAQuantizer, ResidualQuantizer
from w2vlab.utils.distributed import all_gather, rank

QUANTIZERS = (EMAQuantizer, ResidualQuantizer)
UPDATES = 4


class Encoded(nn.Module):
    """Something with a parameter, which DDP wants, before the quantizer."""

    def __init__(self, cls: type) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(8, 8)
        self.quantizer = cls(8, num_codebooks=2, codebook_size=6, decay=0.5, revive_below=0.5)
        self.double()

    def forward(self, inputs: Tensor, padding: Tensor) -> Tensor:
        output = self.quantizer(self.encoder(inputs), padding)
        return output.quantized.square().sum() + output.losses["commitment"].sum()


def learn(cls: type, rows: slice, distributed: bool = False) -> dict[str, Tensor]:
    module = Encoded(cls)
    called = DistributedDataParallel(module) if distributed else module
    for update in range(UPDATES):
        generator = torch.Generator().manual_seed(update)
        inputs = torch.randn(8, 5, 8, generator=generator, dtype=torch.float64)[rows]
        padding = (torch.arange(5) >= torch.randint(2, 6, (8, 1), generator=generator))[rows]
        for part in module.modules():
            if isinstance(part, StepDependent):
                part.set_update(update, 3)
        called(inputs, padding).backward()
        for part in module.modules():
            if isinstance(part, LearnsByStatistics):
                part.finish_update(update)
    return module.quantizer.state_dict()


def run(folder: Path) -> dict[str, object]:
    half = slice(4 * rank(), 4 * rank() + 4)
    results: dict[str, object] = {cls.__name__: learn(cls, half, distributed=True) for cls in QUANTIZERS}
    return results | {"gathered": all_gather(torch.full((3,), float(rank())))}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    return in_two_processes(run, folder)


@pytest.mark.parametrize("cls", QUANTIZERS, ids=lambda cls: cls.__name__)
def test_codebooks_are_those_of_one_process(ranks: list[dict], cls: type) -> None:
    """Placed in the first updates and revived in the later ones, with padding."""
    alone = learn(cls, slice(8))
    for result in ranks:
        assert set(result[cls.__name__]) == set(alone)
        for name, expected in alone.items():
            assert_close(result[cls.__name__][name], expected, rtol=1e-10, atol=1e-12)


def test_gathered_tensors_are_in_the_order_of_the_processes(ranks: list[dict]) -> None:
    for result in ranks:
        assert torch.equal(result["gathered"], torch.tensor([[0.0] * 3, [1.0] * 3]))
    assert torch.equal(all_gather(torch.ones(3)), torch.ones(1, 3))
