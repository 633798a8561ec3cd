"""Docs are generated or executed, or they rot."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_knobs_page_is_generated_from_the_rows() -> None:
    page = runpy.run_path(str(ROOT / "docs/generate.py"))["page"]()
    assert (ROOT / "docs/knobs.md").read_text() == page, "run `python docs/generate.py`"


def test_every_folder_of_the_package_stands_in_the_architecture() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    folders = [p.name for p in (ROOT / "src/ringfence").iterdir() if (p / "__init__.py").exists()]
    assert folders
    for folder in folders:
        assert f"`{folder}/`" in text
