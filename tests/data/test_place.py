"""The position of a run in its data: on any number of processes, and when it is resumed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import Callback

from tests.data.conftest import write_ramp
from tests.data.runs import SaveAfter, assert_same, fit
from w2vlab.data import WholeUpdates


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_runs_read_the_remaining_batches(ready_module, corpus, tmp_path, num_workers):
    steps = (1, 3, 14)  # the first, inside the first epoch, inside the second
    whole = fit(ready_module(corpus, num_workers=num_workers), max_epochs=3, callbacks=[SaveAfter(tmp_path, steps)])
    assert [whole.epochs[step] for step in steps] == [0, 0, 1]
    for step in steps:
        resumed = fit(ready_module(corpus, num_workers=num_workers), tmp_path / f"step{step}.ckpt", max_epochs=3)
        assert_same(resumed.seen, whole.seen[step:])
    for epoch in range(2):
        resumed = fit(ready_module(corpus, num_workers=num_workers), tmp_path / f"epoch{epoch}.ckpt", max_epochs=3)
        assert_same(resumed.seen, whole.seen[whole.epochs.index(epoch + 1) :])


def test_resume_after_the_last_batch_of_an_epoch_and_after_the_end(ready_module, corpus, tmp_path):
    whole = fit(ready_module(corpus), max_epochs=2)
    first = whole.epochs.count(0)
    short = fit(ready_module(corpus), max_epochs=1, callbacks=[SaveAfter(tmp_path, (first,))])
    assert_same(short.seen, whole.seen[:first])
    for name in (f"step{first}.ckpt", "end.ckpt"):
        assert_same(fit(ready_module(corpus), tmp_path / name, max_epochs=2).seen, whole.seen[first:])


def test_resume_with_limited_epochs_and_twice(ready_module, corpus, tmp_path):
    limits = dict(max_epochs=3, limit_train_batches=4)
    whole = fit(ready_module(corpus), **limits)
    assert len(whole.seen) == 12
    fit(ready_module(corpus), max_steps=6, limit_train_batches=4, callbacks=[SaveAfter(tmp_path, (6,))])
    again = SaveAfter(tmp_path, (9,))
    assert_same(fit(ready_module(corpus), tmp_path / "step6.ckpt", callbacks=[again], **limits).seen, whole.seen[6:])
    assert_same(fit(ready_module(corpus), tmp_path / "step9.ckpt", **limits).seen, whole.seen[9:])


@pytest.fixture
def on_processes(ready_module, corpus, monkeypatch):
    """Makes the data module of one of several processes, before training or resuming."""

    def make(world_size, accumulate, rank=0, **arguments):
        monkeypatch.setattr("w2vlab.data.place.world_size", lambda: world_size)
        for name in ("module", "batches.micro_batches"):
            monkeypatch.setattr(f"w2vlab.data.{name}.world_size", lambda: world_size)
            monkeypatch.setattr(f"w2vlab.data.{name}.rank", lambda: rank)
        module = ready_module(corpus, **arguments)
        module.trainer = SimpleNamespace(accumulate_grad_batches=accumulate, state=SimpleNamespace(fn="fit"))
        return module

    return make


def share(module):
    return [batch.ids for batch in module.train_dataloader()]


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 4), (2, 2), (4, 1)])
def test_resumes_after_any_update_on_any_layout(on_processes, ready_module, corpus, world_size, accumulate):
    """The batches of all processes together are the rest of the sequence."""
    sequence = share(ready_module(corpus))
    end = len(sequence) // 4 * 4
    state = ready_module(corpus).state_dict()
    assert state["update"] == 1
    for done in range(0, end + 4, 4):
        shares = []
        for rank in range(world_size):
            module = on_processes(world_size, accumulate, rank)
            module.load_state_dict(state | {"micro_batches": done, "update": 4})
            shares.append(share(module))
        assert [ids for step in zip(*shares, strict=True) for ids in step] == sequence[done:end]


def test_resumes_at_the_start_of_an_update_of_another_size(on_processes, ready_module, corpus, caplog):
    sequence = share(ready_module(corpus))
    for done in range(0, 9, 3):
        module = on_processes(1, 2)
        module.load_state_dict(module_state(module, micro_batches=done, update=3))
        assert share(module) == sequence[done - done % 2 :][: len(sequence) // 2 * 2 - done + done % 2]
    messages = [record.message for record in caplog.records if "another batch than before" in record.message]
    start = "Resuming with updates of 2 micro-batches (the checkpoint had 3): another batch than before"
    assert messages == [f"{start}.", f"{start}, repeating 1 micro-batch.", f"{start}."]


def module_state(module, **changes):
    """The state of a module without a real trainer."""
    trainer, module.trainer = module.trainer, None
    state = module.state_dict() | changes
    module.trainer = trainer
    return state


def test_the_position_is_after_the_last_complete_update(ready_module, corpus):
    """Inside an update, at the end of an epoch and of a run, and if the run ends inside an epoch."""
    places = []

    class Ask(Callback):
        def on_train_batch_end(self, trainer, *_):
            places.append(state_of(trainer))

        def on_train_epoch_end(self, trainer, *_):
            places.append(state_of(trainer))

    def state_of(trainer):
        state = trainer.datamodule.state_dict()
        return state["epoch"], state["micro_batches"]

    module = ready_module(corpus)
    updates = len(list(module.train_dataloader())) // 3
    assert updates > 2
    fit(module, callbacks=[Ask()], max_steps=updates + 1, accumulate_grad_batches=3, num_sanity_val_steps=0)
    first = [(0, done // 3 * 3) for done in range(1, updates * 3)]
    assert places == [*first, (1, 0), (1, 0), (1, 0), (1, 0), (1, 3), (1, 3)]


def test_a_completed_epoch_is_skipped(ready_module, corpus):
    whole = fit(ready_module(corpus), max_epochs=2, num_sanity_val_steps=0)
    module = ready_module(corpus)
    first = whole.epochs.count(0)
    module.load_state_dict(module.state_dict() | {"micro_batches": first})
    resumed = fit(module, max_epochs=2, num_sanity_val_steps=0)
    assert_same(resumed.seen, whole.seen[first:])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_first_batch_of_an_update_holds_all_of_them(make_module, corpus, tmp_path, num_workers):
    def module():
        made = make_module(corpus, num_workers=num_workers, micro_batches=3)
        made.require(1600)
        made.prepare_data()
        return made

    options = dict(max_epochs=2, accumulate_grad_batches=3)
    save = SaveAfter(tmp_path, (1, 2, 4))
    whole = fit(module(), callbacks=[save], **options)
    assert len(whole.seen) % 3 == 0
    ids = [names for names, _ in whole.seen]
    for number, update in enumerate(whole.updates):
        assert update == (tuple(ids[number : number + 3]) if number % 3 == 0 else None)
    for step in save.steps:
        resumed = fit(module(), tmp_path / f"step{step}.ckpt", **options)
        assert_same(resumed.seen, whole.seen[step * 3 :])
        assert resumed.updates == whole.updates[step * 3 :]


def test_batches_of_updates_of_one_hold_nothing(ready_module, corpus):
    recorder = fit(ready_module(corpus), max_steps=2)
    assert recorder.updates == [None, None]


def test_any_loader_can_be_wrapped(ready_module, corpus):
    """As models need it with a loader of the user's; a last update of fewer micro-batches holds those."""
    batches = list(ready_module(corpus).val_dataloader())[:1] * 5
    wrapped = WholeUpdates(batches, 2)
    assert len(wrapped) == 5
    assert [batch.update and len(batch.update) for batch in wrapped] == [2, None, 2, None, 1]
    assert wrapped.sampler is None
    with pytest.raises(ValueError, match="`accumulate` must be at least 1, but is 0"):
        WholeUpdates(batches, 0)


def test_the_first_batch_of_an_update_keeps_the_others(make_module, corpus):
    module = make_module(corpus)
    module.require(1600)
    module.prepare_data()
    module.setup()
    module.trainer = SimpleNamespace(accumulate_grad_batches=2)
    first, second, third, *_ = module.train_dataloader()
    assert [batch.update for batch in first.update] == [None, None]
    assert (first.update[0].waveform is first.waveform, first.update[1] is second) == (True, True)
    assert second.update is None
    assert third.update[0].ids == third.ids
    assert all(batch.update is None for batch in module.val_dataloader())


def test_options_that_decide_the_order_are_compared(on_processes, ready_module, corpus, caplog):
    state = ready_module(corpus).state_dict()
    module = on_processes(1, 1, batch_seconds=2.0, seed=3)
    module.load_state_dict(state)
    (message,) = warnings_in(caplog)
    assert message.startswith(
        "Resuming with data.batch_seconds 2.0 (the checkpoint had 1.5), data.seed 3 (the checkpoint had 0): batches are"
    )
    caplog.clear()
    on_processes(1, 1, num_buckets=None).load_state_dict(state)
    assert "data.num_buckets 50 (the checkpoint had 3)" in caplog.text
    caplog.clear()
    on_processes(1, 1, num_buckets=50).load_state_dict(ready_module(corpus, num_buckets=None).state_dict())
    assert not warnings_in(caplog)  # the default has the same value here
    write_ramp(corpus / "one_more.wav", 0.5)
    on_processes(1, 1, accept_changes=True).load_state_dict(state)
    assert "utterances to train on 40 (the checkpoint had 39)" in caplog.text
    caplog.clear()
    module = on_processes(1, 1, batch_seconds=2.0)
    module.trainer.state.fn = "validate"
    module.load_state_dict(state)
    assert not warnings_in(caplog)


def warnings_in(caplog):
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_the_trainer_must_accumulate_the_micro_batches(on_processes):
    assert len(share(on_processes(2, 2, micro_batches=3))) > 1
    message = r"^`accumulate_grad_batches` must be 3 for 5 micro-batches an update on 2 processes, but is 2\.$"
    with pytest.raises(ValueError, match=message):
        on_processes(2, 2, micro_batches=5).train_dataloader()
