"""The files of `configs/` are found by their names, and a file at the path as typed comes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from w2vlab import recipes
from w2vlab.recipes import (
    RUN_FOLDERS,
    SWEEP_FOLDERS,
    find_file,
    find_recipe,
    recipe_names,
    recipe_path,
    recipe_summary,
)

SHIPPED = Path(__file__).parents[1] / "configs"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_file_has_a_name() -> None:
    files = {path for path in SHIPPED.rglob("*") if path.is_file()}
    assert {recipe_path(name) for name in recipe_names()} == files


@pytest.mark.parametrize(
    "text", ["quantizer/ema", "quantizer/ema.yaml", "configs/quantizer/ema", "configs/quantizer/ema.yaml"]
)
def test_spellings_of_a_name(text: str, empty: Path) -> None:
    assert find_file(text, "X") == SHIPPED / "quantizer" / "ema.yaml"


@pytest.mark.parametrize("text", ["quickstart", "quickstart.yaml", "configs/quickstart.yaml", "quantizer/ema"])
def test_a_file_at_the_path_comes_first(text: str, empty: Path) -> None:
    (empty / text).parent.mkdir(parents=True, exist_ok=True)
    (empty / text).write_text("mine")
    assert find_file(text, "X") == Path(text)


def test_a_folder_at_the_path_is_no_file(empty: Path) -> None:
    (empty / "quickstart").mkdir()
    assert find_file("quickstart", "X") == SHIPPED / "quickstart.yaml"


@pytest.mark.parametrize(
    "text", ["./quickstart.yaml", "../configs/quickstart.yaml", "/quickstart.yaml", "quickstart.yml"]
)
def test_what_is_a_path_and_no_name(text: str, empty: Path) -> None:
    with pytest.raises(ValueError, match=r"^X must be a file that exists or the name of a recipe, but is .*quickstart"):
        find_file(text, "X")


@pytest.mark.parametrize(
    ("text", "folders", "name"),
    [
        ("ddp", RUN_FOLDERS, "trainer/ddp"),
        ("ctc", RUN_FOLDERS, "finetune/ctc"),
        ("quantizers_small", SWEEP_FOLDERS, "sweeps/quantizers_small"),
        ("ema", None, "quantizer/ema"),
        ("wav2vec2_base", None, "wav2vec2_base"),  # and not the encoder of that name
        ("ema", RUN_FOLDERS, None),
        ("ddp", (), None),
    ],
)
def test_the_last_word_does_where_it_is_asked_for(text: str, folders: tuple[str, ...] | None, name: str | None) -> None:
    assert find_recipe(text, folders) == name


def test_several_that_it_could_be() -> None:
    with pytest.raises(
        ValueError, match=r"'negatives_200' could be any of the recipes ablations/negatives_200, losses/neg"
    ):
        find_recipe("negatives_200", None)


@pytest.mark.parametrize(
    ("text", "folders", "advice"),
    [
        ("quikstart", RUN_FOLDERS, "Did you mean quickstart?"),
        ("configs/quantiser/ema.yaml", (), "Did you mean quantizer/ema?"),
        ("quantisers_small", SWEEP_FOLDERS, "Did you mean sweeps/quantizers_small?"),
        ("something.yaml", (), "`w2vlab configs` lists them."),
    ],
)
def test_a_miss_has_advice(text: str, folders: tuple[str, ...], advice: str, empty: Path) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        find_file(text, "X", folders)
    assert str(raised.value) == f"X must be a file that exists or the name of a recipe, but is {text}. {advice}"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_has_a_description(name: str) -> None:
    summary = recipe_summary(name)
    assert 10 < len(summary) < 260
    assert "w2vlab fit" not in summary
    assert summary[-1] not in ".,:;"


def test_a_summary_is_the_first_sentence() -> None:
    assert (
        recipe_summary("context/wav2vec_conv")
        == "The aggregator of wav2vec large: 12 causal convolutions with a receptive field of 79 frames"
    )
    assert recipe_summary("wav2vec2_base") == "wav2vec 2.0 BASE on LibriSpeech's 960 hours, as published"


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of ours in an otherwise empty folder."""
    monkeypatch.setattr(recipes, "__file__", str(tmp_path / "site" / "w2vlab" / "recipes.py"))
    (tmp_path / "site" / "w2vlab").mkdir(parents=True)
    recipes.recipe_folder.cache_clear()
    yield tmp_path / "site"
    recipes.recipe_folder.cache_clear()


def test_an_installation_has_them_inside_the_package(moved: Path) -> None:
    (moved / "configs").mkdir()
    (moved / "w2vlab" / "configs").mkdir()
    assert recipes.recipe_folder() == moved / "w2vlab" / "configs"


def test_a_folder_beside_an_installed_package_is_somebody_elses(moved: Path) -> None:
    (moved / "configs").mkdir()
    with pytest.raises(ValueError, match="lacks its recipes"):
        recipes.recipe_folder()
    (moved / "pyproject.toml").touch()  # a clone
    assert recipes.recipe_folder() == moved / "configs"
