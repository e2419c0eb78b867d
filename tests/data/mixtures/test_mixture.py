"""Mixtures in the data module: what an epoch uses of each corpus, what it is validated on, and what is resumed."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import write_ramp
from tests.data.mixtures.mixed import SIZES, contents, make_module, on_process, put_into_shards
from w2vlab.data import CorpusOptions
from w2vlab.utils.messages import W2VLabWarning


def ids_of(batches):
    return [name for batch in batches for name in batch.ids]


def corpus_of(name):
    return name.partition("/")[0]


def warnings_in(caplog):
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_an_epoch_has_the_shares_of_the_plan(corpora, cache):
    module = make_module(corpora, cache)
    hours = np.array([plan.hours for plan in module.mixture])
    shares = np.array([plan.share for plan in module.mixture])
    np.testing.assert_allclose(shares, hours**0.5 / (hours**0.5).sum(), rtol=1e-6)
    uses = np.array([plan.uses for plan in module.mixture])
    assert uses @ hours == pytest.approx(hours.sum())
    epochs = 20
    seconds, counts = Counter(), Counter()
    for epoch in range(epochs):
        module._place = (epoch, 0)
        for batch in module.train_dataloader():
            assert set(batch.corpus_seconds) == set(SIZES)
            assert sum(batch.corpus_seconds.values()) == pytest.approx(batch.seconds)
            seconds.update(batch.corpus_seconds)
            counts.update(batch.ids)
    measured = np.array([seconds[name] for name in SIZES])
    np.testing.assert_allclose(measured / measured.sum(), shares, atol=0.01)
    for plan in module.mixture:  # up to the batches of an incomplete update, of which there are none here
        used = [number for name, number in counts.items() if corpus_of(name) == plan.name]
        assert len(used) == plan.num_utterances
        assert max(used) - min(used) <= 1
        assert abs(sum(used) / len(used) - epochs * plan.uses) < 1


def test_one_epoch_has_the_shares_up_to_an_utterance(corpora, cache):
    module = make_module(corpora, cache, crop_to_shortest=False)
    delivered = Counter()
    for batch in module.train_dataloader():
        delivered.update(batch.corpus_seconds)
    for plan in module.mixture:
        assert abs(delivered[plan.name] - 3600 * plan.hours * plan.uses) <= 0.4


def test_a_corpus_used_twice_has_other_windows(corpora, cache):
    module = make_module(corpora, cache, alpha=0.0, max_seconds=0.25)
    starts = {}
    for batch in module.train_dataloader():
        for name, start, samples in zip(batch.ids, batch.starts, batch.utterance_samples, strict=True):
            if samples > 5000:
                starts.setdefault(name, []).append(start)
    repeated = [found for found in starts.values() if len(found) > 1]
    assert repeated
    assert all(len(set(found)) > 1 for found in repeated)


def test_corpora_are_mixed_from_beginning_to_end(corpora, cache):
    module = make_module(corpora, cache, batch_seconds=0.6)
    names = list(map(corpus_of, ids_of(module.train_dataloader())))
    for part in np.array_split(np.array(names), 2):
        assert set(part.tolist()) == set(SIZES)


def test_every_corpus_sets_the_same_utterances_aside_as_alone(corpora, cache):
    mixed = ids_of(make_module(corpora, cache, validation_fraction=0.2).val_dataloader())
    alone = [
        f"{name}/{utterance}"
        for name, path in corpora.items()
        for utterance in ids_of(make_module(path, cache, validation_fraction=0.2).val_dataloader())
    ]
    assert sorted(mixed) == sorted(alone)
    assert {*mixed}.isdisjoint(ids_of(make_module(corpora, cache, validation_fraction=0.2).train_dataloader()))


def test_a_single_named_corpus_has_the_batches_of_the_corpus_alone(corpora, cache):
    named = make_module({"x": corpora["en"]}, cache)
    alone = make_module(corpora["en"], cache)
    assert [tuple(name.removeprefix("x/") for name in batch.ids) for batch in named.train_dataloader()] == [
        batch.ids for batch in alone.train_dataloader()
    ]
    assert next(iter(alone.train_dataloader())).corpus_seconds is None
    assert alone.mixture == ()


def test_a_list_has_the_names_of_its_paths(corpora, cache):
    listed, mapped = (make_module(value, cache) for value in (list(corpora.values()), corpora))
    assert contents(listed.train_dataloader()) == contents(mapped.train_dataloader())
    assert listed._order() == mapped._order()


def test_excluded_with_and_without_the_name_of_the_corpus(corpora, cache, tmp_path):
    excluded = tmp_path / "excluded.txt"
    excluded.write_text("u03.wav\nfr/u05.wav\n")
    module = make_module(corpora, cache, exclude=str(excluded), alpha=1.0)
    used = {*ids_of(module.train_dataloader()), *ids_of(module.val_dataloader())}
    assert len(used) == sum(SIZES.values()) - 4
    assert not {"en/u03.wav", "fr/u03.wav", "it/u03.wav", "fr/u05.wav"} & used
    assert "en/u05.wav" in used


def test_validation_on_a_mixture(corpora, cache):
    validation = {"other": corpora["it"], "more": corpora["fr"]}
    module = make_module(corpora["en"], cache, validation=validation)
    assert Counter(map(corpus_of, ids_of(module.val_dataloader()))) == {"other": 10, "more": 20}
    assert len(ids_of(module.train_dataloader())) == 40
    module = make_module(corpora, cache, validation=corpora["it"])
    assert sorted(ids_of(module.val_dataloader())) == sorted(f"u{number:02}.wav" for number in range(10))
    assert f"of {corpora['it']})" in module.summary()


def test_the_summary_has_the_plan(corpora, cache):
    options = {**corpora, "it": CorpusOptions(corpora["it"], weight=2, max_hours=0.0005)}
    first, *plans = make_module(options, cache, alpha=1.0).summary().splitlines()
    assert first.startswith("mixture of en, fr, it: 67 utterances (")
    assert len(plans) == 3
    assert plans[0].startswith("en: 39 utterances, ")
    assert "% of its audio" in plans[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1}, r"^`alpha` must be at least 0 and finite, but is -1\.$"),
        ({"max_uses": 0}, r"^`max_uses` must be above 0 and finite, or null, but is 0\.$"),
        ({"quadratic_seconds": 0}, r"^`quadratic_seconds` must be above 0 and finite, or null, but is 0\.$"),
        ({"shuffle_shards": 0}, "`shuffle_shards` must be at least 1, but is 0"),
        ({"validation": {}}, r"^`data\.validation` must have at least one corpus, but is empty\.$"),
    ],
)
def test_invalid_options(corpora, cache, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_module(corpora, cache, **arguments)


def test_options_of_a_mixture_warn_without_one(corpora, cache):
    single = next(iter(corpora.values()))
    with pytest.warns(W2VLabWarning, match=r"^`alpha` has no effect: `corpus` is a single one\.$"):
        make_module(single, cache, alpha=0.5)
    with pytest.warns(W2VLabWarning, match=r"^`max_uses` has no effect"):
        make_module(single, cache, max_uses=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: {"corpus": {**given, "no": "EMPTY"}}, r"^`data\.corpus\.no` must have at least one usable"),
        (lambda given: {"corpus": {**given, "no": "NOWHERE"}}, r"^`data\.corpus\.no` must be an existing path"),
        (lambda given: {"corpus": given, "validation": "NOWHERE"}, "^`validation` must be an existing path"),
        (lambda given: {"corpus": given, "validation": ["EMPTY"]}, r"^`data\.validation\.EMPTY` must have at least"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_named_by_its_option(corpora, cache, tmp_path, monkeypatch, change, message):
    (tmp_path / "EMPTY").mkdir()
    monkeypatch.chdir(tmp_path)
    options = change(corpora)
    with pytest.raises(ValueError, match=message):
        make_module(options.pop("corpus"), cache, **options)


def test_a_corpus_of_one_utterance_is_named(corpora, cache, tmp_path):
    write_ramp(tmp_path / "one" / "a.wav", 0.5)
    with pytest.raises(ValueError, match=r"^`data\.corpus\.one` must have at least 2 usable utterances"):
        make_module({**corpora, "one": str(tmp_path / "one")}, cache)


@pytest.mark.parametrize("shards", [0, 8])
@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 2), (4, 1)])
def test_resumes_at_any_update_on_any_layout(corpora, cache, monkeypatch, shards, world, accumulate):
    """All processes together have the rest of the micro-batches of one process that accumulates four."""
    if shards:
        put_into_shards(corpora, cache, shards)
    options = dict(read_audio=False, batch_seconds=1.0, shuffle_shards=2)
    reference = on_process(monkeypatch, make_module(corpora, cache, **options), 1, 0, 4)
    reference._place = (1, 0)
    sequence = contents(reference.train_dataloader())
    assert reference._sampler(reference._train, 0, 4).num_lanes == (4 if shards else 1)
    assert len(sequence) >= 12
    state = {**make_module(corpora, cache, **options).state_dict(), "epoch": 1, "update": 4}
    for done in (0, 4, len(sequence) - 4):
        shares = []
        for rank in range(world):
            module = on_process(monkeypatch, make_module(corpora, cache, **options), world, rank, accumulate)
            module.load_state_dict({**state, "micro_batches": done})
            shares.append(contents(module.train_dataloader()))
        assert [batch for step in zip(*shares, strict=True) for batch in step] == sequence[done:]


@pytest.fixture
def first_run(corpora, cache):
    module = make_module(corpora, cache)
    return module.state_dict(), contents(module.train_dataloader())


def resumed(corpora, cache, state, **arguments):
    module = make_module(corpora, cache, **arguments)
    module.trainer = None
    module.load_state_dict(state)
    return module


def test_a_run_resumes_with_the_utterances_of_its_start(first_run, corpora, cache, caplog):
    state, batches = first_run
    write_ramp(Path(corpora["fr"]) / "new.wav", 0.5)
    assert contents(resumed(corpora, cache, state).train_dataloader()) == batches
    (message,) = warnings_in(caplog)
    assert message.startswith("fr has changed since the run was started: it has 1 new utterance. Resuming with the")
    caplog.clear()
    module = resumed(corpora, cache, state, accept_changes=True)
    assert any("fr/new.wav" in batch.ids for batch in [*module.train_dataloader(), *module.val_dataloader()])
    first, second = warnings_in(caplog)
    assert first == "Resuming with other data: fr has changed since the run was started."
    assert "uses an epoch of fr " in second


def test_an_utterance_that_was_removed_is_an_error(first_run, corpora, cache):
    state, _ = first_run
    (Path(corpora["it"]) / "u03.wav").unlink()
    with pytest.raises(
        ValueError, match=r"^`data.corpus` must be as at the start of the run, but it has changed: 1 utt"
    ):
        resumed(corpora, cache, state)


def test_corpora_may_move(first_run, corpora, cache, caplog):
    state, batches = first_run
    moved = Path(corpora["it"]).with_name("moved")
    shutil.copytree(corpora["it"], moved)
    assert contents(resumed({**corpora, "it": str(moved)}, cache, state).train_dataloader()) == batches
    assert not warnings_in(caplog)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"it": {"weight": 3}}, {}, r"^Resuming with uses an epoch of en [\d.]+ \(the checkpoint had .*of it [\d.]+ "),
        ({}, {"alpha": 0.4}, r"^Resuming with data\.alpha 0\.4 \(the checkpoint had 0\.5\), uses an epoch of en "),
        (
            {},
            {"shuffle_shards": 3},
            r"^Resuming with data\.shuffle_shards 3 \(the checkpoint had 8\): batches are made",
        ),
        ({}, {"quadratic_seconds": 1.0}, r"data\.quadratic_seconds 1\.0 \(the checkpoint had None\)"),
        ({"it": None}, {}, r"^Resuming with data\.corpus of it None \(the checkpoint had .*uses an epoch of it None "),
    ],
)
def test_changes_of_the_mixture_are_warned_of(first_run, corpora, cache, caplog, change, arguments, message):
    state, _ = first_run
    changed = {
        name: {"path": path, **change[name]} if change.get(name) else path
        for name, path in corpora.items()
        if change.get(name, 0) is not None
    }
    caplog.clear()
    resumed(changed, cache, state, **arguments)
    (found,) = warnings_in(caplog)
    assert re.search(message, found), found


def test_a_checkpoint_of_before_the_planner_resumes_with_a_warning(corpora, cache, caplog):
    """Its batches were planned by lhotse, and it has fewer options."""
    module = make_module(corpora["en"], cache)
    state = module.state_dict()
    order = {
        name: value
        for name, value in state["order"].items()
        if name not in ("batches planned by", "data.shuffle_shards", "data.quadratic_seconds")
    }
    caplog.clear()
    module.load_state_dict({**state, "order": order, "micro_batches": 1})
    (message,) = warnings_in(caplog)
    assert message.startswith(
        "Resuming with batches planned by w2vlab 1 (the checkpoint had lhotse's DynamicBucketingSampler): batches are"
    )
    assert module._place == (0, 1)
