"""lhotse's recipes by their names: their options, downloads and parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
from lhotse import CutSet, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.audio import Recording

from tests.data.conftest import write_ramp
from w2vlab.preparation.corpora import find_parts
from w2vlab.preparation.recipes import Recipe, find_recipes, run_recipe


def test_lhotse_has_its_recipes() -> None:
    recipes = find_recipes()
    assert len(recipes) > 80
    assert {"librispeech", "libritts", "yesno", "commonvoice", "mls"} <= recipes.keys()
    assert recipes["librispeech"].corpus_option == "corpus_dir"
    assert recipes["librispeech"].download is not None
    assert recipes["mls"].download is None
    assert {"dataset_parts", "force_download", "normalize_text"} <= set(recipes["librispeech"].option_names())
    assert not {"output_dir", "num_jobs", "target_dir"} & set(recipes["librispeech"].option_names())


def librispeech(root: Path) -> Path:
    folder = root / "LibriSpeech" / "dev-clean-2" / "84" / "121"
    write_ramp(folder / "84-121-0000.flac", 1.0)
    write_ramp(folder / "84-121-0001.flac", 1.5)
    (folder / "84-121.trans.txt").write_text("84-121-0000 GO DO YOU HEAR\n84-121-0001 BUT IN LESS\n")
    return root / "LibriSpeech"


def test_a_real_recipe_on_a_folder_that_is_there(prepared, tmp_path: Path) -> None:
    options = {"corpus_dir": str(librispeech(tmp_path)), "dataset_parts": ["dev-clean-2"]}
    one = prepared("librispeech", recipe=options)
    assert one.folder == tmp_path / "out" / "dev-clean-2"
    cuts = {cut.id: cut for cut in CutSet.from_file(one.folder / "cuts.jsonl.gz")}
    assert {name: cut.supervisions[0].text for name, cut in cuts.items()} == {
        "84-121-0000": "GO DO YOU HEAR",
        "84-121-0001": "BUT IN LESS",
    }
    assert one.content["summary"]["speakers"] == 1
    assert one.content["part"] == "dev-clean-2"


def toy(corpus_dir: Path, output_dir: Path, language: str = "en", num_jobs: int = 1) -> dict[str, Any]:
    """Prepares the toy corpus. More words."""
    found = {}
    for part in ("train", "test"):
        path = corpus_dir / f"{part}.wav"
        recordings = RecordingSet.from_recordings([Recording.from_file(path)])
        segment = SupervisionSegment(part, part, 0, 1.0, text="hello", language=language)
        found[part] = {"recordings": recordings, "supervisions": SupervisionSet.from_segments([segment])}
    return found


def download(target_dir: Path, base_url: str = "nowhere") -> Path:
    if base_url == "offline":
        raise OSError("<urlopen error [Errno -2] Name or service not known>\n")
    for part in ("train", "test"):
        write_ramp(target_dir / "toy" / f"{part}.wav", 1.0)
    return target_dir / "toy"


TOY = Recipe("toy", toy, download)


def test_options_reach_the_functions_that_have_them(tmp_path: Path) -> None:
    found = run_recipe(TOY, {"language": "xx", "base_url": "somewhere"}, tmp_path, 2)
    assert sorted(found) == ["test", "train"]
    (cut,) = CutSet.from_file(found["test"])
    assert cut.supervisions[0].language == "xx"
    # For the same options nothing is done again.
    soundfile.write(tmp_path / "gone.wav", [0.0], 16_000)
    again = run_recipe(
        Recipe("toy", lambda corpus_dir, language: pytest.fail("again"), download),
        {"language": "xx"} | {"base_url": "somewhere"},
        tmp_path,
        1,
    )
    assert again == found


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (
            TOY,
            {"tongue": "x"},
            r"^`recipe.tongue` must be an option of toy, which has: corpus_dir, language, base_url",
        ),
        (
            TOY,
            {"base_url": "offline"},
            r"^Recipe toy could not download the corpus: <urlopen .*--recipe.corpus_dir=FOLDER",
        ),
        (TOY, {"corpus_dir": "/nowhere"}, r"^`recipe.corpus_dir` must be an existing folder, but there is no /nowhere"),
        (Recipe("toy", toy, None), {}, r"^Recipe toy has no download: .*--recipe.corpus_dir=FOLDER\.$"),
        (
            Recipe("toy", lambda corpus_dir, lang: None, download),
            {},
            r"^Recipe toy needs --recipe.lang=VALUE\.$",
        ),
        (
            Recipe("toy", lambda corpus_dir: 1 / 0, download),
            {},
            r"^Recipe toy could not prepare the corpus: division by",
        ),
        (Recipe("toy", lambda corpus_dir: {}, download), {}, "must find recordings"),
    ],
)
def test_failures_are_one_line(tmp_path: Path, recipe: Recipe, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        run_recipe(recipe, options, tmp_path, 1)
    assert "\n" not in str(error.value)
    # Nothing that is half done is used later.
    assert sorted(run_recipe(TOY, {}, tmp_path, 1)) == ["test", "train"]


def test_a_source_is_a_name_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"`source` must be an existing path, .* 'librispech'\. Did you mean librispeech\?"
    ):
        find_parts("librispech", tmp_path, {}, 1)
    (tmp_path / "librispeech").mkdir()
    monkeypatch.chdir(tmp_path)
    (part,) = find_parts("librispeech", tmp_path, {}, 1)  # the path as typed first
    assert (part.name, part.path) == ("", tmp_path / "librispeech")
    with pytest.raises(ValueError, match=r"`recipe` has no effect, because librispeech is no recipe"):
        find_parts("librispeech", tmp_path, {"language": "x"}, 1)
