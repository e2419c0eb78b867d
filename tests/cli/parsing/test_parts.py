"""The listing is right without importing the parts."""

from __future__ import annotations

import pytest

from w2vlab import registry
from w2vlab.cli.main import main
from w2vlab.cli.parsing.catalog import Catalog


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_listing_from_source_agrees_with_the_classes(family: str) -> None:
    registry.load_parts()
    assert Catalog().parts(family) == registry.parts(family)


@pytest.mark.parametrize("name", ["quantizer", "quantizers"])
def test_one_family(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts", name]) == 0
    output = capsys.readouterr().out
    assert "GumbelQuantizer" in output
    assert "arXiv:2006.11477" in output
    assert "ContrastiveLoss" not in output


def test_all_families(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts"]) == 0
    output = capsys.readouterr().out
    for family in registry.FAMILIES:
        assert all(part.name in output for part in Catalog().parts(family))


def test_unknown_family_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts", "quantisers"]) == 2
    assert "Unknown family 'quantisers'. Known: model, encoder," in capsys.readouterr().err


def test_one_family_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts", "loss", "masking"]) == 2
    assert "takes one family, but was given loss masking" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts", "--help"]) == 0
    assert "quantizers" in capsys.readouterr().out
