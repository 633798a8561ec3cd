"""`ringfence clean`: what ringfence made on this host, and its removal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.cli.output import Format, emit, line, problem

if TYPE_CHECKING:
    from ringfence.host.made import Made


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="clean")(clean)


def clean(
    only_list: Annotated[bool, typer.Option("--list", help="only tell what there is")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="also what is in use: the limits that it carries are lifted")
    ] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Remove what ringfence made on this host and is left over, as after a VM has ended.

    Groups and the like are known by their names, so those of a ringfence that crashed are found too.

    Exit code: 0 all removed, or nothing there; 5 something could not be removed.
    """
    import asyncio

    from ringfence.host import made

    found = made.find()
    chosen = [] if only_list else [thing for thing in found if every or not thing.holds]
    failed = {thing: error for thing, error in asyncio.run(made.remove(chosen)) if error}
    removed = [thing for thing in chosen if thing not in failed]
    emit(
        [_as_data(thing, thing in removed, failed.get(thing)) for thing in found],
        output,
        lambda: _render(found, removed, only_list=only_list),
    )
    for error in failed.values():
        problem(error.message, hint=error.hint)
    if failed:
        raise typer.Exit(5)


def _as_data(thing: Made, removed: bool, error: Exception | None) -> dict[str, object]:
    return {
        "kind": thing.kind,
        "name": thing.name,
        "holds": thing.holds or None,
        "removed": removed,
        "problem": str(error) if error else None,
    }


def _render(found: list[Made], removed: list[Made], *, only_list: bool) -> None:
    if not found:
        line("ringfence has made nothing on this host that is still there")
    for thing in found:
        word = "removed" if thing in removed else f"in use: {thing.holds}" if thing.holds else "left over"
        line(f"{thing.kind:<8}  {thing.name}  {word}")
    if not only_list and any(thing.holds and thing not in removed for thing in found):
        line("what is in use was kept; --all removes it too, and lifts the limits that it carries")
