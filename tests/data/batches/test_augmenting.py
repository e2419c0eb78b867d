"""Augmentations in the batches of a run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from lhotse import Recording
from lhotse.augmentation import Speed
from lightning.pytorch.callbacks import Callback

from tests.data.conftest import RATE
from tests.data.runs import SaveAfter, assert_same, fit
from tests.data.sounds import speech_like
from w2vlab.augmentations import AdditiveNoise, Gain, Reverberation, SpeedPerturbation, UtteranceMixing
from w2vlab.data.batches.augmenting import Augmenter
from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.dataset import SpeechDataset
from w2vlab.data.batches.reading import perturbed_samples, read_window
from w2vlab.types import AudioBatch, RandomAddress
from w2vlab.utils.messages import W2VLabWarning


@pytest.fixture
def speech(tmp_path):
    """20 utterances of 0.3 to 0.49 s."""
    root = tmp_path / "speech"
    root.mkdir()
    for number in range(20):
        sound = speech_like(0.3 + number / 100, RATE)[:, 0] * (0.5 + number / 40)
        soundfile.write(root / f"u{number:02}.wav", sound, RATE)
    return root


@pytest.fixture
def noises(tmp_path):
    root = tmp_path / "noises"
    root.mkdir()
    for number in range(3):
        sound = 0.1 * np.random.default_rng(number).standard_normal(2000 * (number + 1))
        soundfile.write(root / f"n{number}.wav", sound, RATE)
    return root


def every(noises, probability=0.5):
    return [
        SpeedPerturbation(),
        Reverberation(probability=probability),
        Reverberation(str(noises), probability=probability),
        AdditiveNoise(str(noises), probability=probability),
        Gain(probability=probability),
        UtteranceMixing(probability=probability, noise=str(noises), noise_probability=0.5),
    ]


def cut_of(path):
    return Recording.from_file(path).to_cut()


def batch_of(lengths, seed=0):
    noise = np.random.default_rng(seed)
    waveform = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(waveform, lengths, strict=True):
        row[:length] = torch.from_numpy(0.1 * noise.standard_normal(length).astype(np.float32))
    ids = tuple(f"u{row}" for row in range(len(lengths)))
    return AudioBatch(waveform=waveform, num_samples=tuple(lengths), ids=ids)


def apply(parts, batch, epoch=0):
    return Augmenter(parts)(batch, RandomAddress(seed=0, update=epoch, ids=batch.ids))


def test_off_by_default_and_without_effect_if_nothing_is_drawn(ready_module, speech):
    plain = fit(ready_module(speech), max_epochs=1)
    none = fit(ready_module(speech, augmentations=[Gain(probability=0), SpeedPerturbation((1.0,))]), max_epochs=1)
    assert_same(plain.seen, none.seen)
    louder = fit(ready_module(speech, augmentations=[Gain((3, 3), probability=1)]), max_epochs=1)
    for (ids, audio), (same, after) in zip(plain.seen, louder.seen, strict=True):
        assert ids == same
        torch.testing.assert_close(after, audio * 10 ** (3 / 20))


def test_validation_has_audio_as_it_is(ready_module, speech, noises):
    batches = [list(ready_module(speech, augmentations=parts).val_dataloader()) for parts in (None, every(noises, 1.0))]
    assert batches[0]
    for plain, augmented in zip(*batches, strict=True):
        assert torch.equal(plain.waveform, augmented.waveform)
        assert augmented.clean is None


def test_batches_do_not_depend_on_workers_and_resumes(ready_module, speech, noises, tmp_path):
    whole = fit(ready_module(speech, augmentations=every(noises)), max_epochs=2, callbacks=[SaveAfter(tmp_path, (3,))])
    plain = fit(ready_module(speech), max_epochs=2)
    assert any(
        before[1].shape != after[1].shape or not torch.equal(before[1], after[1])
        for before, after in zip(plain.seen, whole.seen, strict=True)
    )
    workers = fit(ready_module(speech, augmentations=every(noises), num_workers=2), max_epochs=2)
    assert_same(workers.seen, whole.seen)
    resumed = fit(ready_module(speech, augmentations=every(noises)), tmp_path / "step3.ckpt", max_epochs=2)
    assert_same(resumed.seen, whole.seen[3:])


def test_batches_do_not_depend_on_processes(ready_module, speech, noises, monkeypatch):
    def batches(world_size, rank):
        for name in ("module", "batches.micro_batches"):
            monkeypatch.setattr(f"w2vlab.data.{name}.world_size", lambda: world_size)
            monkeypatch.setattr(f"w2vlab.data.{name}.rank", lambda: rank)
        module = ready_module(speech, augmentations=every(noises))
        module.trainer = SimpleNamespace(accumulate_grad_batches=2 // world_size, state=SimpleNamespace(fn="fit"))
        return [(batch.ids, batch.waveform) for batch in module.train_dataloader()]

    pairs = zip(batches(2, 0), batches(2, 1), strict=True)
    assert_same([batch for pair in pairs for batch in pair], batches(1, 0))


def test_epochs_and_utterances_draw_differently(ready_module, speech):
    module = ready_module(speech, augmentations=[Gain(probability=1)])
    run = fit(module, max_epochs=2)
    levels = [float(row.square().mean()) for _, audio in run.seen for row in audio]
    assert len(set(levels)) == len(levels)


def test_a_resumed_run_warns_of_other_augmentations(ready_module, speech, noises, tmp_path, caplog):
    def resumed(parts):
        caplog.clear()
        fit(ready_module(speech, augmentations=parts), tmp_path / "step1.ckpt", max_epochs=1)
        return [record.message for record in caplog.records if record.message.startswith("Resuming with")]

    fit(
        ready_module(speech, augmentations=[AdditiveNoise(str(noises))]),
        max_steps=1,
        callbacks=[SaveAfter(tmp_path, (1,))],
    )
    assert resumed([AdditiveNoise(str(noises))]) == []
    (message,) = resumed(None)
    assert message.startswith("Resuming with `data.augmentations` none (the checkpoint had AdditiveNoise(corpus=")
    assert message.endswith("audio is changed differently from here on.")
    (message,) = resumed([AdditiveNoise(str(noises), snr=(0.0, 20.0))])
    assert "snr=(0.0, 20.0)" in message
    assert "the checkpoint had AdditiveNoise(corpus=" in message
    (noises / "n0.wav").unlink()
    assert len(resumed([AdditiveNoise(str(noises))])) == 1


def test_two_parts_of_a_class_draw_independently_and_others_do_not_change_their_draws():
    batch = batch_of((4000, 3000, 2000))
    level = Gain(probability=1)
    once = apply([level], batch).waveform
    twice = apply([level, Gain(probability=1)], batch).waveform
    with_another = apply([level, Reverberation(probability=0)], batch).waveform
    assert torch.equal(once, with_another)
    factors = (twice[:, 0] / once[:, 0], once[:, 0] / batch.waveform[:, 0])
    assert not torch.allclose(*factors)


def test_padding_stays_silent_and_lengths_are_kept(noises):
    batch = batch_of((4000, 3000, 2000))
    part = AdditiveNoise(str(noises), probability=1)
    augmenter = Augmenter([part, Gain(probability=1), UtteranceMixing(probability=1)])
    augmenter.prepare(noises.parent / "cache", None)
    augmenter.open(noises.parent / "cache", None, min_samples=1)
    after = augmenter(batch, RandomAddress(seed=0, update=0, ids=batch.ids))
    assert after.num_samples == batch.num_samples
    assert after.waveform.shape == batch.waveform.shape
    assert not after.waveform[1, 3000:].any()
    assert not after.waveform[2, 2000:].any()


def test_mixed_utterances_keep_their_clean_audio():
    batch = batch_of((4000,) * 12)
    mixing = UtteranceMixing(probability=0.5)
    mixed = apply([mixing, Gain((6, 6), probability=1)], batch)  # the mixing is last in any order
    louder = apply([Gain((6, 6), probability=1)], batch).waveform
    rows = mixed.clean.rows
    assert 2 < len(rows) < 10
    assert mixed.clean.batch.ids == tuple(batch.ids[row] for row in rows)
    assert torch.equal(mixed.clean.batch.waveform, louder[rows])
    assert torch.equal(mixed.of_targets.waveform, louder)
    changed = (mixed.waveform != louder).any(dim=1).nonzero().flatten()
    assert torch.equal(changed, rows)
    assert apply([UtteranceMixing(probability=0)], batch).clean is None
    lower = mixed.to(torch.float64)
    assert (lower.clean.batch.waveform.dtype, lower.clean.rows.dtype) == (torch.float64, torch.int64)


@pytest.mark.parametrize("rate", [16_000, 22_050, 48_000])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_faster_window_is_that_of_the_faster_utterance(tmp_path, rate, factor):
    sound = speech_like(1.0, rate)[:, 0]
    soundfile.write(tmp_path / "a.wav", sound, rate, subtype="FLOAT")
    cut = cut_of(tmp_path / "a.wav")
    available = perturbed_samples(cut, factor)
    assert available == pytest.approx(16_000 / factor, abs=2)
    whole = read_window(cut, Window(0, available), factor)
    np.testing.assert_allclose(read_window(cut, Window(3001, 2000), factor), whole[3001:5001], atol=1e-6)
    if rate == 16_000:
        theirs = Speed(factor=factor)(sound[None].astype(np.float32), rate)[0]
        np.testing.assert_allclose(whole, theirs[:available], atol=1e-5)


def test_pitch_and_length_follow_the_speed(tmp_path):
    times = np.arange(32_000) / RATE
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 1000 * times), RATE)
    cuts = [cut_of(tmp_path / "tone.wav")]
    for factor in (0.8, 1.25):
        options = dict(crop_to_shortest=True, seed=0, random=True, augmenter=Augmenter([SpeedPerturbation((factor,))]))
        batch = SpeechDataset(8000, **options).read(cuts)
        assert batch.num_samples == (8000,), "the window is as long as without"
        spectrum = torch.fft.rfft(batch.waveform[0]).abs()
        assert int(spectrum.argmax()) * 2 == 1000 * factor  # 2 Hz a bin
        whole = SpeechDataset(100_000, **{**options, "crop_to_shortest": False}).read(cuts)
        assert whole.num_samples == (min(32_000, int(32_000 / factor)),), "no batch is longer than without"
        assert whole.utterance_samples == (32_000,)


def test_windows_of_faster_batches():
    """Against the rules in words: never longer than before, inside of the utterance, equal if they are cropped."""
    sizes = (20_000, 16_500, 16_000, 16_200)
    cuts = [_Silence(size) for size in sizes]
    address = RandomAddress(seed=0, update=0, ids=("a", "b", "c", "d"))
    for epoch in range(30):
        address = RandomAddress(seed=0, update=epoch, ids=address.ids)
        windows = [Window(size - 16_000, 16_000) for size in sizes]
        augmenter = Augmenter([SpeedPerturbation((0.8, 1.0, 1.25))])
        after, speeds = augmenter.perturb(cuts, windows, True, address)
        assert set(speeds) <= {0.8, 1.0, 1.25}
        lengths = [min(16_000, int(size / speed)) for size, speed in zip(sizes, speeds, strict=True)]
        assert {window.length for window in after} == {min(lengths)}
        for window, before, speed, size in zip(after, windows, speeds, sizes, strict=True):
            assert 0 <= window.start <= int(size / speed) - window.length
            assert speed != 1 or window.start == before.start
        padded, _ = augmenter.perturb(cuts, windows, False, address)
        assert [window.length for window in padded] == lengths


def test_an_utterance_that_would_be_too_short_keeps_its_speed():
    cuts, address = [_Silence(8000), _Silence(8800)], RandomAddress(seed=0, update=0, ids=("a", "b"))
    augmenter = Augmenter([SpeedPerturbation((1.1,))])
    augmenter._min_samples = 8000
    windows, speeds = augmenter.perturb(cuts, [Window(0, 8000)] * 2, True, address)
    assert speeds == [1.0, 1.1]
    assert windows == [Window(0, 8000)] * 2


class _Silence:
    """A cut at 16 kHz of which nothing is read."""

    sampling_rate = RATE

    def __init__(self, size):
        self.duration = size / RATE


def test_damaged_noises_are_counted_and_others_are_drawn(ready_module, speech, noises, caplog):
    module = ready_module(speech, augmentations=[AdditiveNoise(str(noises), probability=1)])
    for name in ("n0", "n1"):  # damaged after they were scanned
        (noises / f"{name}.wav").write_bytes(b"no sound")
    batches = list(module.train_dataloader())
    plain = list(ready_module(speech).train_dataloader())
    assert [batch.ids for batch in batches] == [batch.ids for batch in plain]
    changed = [
        not torch.equal(*rows)
        for noisy, clean in zip(batches, plain, strict=True)
        for rows in zip(noisy.waveform, clean.waveform, strict=True)
    ]
    assert changed.count(True) > 0.5 * len(changed)  # another noise is drawn, up to three times
    messages = [record.message for record in caplog.records if record.message.startswith("Could not mix in")]
    assert messages[0].startswith(f"Could not mix in 1 sound of {noises} in this process so far: 1 ")
    assert "n0" in messages[-1]


def test_noises_that_cannot_be_used_are_named(make_module, speech, noises, tmp_path, caplog):
    (tmp_path / "empty").mkdir()
    module = make_module(speech, augmentations=[AdditiveNoise(str(tmp_path / "empty"))])
    with pytest.raises(
        ValueError, match=r"^`data\.augmentations\.corpus` must have at least one usable utterance, but"
    ):
        module.prepare_data()
    module = make_module(speech, augmentations=[UtteranceMixing(noise=str(tmp_path / "nowhere"))])
    with pytest.raises(ValueError, match=r"^`data\.augmentations\.noise` must be an existing path or .*nowhere"):
        module.prepare_data()
    (noises / "text.wav").write_text("no sound")
    module = make_module(speech, augmentations=[AdditiveNoise(str(noises))])
    module.prepare_data()
    with caplog.at_level("INFO"):
        module.setup()
    assert f"{noises}: 3 sounds for augmentations" in caplog.messages
    assert any("left out 1 utterance" in message and "text.wav" in message for message in caplog.messages)


def test_options_without_effect_and_speed_with_transcripts(make_module, speech):
    with pytest.warns(W2VLabWarning, match="`augmentations` has no effect: `read_audio` is false"):
        make_module(speech, read_audio=False, augmentations=[Gain()])
    module = make_module(speech, crop_to_shortest=False, augmentations=[SpeedPerturbation()])
    with pytest.raises(
        ValueError, match="`augmentations` must not have SpeedPerturbation for a model that learns from"
    ):
        module.require(400, units="characters")


def test_sounds_are_not_needed_to_validate(make_module, speech, tmp_path):
    """Of a run whose noises are no longer there."""

    class Validated(Callback):
        def on_validation_end(self, trainer, module):
            trainer.validated = True

    import lightning as L

    from tests.data.runs import Recorder

    module = make_module(speech, augmentations=[AdditiveNoise(str(tmp_path / "nowhere"))])
    options = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False)
    trainer = L.Trainer(accelerator="cpu", callbacks=[Validated()], **options)
    trainer.validate(Recorder(), module, verbose=False)
    assert trainer.validated
