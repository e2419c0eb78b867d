from __future__ import annotations

from typing import Any

import pytest

from tests.reports.made_up import config
from w2vlab.reports.grouping import format_value, group_runs, shorten_keys
from w2vlab.reports.run import Found, RunData, Sweep
from w2vlab.utils.options import flat


def run(name: str, options: Any, parameters: dict[str, Any] | None = None) -> RunData:
    return RunData(name=name, source=name, options=dict(flat("", options)), parameters=parameters)


def names(found: Found, by: list[str] | None = None) -> dict[str, list[str]]:
    return {group.name: [run.name for run in group.runs] for group in group_runs(found, by).groups}


def test_options_are_flat_as_they_are_typed() -> None:
    options = dict(flat("", config("KMeansQuantizer", seed=3)))
    assert options["model"] == "w2vlab.modules.MaskedPrediction"
    assert options["model.quantizer"] == "w2vlab.quantizers.KMeansQuantizer"
    assert options["model.quantizer.codebook_size"] == 40
    assert options["seed_everything"] == options["data.seed"] == 3


def test_runs_that_differ_in_the_seed_and_in_where_they_log_are_one_group() -> None:
    found = Found([run("a", config(seed=1)), run("b", {**config(seed=2), "validate_first": True})])
    assert names(found) == {"all runs": ["a", "b"]}


def test_options_that_follow_from_a_class_are_not_keys() -> None:
    """Gumbel and EMA differ in the size too, which follows from the class; a second size of EMA does not."""
    found = Found([run("a", config("GumbelQuantizer")), run("b", config("EMAQuantizer"))])
    assert group_runs(found, None).keys == ["model.quantizer"]
    found.runs.append(run("c", config("EMAQuantizer", codebook_size=160)))
    assert group_runs(found, None).keys == ["model.quantizer", "model.quantizer.codebook_size"]
    assert list(names(found)) == ["GumbelQuantizer, 40", "EMAQuantizer, 80", "EMAQuantizer, 160"]
    assert group_runs(found, None).redundant_keys == []


def test_redundant_keys_are_listed() -> None:
    second = config("EMAQuantizer")
    second["data"]["batch_seconds"] = 10
    grouping = group_runs(Found([run("a", config()), run("b", second)]), None)
    assert (grouping.keys, grouping.redundant_keys) == (["model.quantizer"], ["data.batch_seconds"])


@pytest.mark.parametrize(
    "key", ["model.quantizer", "model.quantizer.class_path", "model.init_args.quantizer.class_path"]
)
def test_keys_can_be_typed_in_each_way(key: str) -> None:
    found = Found([run("a", config()), run("b", config("EMAQuantizer")), run("c", config(seed=2))])
    assert names(found, [key]) == {"GumbelQuantizer": ["a", "c"], "EMAQuantizer": ["b"]}


def test_unknown_key_is_explained() -> None:
    found = Found([run("a", config())])
    with pytest.raises(ValueError, match=r"`by` must be .* is model.quantiser. Did you mean model.quantizer\?"):
        group_runs(found, ["model.quantiser"])
    with pytest.raises(ValueError, match=r"is trainer. Options below it: trainer.logger, .*trainer.max_steps"):
        group_runs(found, ["trainer"])


def test_sweeps_are_grouped_by_their_own_parameters() -> None:
    def trial(name: str, fragment: Any, seed: int) -> RunData:
        return run(name, config(seed=seed), {"config": fragment, "seed_everything": seed})

    rows = ["configs/a/base.yaml"], ["configs/a/base.yaml", "configs/a/mask_8.yaml"]
    found = Found([trial("a", rows[0], 1), trial("b", rows[1], 1), trial("c", rows[0], 2)])
    found.sweeps = [Sweep("s", ("config", "seed_everything"))]
    found.missing = [("d", {"config": ["configs/a/new.yaml"], "seed_everything": 1}, "failed")]
    assert group_runs(found, None).keys == ["config"]
    assert names(found) == {"base": ["a", "c"], "base + mask_8": ["b"], "new": []}


def test_groups_with_equal_labels_are_numbered() -> None:
    found = Found(
        [run("a", config(), {"x": "one/f.yaml"}), run("b", config(), {"x": "two/f.yaml"})], [Sweep("s", ("x",))]
    )
    assert names(found) == {"f": ["a"], "f (2)": ["b"]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("w2vlab.quantizers.EMAQuantizer", "EMAQuantizer"),
        ("configs/quantizer/fsq.yaml", "fsq"),
        ({"class_path": "FSQ", "init_args": {"levels": [8, 5]}}, "FSQ(levels=8 + 5)"),
        ({"a": 1}, '{"a": 1}'),
        (None, "null"),
        (True, "true"),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        ("a.b", "a.b"),
        ([], "none"),
    ],
)
def test_labels(value: Any, text: str) -> None:
    assert format_value(value) == text


def test_column_heads_are_as_short_as_possible() -> None:
    assert shorten_keys(["model.quantizer", "model.quantizer.codebook_size"]) == ["quantizer", "codebook_size"]
    assert shorten_keys(["a.rate", "b.rate", "rate"]) == ["a.rate", "b.rate", "rate"]
