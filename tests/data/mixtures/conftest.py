from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.mixtures.mixed import write_corpora


@pytest.fixture
def corpora(tmp_path: Path) -> dict[str, str]:
    return write_corpora(tmp_path / "corpora")
