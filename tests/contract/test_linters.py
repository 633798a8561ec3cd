"""Linters are tests: what they promise holds on every commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.knobs import registry

ROOT = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("lint-imports",),
    ],
    ids=lambda command: " ".join(command),
)
def test_linter(command: tuple[str, ...]) -> None:
    program = str(_BIN / command[0])
    ran = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_types() -> None:
    """Of the package, and that each knob of the registry, which imports them by name, has the shape of one."""
    lines = ["from ringfence.core.knob import Knob"]
    for listed in registry.LISTED:
        lines += [
            f"from ringfence.knobs.{listed.module} import {listed.name}",
            f"checked_{listed.name}: Knob = {listed.name}()",
        ]
    generated = ROOT / ".mypy_cache" / "listed_knobs.py"
    generated.parent.mkdir(exist_ok=True)
    text = "\n".join(lines) + "\n"
    if not generated.exists() or generated.read_text() != text:  # an untouched file is not checked again
        generated.write_text(text)
    test_linter(("mypy", "src/ringfence", str(generated)))


def test_no_file_or_function_grows_without_end() -> None:
    import ast

    long: list[str] = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text()
        if text.count("\n") > 420:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno
                if lines > 65:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert not long
