"""Student and teacher are compiled, once for batches of all lengths, and compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.contracts.test_compile import LATER, WARM_UP, Kernels, assert_same, step
from tests.modules.teaching.toys import dinosr, teacher_model
from w2vlab.callbacks.compile import MAX_VARIANTS, find_regions


@pytest.mark.parametrize("build", [teacher_model, dinosr], ids=["data2vec", "DinoSR"])
def test_a_teacher_is_compiled_with_its_student(build: Any) -> None:
    """It follows a compiled student, and its layers stay in evaluation mode."""
    kernels, model, plain = Kernels(), build(noise=False), build(noise=False)
    found = find_regions(model)
    assert {len(found["context"]), len(found["teacher"])} == {2}
    names = list(model.state_dict())
    with torch._dynamo.config.patch(recompile_limit=MAX_VARIANTS):
        for regions in found.values():
            for region in regions:
                region.compile(backend=kernels, dynamic=True, fullgraph=True)
        for update, lengths in enumerate((*WARM_UP, *LATER)):
            before = kernels.num_graphs
            assert_same(step(model, lengths, update), step(plain, lengths, update))
            for one in (model, plain):
                with torch.no_grad():
                    for parameter in one.context.parameters():
                        parameter.mul_(1.01)
                one.teacher.follow(one.context, update)
            assert update < len(WARM_UP) or kernels.num_graphs == before, f"recompiled for {lengths}"
    assert list(model.state_dict()) == names
    torch._dynamo.reset()
