"""What recipes say of systems without loading them is what the systems do."""

from __future__ import annotations

import pytest

from setr_lib.systems.features import PATCHES
from setr_lib.systems.recipe import RECIPES


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_says_whether_patch_tokens_are_read(name: str) -> None:
    reads = RECIPES[name].load().reads
    decided_by_options = isinstance(reads, property)  # pixels or nothing
    assert RECIPES[name].reads_patches == (not decided_by_options and PATCHES in reads)
