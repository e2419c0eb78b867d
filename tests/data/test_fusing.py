"""Groups of micro-batches that are computed at once: their plan, their padding and their place in a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.contracts.tiny import audio_batch
from tests.data.runs import SaveAfter, fit
from w2vlab.batch import join_micro_batches, split_micro_batches
from w2vlab.data import SpeechDataModule
from w2vlab.data.fusing import check_fusing, describe_groups, fuse, grouped, micro_batches_at_once, num_groups

OPTIONS = {"micro_batches": 4, "batch_seconds": 0.8, "fuse_seconds": 1.7, "num_buckets": 3}
"""Four micro-batches an update, two at once."""


@pytest.mark.parametrize(("seconds", "at_once"), [(None, 1), (175.0, 2), (262.4, 2), (262.5, 3), (350, 4), (1000, 11)])
def test_as_many_micro_batches_as_fit(seconds: float | None, at_once: int) -> None:
    assert micro_batches_at_once(seconds, 87.5) == at_once


@pytest.mark.parametrize(("micro_batches", "at_once", "groups"), [(64, 4, 16), (5, 2, 3), (3, 8, 1), (1, 4, 1)])
def test_an_update_has_a_fixed_number_of_groups(micro_batches: int, at_once: int, groups: int) -> None:
    assert num_groups(micro_batches, at_once) == groups
    found = grouped([float(number * 7 % 5) for number in range(micro_batches)], groups)
    assert sorted(number for group in found for number in group) == list(range(micro_batches))
    assert {len(group) for group in found} <= {micro_batches // groups, -(-micro_batches // groups)}
    assert max(map(len, found)) <= at_once


def test_micro_batches_of_similar_length_go_together() -> None:
    assert grouped([9.0, 2.0, 8.0, 3.0, 2.5], 2) == [(0, 2), (1, 3, 4)]


@pytest.mark.parametrize(
    ("seconds", "quadratic", "sizes"),
    [
        (3.6, None, [(9, 6400)]),  # 9 rows of 0.4 s
        (3.5, None, [(8, 3600), (1, 6400)]),  # 2.2 s
        (2.1, None, [(7, 3200), (1, 6400), (1, 3600)]),  # 2.025 s
        (0.1, None, [(5, 3200), (1, 6400), (2, 3200), (1, 3600)]),  # no padding at all
        (3.6, 1.0, [(8, 3600), (1, 6400)]),  # 9 rows of 0.4 s count 0.56 s each
    ],
)
def test_padding_counts(seconds: float, quadratic: float | None, sizes: list[tuple[int, int]]) -> None:
    lengths = [(3200,) * 5, (6400,), (3200, 1600), (3600,)]
    batches = [audio_batch(some, 10 * number) for number, some in enumerate(lengths)]
    passes = fuse(batches, (1, 4, 6, 7), seconds, quadratic).passes
    assert [(len(one), one.waveform.shape[1]) for one in passes] == sizes
    step = fuse(batches, (1, 4, 6, 7), seconds, quadratic)
    assert step.seconds == sum(map(sum, lengths)) / 16_000, "the audio of all batches of the step"
    found = [(one.parts[0].number, one.num_samples) for several in passes for one in split_micro_batches(several)]
    assert sorted(found) == list(zip((1, 4, 6, 7), lengths, strict=True))


def test_rounding_divides_no_group() -> None:
    batches = [audio_batch((6400, 6400), 2 * number) for number in range(3)]  # 0.8 s each
    assert micro_batches_at_once(2.4, 0.8) == 3
    assert len(fuse(batches, (0, 1, 2), 2.4, None).passes) == 1


def test_micro_batches_come_back_as_they_were() -> None:
    batches = [audio_batch((300, 320)), audio_batch((500,), 2), audio_batch((400, 100, 300), 3)]
    joined = join_micro_batches(batches, (0, 2, 5))
    assert joined.waveform.shape == (6, 500)
    for number, one, found in zip((0, 2, 5), batches, split_micro_batches(joined), strict=True):
        assert torch.equal(found.waveform, one.waveform)
        assert (found.ids, found.num_samples) == (one.ids, one.num_samples)
        assert [part.number for part in found.parts] == [number]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("auto", 87.5, 64), "must be a number of seconds, or null, but is auto: .* `w2vlab batch-size` measures it"),
        ((350.0, 87.5, None), "must be null without `micro_batches`, but is 350"),
        ((100.0, 87.5, 64), "must be at least 175, two micro-batches of `batch_seconds`, but is 100"),
        ((float("nan"), 87.5, 64), "must be at least 175"),
        ((float("inf"), 87.5, 64), r"must be finite, but is inf\. 5600 is a whole update"),
    ],
)
def test_what_cannot_be_is_refused(options: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_fusing(*options)


def test_the_words_say_how_many_are_computed_at_once() -> None:
    assert describe_groups(64, 4, 87.5) == ", up to 4 at once, as batches of up to 5.83 min"
    assert describe_groups(64, 1, 87.5) == describe_groups(1, 4, 87.5) == ""


def utterances(seen) -> list[tuple[str, ...]]:
    return [ids for ids, _ in seen]


def test_groups_hold_the_micro_batches_of_each_update(ready_module, corpus) -> None:
    """Whatever is fused, an update has the same micro-batches with the same audio."""
    apart: SpeechDataModule = ready_module(corpus, **OPTIONS | {"fuse_seconds": None})
    apart.trainer = SimpleNamespace(accumulate_grad_batches=4, global_step=0, lightning_module=None)
    expected = list(apart.train_dataloader())
    together: SpeechDataModule = ready_module(corpus, **OPTIONS)
    together.trainer = SimpleNamespace(accumulate_grad_batches=2, global_step=0, lightning_module=None)
    batches = list(together.train_dataloader())
    assert len(batches) * 2 == len(expected)
    assert together.batches_of_an_epoch() == len(batches)
    for update in range(len(expected) // 4):
        steps = batches[2 * update : 2 * update + 2]
        assert [batch.update is not None for batch in steps] == [True, False]
        assert [batch.ids for batch in steps[0].update] == [batch.ids for batch in steps]
        found = {
            one.parts[0].number: one
            for step in steps
            for several in step.passes
            for one in split_micro_batches(several)
        }
        for number, batch in enumerate(expected[4 * update : 4 * update + 4]):
            assert torch.equal(found[number].waveform, batch.waveform)
            assert found[number].ids == batch.ids


def test_another_accumulation_is_refused(ready_module, corpus) -> None:
    module = ready_module(corpus, **OPTIONS)
    module.trainer = SimpleNamespace(accumulate_grad_batches=4, global_step=0, lightning_module=None)
    with pytest.raises(ValueError, match="must be 2 for 4 micro-batches an update, of which up to 2 are computed at"):
        module.train_dataloader()


@pytest.mark.parametrize(("before", "after"), [(1.7, 3.4), (1.7, None), (None, 1.7)])
def test_a_run_resumes_with_other_groups(ready_module, corpus, tmp_path, before, after) -> None:
    """At the same update of the same epoch, with the same micro-batches."""

    def module(seconds):
        return ready_module(corpus, **OPTIONS | {"fuse_seconds": seconds})

    def accumulate(seconds):
        return {None: 4, 1.7: 2, 3.4: 1}[seconds]

    def updates(recorder, size):
        """The utterances of each update."""
        seen = utterances(recorder.seen)
        return [sorted(sum(seen[start : start + size], ())) for start in range(0, len(seen), size)]

    limits = {"max_epochs": 2, "num_sanity_val_steps": 0}
    whole = fit(
        module(before), callbacks=[SaveAfter(tmp_path, (1, 2))], accumulate_grad_batches=accumulate(before), **limits
    )
    expected = updates(whole, accumulate(before))
    assert len(expected) > 4
    for step in (1, 2):
        resumed = fit(module(after), tmp_path / f"step{step}.ckpt", accumulate_grad_batches=accumulate(after), **limits)
        assert updates(resumed, accumulate(after)) == expected[step:]
