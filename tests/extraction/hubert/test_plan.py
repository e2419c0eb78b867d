"""The steps of a chain, and their lines in a shell."""

from __future__ import annotations

from pathlib import Path

from tests.extraction.hubert import chains
from w2vlab.extraction.hubert.plan import Extras, pending_steps


def test_each_step_comes_after_those_that_it_needs() -> None:
    steps = chains.steps_in(Path("out"), 3, Extras(evaluated="each"))
    seen: set[str] = set()
    for step in steps:
        assert seen >= set(step.needs)
        seen.add(step.name)
    assert len(seen) == 12
    assert {step.name: list(step.needs) for step in steps if step.iteration == 2} == {
        "cluster2": ["fit1"],
        "encode2": ["cluster2", "fit1"],
        "fit2": ["encode2"],
        "evaluate2": ["fit2"],
    }


def test_all_steps_are_pending_in_a_new_folder(tmp_path: Path) -> None:
    steps = chains.steps_in(tmp_path)
    assert pending_steps(steps) == steps


def test_a_checkpoint_that_is_not_there_yet_is_a_pattern_of_the_shell() -> None:
    steps = {step.name: step for step in chains.steps_in(Path("my runs"))}
    assert steps["cluster2"].shell_line() == (
        "w2vlab cluster 'my runs/iteration1/fit'/*/*/checkpoints/last.ckpt speech "
        "'my runs/iteration2/centers.safetensors' --layer 1 --k 20 --seed 3 --exclude held_out.txt"
    )
    assert steps["evaluate2"].shell_line() == "w2vlab evaluate 'my runs/iteration2/fit'/*/*/checkpoints/last.ckpt"


def test_the_cache_of_a_run_is_that_of_its_steps() -> None:
    lines = [step.shell_line() for step in chains.steps_in(Path("out"), 1, **{"data.cache_dir": "cache"})]
    assert ["--cache_dir cache" in line for line in lines] == [True, True, False, True]


def test_further_options_come_last() -> None:
    extras = Extras(cluster=["--frames", "1000"], encode=["--devices", "2"], evaluate=["--corpus", "toy"])
    cluster, encode, _, evaluate = chains.steps_in(Path("out"), 1, extras)
    assert cluster.command()[-2:] == ["--frames", "1000"]
    assert encode.command()[-2:] == ["--devices", "2"]
    assert evaluate.shell_line().endswith("--corpus toy")
    assert cluster.options == {
        **{"source": "mfcc", "data": "speech", "k": "10", "seed": "3", "exclude": "held_out.txt", "frames": "1000"}
    }
