"""Docs are generated or executed, or they rot."""

from __future__ import annotations

import inspect
import itertools
import re
import runpy
from pathlib import Path

from ringfence import errors
from ringfence.cli.entry import VERBS
from ringfence.cli.plan import OUT_OF_STEP
from ringfence.core.spec_read import document
from ringfence.engine import fences
from ringfence.knobs import registry
from ringfence.lab import matrix

ROOT = Path(__file__).parents[2]


def test_the_knobs_page_is_generated_from_the_rows() -> None:
    page = runpy.run_path(str(ROOT / "docs/generate.py"))["page"]()
    assert (ROOT / "docs/knobs.md").read_text() == page, "run `python docs/generate.py`"


def test_the_control_sockets_page_is_generated_and_has_every_verb_and_error() -> None:
    from ringfence.daemon.verbs import NAMES, Verbs

    page = runpy.run_path(str(ROOT / "docs/generate.py"))["control"]()
    assert (ROOT / "docs/control.md").read_text() == page, "run `python docs/generate.py`"
    public = {name for name, value in vars(Verbs).items() if inspect.iscoroutinefunction(value)}
    assert {name for name in public if not name.startswith("_")} == set(NAMES)
    assert re.findall(r"^### `(\w+)`$", page, re.MULTILINE) == list(NAMES)
    asked = {name: _arguments(getattr(Verbs, name)) for name in NAMES}
    for section in page.split("\n### ")[1:]:
        name = section.split("`")[1]
        assert set(re.findall(r"^- `(\w+)`:", section, re.MULTILINE)) == asked[name], name
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.RingfenceError):
            assert f"| `{name}` | {kind.exit_code} |" in page


def _arguments(verb: object) -> set[str]:
    """What a verb reads of a request's arguments, by its own text and that of what it finds the tenant with."""
    text = inspect.getsource(verb)  # type: ignore[arg-type]  # a method
    found = set(re.findall(r"call\.arguments(?:\.get\(|\[)['\"](\w+)['\"]", text))
    return found | ({"vm"} if "self._tenant(call" in text else set())


def test_the_examples_of_the_control_socket_are_what_the_program_says() -> None:
    import json

    from ringfence.control import protocol

    page = (ROOT / "docs/control.md").read_text()
    lines = re.findall(r"^(=>|<=) (\{.*\})$", page, re.MULTILINE)
    assert {way for way, _ in lines} == {"=>", "<="}
    for way, line in lines:
        message = json.loads(line.replace("[...]", "[]"))
        if way == "=>":
            assert protocol.request(message).verb
        elif "error" in message:
            sent = protocol.error_data(protocol.raised(message["error"]))
            assert set(message["error"]) == set(sent)


def test_the_blocking_api_is_generated_and_has_all_that_the_other_has() -> None:
    from ringfence import blocking
    from ringfence.engine import api

    twin = runpy.run_path(str(ROOT / "docs/blocking_twin.py"))
    assert (ROOT / "src/ringfence/blocking.py").read_text() == twin["text"](), "run `python docs/generate.py`"
    assert set(twin["TWINS"]) == {
        name for name, value in vars(api).items() if inspect.isclass(value) and value.__module__ == api.__name__
    }
    for name in twin["TWINS"]:
        ours, theirs = vars(getattr(blocking, name)), vars(getattr(api, name))
        for method in (one for one in theirs if not one.startswith("_")):
            assert not inspect.iscoroutinefunction(ours[method])
            here, there = inspect.signature(ours[method]), inspect.signature(theirs[method])
            assert [(one.name, one.kind, one.annotation) for one in here.parameters.values()] == [
                (one.name, one.kind, one.annotation) for one in there.parameters.values()
            ]
    assert not re.search(r"\b(async|await|asyncio)\b", (ROOT / "src/ringfence/blocking.py").read_text())


def test_the_matrix_has_every_row_and_every_case_on_five_qemus() -> None:
    lines = [line for line in (ROOT / "docs/matrix.md").read_text().splitlines() if line.startswith("| ")]
    head, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    qemus = [name.split() for name in head[3:]]
    assert [(version.split(".")[0], machine) for version, machine in qemus] == [
        ("5", "q35"),
        ("7", "pc"),
        ("7", "q35"),
        ("10", "q35"),
        ("11", "q35"),
    ]
    assert [(row[0].strip("`"), row[1]) for row in body] == [(case.row, case.what) for case in matrix.CASES]
    assert all(re.fullmatch(r"works|refused \(\d+\)", cell) for row in body for cell in row[3:])
    assert {case.row for case in matrix.CASES} == {row.key for row in matrix.rows()}


def test_the_schema_of_fences_is_generated_and_takes_what_the_program_takes() -> None:
    import json

    import jsonschema
    import yaml

    made = runpy.run_path(str(ROOT / "docs/generate.py"))["schema"]()
    assert (ROOT / "docs/fences.schema.json").read_text() == made, "run `python docs/generate.py`"
    validator = jsonschema.Draft202012Validator(json.loads(made))
    page = (ROOT / "docs/fences.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    document(example, "the example", fences.words(), fences.read_value)
    assert not list(validator.iter_errors(yaml.safe_load(example)))
    for wrong in ("fences: {a: {vcpu: 1}}", "fence: {}", "fences: {a: {disks: {vda: {iop: 1}}}}"):
        assert list(validator.iter_errors(yaml.safe_load(wrong)))


def test_every_folder_of_the_package_stands_in_the_architecture() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    folders = [p.name for p in (ROOT / "src/ringfence").iterdir() if (p / "__init__.py").exists()]
    assert folders
    for folder in folders:
        assert f"`{folder}/`" in text


def first_cells(heading: str) -> list[str]:
    """The first column of README's table with that heading there, without backquotes."""
    lines = (ROOT / "README.md").read_text().splitlines()
    start = lines.index(next(line for line in lines if line.startswith(f"| {heading} |")))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [row.split("|")[1].strip().strip("`") for row in rows]


def expanded(text: str) -> list[str]:
    """A shell's braces: `a{,b}` is `a` and `ab`."""
    parts = [part.split(",") for part in re.split(r"[{}]", text)]
    return ["".join(words) for words in itertools.product(*parts)]


def test_the_readme_lists_every_verb() -> None:
    assert first_cells("verb") == list(VERBS)


def test_the_readme_lists_every_knob() -> None:
    listed = [key for cell in first_cells("knob") for key in expanded(cell)]
    assert sorted(listed) == sorted(row.key for row in registry.rows())


def test_the_readme_lists_every_exit_code() -> None:
    classes = [errors.RingfenceError]
    for cls in classes:
        classes += cls.__subclasses__()
    codes = {0, OUT_OF_STEP, *(cls.exit_code for cls in classes)}
    assert first_cells("code") == [str(code) for code in sorted(codes)]
