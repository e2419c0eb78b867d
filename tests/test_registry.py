"""The registry lists imported parts, and refuses two parts of the same short name."""

from __future__ import annotations

import gc
import subprocess
import sys
import types
from collections.abc import Callable, Iterator

import pytest

from w2vlab import registry
from w2vlab.interfaces import Quantizer

SOURCE = '''
from w2vlab.interfaces import Quantizer

class {name}(Quantizer):
    """What it is.

    More about it.

    Reference:
        Somebody 2020, arXiv:0000.00000,
        Section 3.

    Example:
        None.
    """

    def forward(self, latents, padding_mask=None): ...
    def lookup(self, codes): ...

class Unfinished(Quantizer):
    def forward(self, latents, padding_mask=None): ...

class _Private({name}):
    pass

def local():
    class Local({name}):
        pass
    return Local
'''


@pytest.fixture
def module() -> Iterator[Callable[[str, str], types.ModuleType]]:
    """Makes modules of parts, and lets no class of theirs outlive the test."""
    names = []

    def make(name: str, part: str) -> types.ModuleType:
        made = types.ModuleType(name)
        sys.modules[name] = made
        names.append(name)
        exec(SOURCE.format(name=part), made.__dict__)
        return made

    yield make
    for name in names:
        del sys.modules[name]
    gc.collect()
    assert not [cls for cls in Quantizer.__subclasses__() if cls.__module__ in names]


@pytest.fixture(autouse=True)
def _loaded() -> None:
    registry.load_parts()


def test_built_in_parts_are_listed_with_summary_and_options() -> None:
    parts = {part.name: part for part in registry.parts("quantizer")}
    gumbel = parts["GumbelQuantizer"]
    assert list(parts) == sorted(parts)
    assert {"IdentityQuantizer", "KMeansQuantizer"} <= set(parts)
    assert gumbel.family == "quantizer"
    assert gumbel.import_path == "w2vlab.quantizers.GumbelQuantizer"
    assert gumbel.summary.endswith(".")
    assert "2006.11477" in gumbel.reference


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_every_family_has_parts(family: str) -> None:
    assert registry.parts(family)


def test_only_concrete_classes_that_yaml_can_name_are_listed(module: Callable[[str, str], types.ModuleType]) -> None:
    made = module("somebodys_parts", "SomebodysQuantizer")
    local = made.local()
    found = registry.part_classes("quantizer")
    assert found["SomebodysQuantizer"] is made.SomebodysQuantizer
    assert not {"Unfinished", "_Private", local.__name__} & set(found)
    del local, found


def test_classes_of_tests_are_not_listed(module: Callable[[str, str], types.ModuleType]) -> None:
    module("somewhere.tests.helpers", "HelpersQuantizer")
    module("test_something", "TestsQuantizer")
    assert not {"HelpersQuantizer", "TestsQuantizer"} & set(registry.part_classes("quantizer"))


def test_docstring_gives_summary_and_reference(module: Callable[[str, str], types.ModuleType]) -> None:
    module("somebodys_parts", "SomebodysQuantizer")
    (part,) = (part for part in registry.parts("quantizer") if part.name == "SomebodysQuantizer")
    assert part.summary == "What it is."
    assert part.reference == "Somebody 2020, arXiv:0000.00000, Section 3."


def test_same_short_name_twice_is_refused(module: Callable[[str, str], types.ModuleType]) -> None:
    module("somebodys_parts", "GumbelQuantizer")
    with pytest.raises(ValueError, match="are called 'GumbelQuantizer'") as refused:
        registry.load_parts()
    assert "w2vlab.quantizers.GumbelQuantizer" in str(refused.value)
    assert "somebodys_parts.GumbelQuantizer" in str(refused.value)
    del refused


def test_unknown_name_is_explained() -> None:
    assert registry.suggest("ConvFeatureEncodr", "encoder") == (
        "Unknown encoder 'ConvFeatureEncodr'. Known: CodeEmbedding, ConvFeatureEncoder, LogMelEncoder. "
        "Did you mean ConvFeatureEncoder?"
    )


def test_no_suggestion_if_no_known_name_is_near() -> None:
    assert (
        registry.suggest("Zebra", "encoder")
        == "Unknown encoder 'Zebra'. Known: CodeEmbedding, ConvFeatureEncoder, LogMelEncoder."
    )


def test_suggestions_ignore_case() -> None:
    assert registry.suggest("gumbelquantizer", "quantizer").endswith("Did you mean GumbelQuantizer?")


@pytest.mark.parametrize("name", ["loss", "losses"])
def test_families_go_by_singular_and_plural(name: str) -> None:
    assert registry.family_named(name).name == "loss"


def test_unknown_family_is_explained() -> None:
    with pytest.raises(ValueError, match=r"Unknown family 'quantiser'. Known: model, .* Did you mean quantizer\?"):
        registry.family_named("quantiser")


def test_import_needs_no_torch() -> None:
    code = "import sys, w2vlab.registry, w2vlab.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
