"""Corpora by lhotse's recipes: downloaded, and described as lhotse describes them."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhotse.audio import RecordingSet
from lhotse.cut import CutSet
from lhotse.supervision import SupervisionSet

from w2vlab.data.corpora.cache import hold_lock, make_writable
from w2vlab.utils.files import folder_name
from w2vlab.utils.messages import one_line

_OF_FOLDER = "recipes"
_OUTPUTS = ("output_dir", "manifest_dir")
_JOBS = ("num_jobs", "nj")


@dataclass(frozen=True)
class Recipe:
    """A recipe of lhotse.

    Attributes:
        name: Its name.
        prepare: Describes the corpus in a folder.
        download: Downloads it; None if it must be bought or fetched by hand.
    """

    name: str
    prepare: Callable[..., Any]
    download: Callable[..., Any] | None

    @property
    def corpus_option(self) -> str | None:
        """The option of `prepare` that is the folder of the corpus: the first one that needs a value."""
        names = [name for name in _needed(self.prepare) if name not in (*_OUTPUTS, *_JOBS)]
        return names[0] if names else None

    def option_names(self) -> list[str]:
        """Returns the options that a user may set."""
        names = dict.fromkeys(_parameters(self.prepare))
        if self.download is not None:
            names |= dict.fromkeys(_parameters(self.download))
        return [name for name in names if name not in (*_OUTPUTS, *_JOBS, "target_dir")]


def find_recipes() -> dict[str, Recipe]:
    """Returns lhotse's recipes by name."""
    from lhotse import recipes

    functions = {name: value for name, value in vars(recipes).items() if inspect.isfunction(value)}
    found = {}
    for name, prepare in sorted(functions.items()):
        stem = name.removeprefix("prepare_")
        if stem != name:
            found[stem] = Recipe(stem, prepare, functions.get(f"download_{stem}"))
    return found


def run_recipe(recipe: Recipe, options: Mapping[str, Any], cache: Path, processes: int) -> dict[str, Path]:
    """Downloads a corpus unless its folder is given, and writes a manifest of cuts for each of its parts.

    Args:
        recipe: The recipe.
        options: Options of its functions, by name; the folder of the corpus avoids the download.
        cache: The cache folder, for the corpus and its manifests.
        processes: For recipes that can use several.

    Returns:
        The manifest of each part by name; of a corpus of a single part, by an empty name. They are written once for the
        same options.

    Raises:
        ValueError: An option is unknown or missing, or the recipe fails.
    """
    if unknown := [name for name in options if name not in recipe.option_names()]:
        raise ValueError(
            f"`recipe.{unknown[0]}` must be an option of {recipe.name}, which has: {', '.join(recipe.option_names())}."
        )
    options = _with_absolute_folder(recipe, options)
    folder = cache / "corpora" / _OF_FOLDER / folder_name(recipe.name)
    make_writable(folder)
    # The path is part of the key, because manifests have absolute paths.
    key = hashlib.sha256(json.dumps(dict(options), sort_keys=True, default=str).encode()).hexdigest()[:8]
    manifests = folder / f"manifests-{key}"
    with hold_lock(folder / "lock"):
        if not manifests.is_dir():
            parts = _parts_of(_prepare(recipe, options, folder, processes))
            if not parts:
                raise ValueError(f"Recipe {recipe.name} must find recordings, but has found none in its folder.")
            unfinished = folder / f"{manifests.name}.unfinished"
            unfinished.mkdir(exist_ok=True)
            for name, cuts in parts.items():
                cuts.to_file(unfinished / f"{folder_name(name or recipe.name)}.jsonl.gz")
            unfinished.rename(manifests)
    files = sorted(manifests.glob("*.jsonl.gz"))
    names = [file.name.removesuffix(".jsonl.gz") for file in files]
    return {"" if names == [recipe.name] else name: file for name, file in zip(names, files, strict=True)}


def _prepare(recipe: Recipe, options: Mapping[str, Any], folder: Path, processes: int) -> Any:
    given = dict(options)
    corpus = recipe.corpus_option
    if corpus is not None and corpus not in given:
        given[corpus] = _download(recipe, options, folder, corpus)
    manifests = folder / "lhotse"
    parameters = _parameters(recipe.prepare)
    arguments = {name: value for name, value in given.items() if name in parameters}
    arguments |= {name: manifests for name in _OUTPUTS if name in parameters and name in _needed(recipe.prepare)}
    arguments |= {name: processes for name in _JOBS if name in parameters}
    _check_complete(recipe, recipe.prepare, arguments)
    return _call(recipe, recipe.prepare, arguments, "prepare")


def _with_absolute_folder(recipe: Recipe, options: Mapping[str, Any]) -> dict[str, Any]:
    corpus = recipe.corpus_option
    if corpus is None or corpus not in options:
        return dict(options)
    folder = Path(str(options[corpus])).expanduser().absolute()
    if not folder.exists():
        raise ValueError(f"`recipe.{corpus}` must be an existing folder, but there is no {folder}.")
    return {**options, corpus: folder}


def _download(recipe: Recipe, options: Mapping[str, Any], folder: Path, corpus: str) -> Any:
    if recipe.download is None:
        raise ValueError(
            f"Recipe {recipe.name} has no download: get the corpus, and give its folder with --recipe.{corpus}=FOLDER."
        )
    parameters = _parameters(recipe.download)
    arguments = {name: value for name, value in options.items() if name in parameters}
    target = "target_dir" if "target_dir" in parameters else corpus
    arguments[target] = folder / "download"
    arguments[target].mkdir(exist_ok=True)
    _check_complete(recipe, recipe.download, arguments)
    return _call(recipe, recipe.download, arguments, "download") or arguments[target]


def _check_complete(recipe: Recipe, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    if missing := [name for name in _needed(function) if name not in arguments]:
        options = ", ".join(f"--recipe.{name}=VALUE" for name in missing)
        raise ValueError(f"Recipe {recipe.name} needs {options}.")


def _call(recipe: Recipe, function: Callable[..., Any], arguments: Mapping[str, Any], what: str) -> Any:
    try:
        return function(**arguments)
    # Recipes raise any error, many of them about a network or a layout that is not as expected.
    except Exception as problem:
        reason = one_line(str(problem).strip() or type(problem).__name__, 300).rstrip(".")
        option = recipe.corpus_option
        advice = f" If you have the corpus, give its folder with --recipe.{option}=FOLDER." if option else ""
        advice = advice if what == "download" else " W2VLAB_TRACEBACK=1 shows where."
        raise ValueError(f"Recipe {recipe.name} could not {what} the corpus: {reason}.{advice}") from problem


def _parts_of(result: Any, name: str = "") -> dict[str, CutSet]:
    """Returns the cuts of each part of what a recipe returns: manifests by kind, or parts of them at any depth."""
    if isinstance(result, RecordingSet | CutSet):
        result = {"recordings" if isinstance(result, RecordingSet) else "cuts": result}
    if isinstance(result, Sequence) and not isinstance(result, str):
        result = _by_kind(result)
    if not isinstance(result, Mapping):
        return {}
    cuts, recordings = result.get("cuts"), result.get("recordings")
    if isinstance(cuts, CutSet):
        return {name: cuts}
    if isinstance(recordings, RecordingSet):
        supervisions = result.get("supervisions")
        known = supervisions if isinstance(supervisions, SupervisionSet) and len(supervisions) else None
        return {name: _cuts_of(recordings, known)} if len(recordings) else {}
    found: dict[str, CutSet] = {}
    for key, inner in result.items():
        found |= _parts_of(inner, f"{name}-{key}" if name else str(key))
    return found


def _cuts_of(recordings: RecordingSet, supervisions: SupervisionSet | None) -> CutSet:
    """Returns a cut of each recording, with the id of the recording."""
    cuts = CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
    if len(cuts) == len(recordings):
        cuts = CutSet.from_cuts([cut.with_id(cut.recording_id) for cut in cuts])
    return cuts


def _by_kind(manifests: Sequence[Any]) -> dict[str, Any]:
    kinds = {RecordingSet: "recordings", SupervisionSet: "supervisions", CutSet: "cuts"}
    return {name: one for one in manifests for kind, name in kinds.items() if isinstance(one, kind)}


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def _needed(function: Callable[..., Any]) -> list[str]:
    return [
        name
        for name, parameter in _parameters(function).items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
