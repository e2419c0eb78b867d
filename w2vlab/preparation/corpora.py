"""Finds a corpus by what was typed: a name, a recipe of lhotse, or a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2vlab.data.corpora.packaged.asterisk import GROUP, VOICES
from w2vlab.data.corpora.packaged.asterisk import NAMES as ASTERISK
from w2vlab.data.corpora.sample_corpora import NAMES, fetch
from w2vlab.data.shards.sources import ShardedCorpus, Source, parse_source
from w2vlab.preparation.recipes import find_recipes, run_recipe
from w2vlab.registry import did_you_mean


@dataclass(frozen=True)
class Part:
    """A part of a corpus, which is prepared into a folder of its own.

    Attributes:
        name: Name of the folder within OUT; empty for a corpus of a single part.
        path: Its folder or manifest, or where its shards are.
        speaker: Speaker of all utterances, if the corpus has one and its files do not say so.
        language: Likewise.
    """

    name: str
    path: Source
    speaker: str | None = None
    language: str | None = None


_ONE_VOICE = {"festvox-ru": ("msu_ru_nsh", "ru")}


def find_parts(source: str, cache: Path, recipe: Mapping[str, Any], processes: int) -> list[Part]:
    """Fetches a corpus if it has a name, and returns its parts.

    Args:
        source: A name, or a path.
        cache: The cache folder.
        recipe: Options of lhotse's recipe.
        processes: For recipes that can use several.

    Raises:
        ValueError: There is no such corpus, or it cannot be fetched.
    """
    path = parse_source(source)
    known = source in (*NAMES, GROUP) or isinstance(path, ShardedCorpus) or path.exists()
    recipes = {} if known else find_recipes()
    if recipe and source not in recipes:
        raise ValueError(f"`recipe` has no effect, because {source} is no recipe of lhotse: leave it out.")
    if source == GROUP:
        return [_asterisk(name, cache, name.removeprefix(f"{GROUP}-")) for name in ASTERISK]
    if source in ASTERISK:
        return [_asterisk(source, cache, "")]
    if source in recipes:
        found = run_recipe(recipes[source], recipe, cache, processes)
        return [Part(name, file) for name, file in found.items()]
    if known:
        speaker, language = _ONE_VOICE.get(source, (None, None))
        return [Part("", fetch(source, cache), speaker, language)]
    raise ValueError(
        "`source` must be an existing path, or a corpus or recipe that `w2vlab prepare --list` lists, "
        f"but is {source!r}.{did_you_mean(source, [*NAMES, GROUP, *recipes])}"
    )


def _asterisk(name: str, cache: Path, part: str) -> Part:
    language = name.removeprefix(f"{GROUP}-")
    return Part(part, fetch(name, cache), VOICES[language], language)
