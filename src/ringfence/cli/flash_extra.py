"""What the verbs of `flash` share: the packages of the extra `flash`, and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ringfence.errors import HostError, UsageError

PICTURES = (".svg", ".png")


@contextmanager
def needs_flash_extra() -> Iterator[None]:
    """Turn a package that is not installed into an error that says how to get it.

    :raise HostError: an import inside the block failed.
    """
    try:
        yield
    except ImportError as error:
        raise HostError(
            f"this needs the Python package {error.name}",
            path=error.name or "",
            hint="pip install 'ringfence[flash]', or pipx install '.[flash]' in a checkout",
        ) from error


@contextmanager
def saved_figure(picture: Path) -> Iterator[Any]:
    """Matplotlib's axes to draw on; saved when the block ends, by the file's ending as SVG or PNG.

    :raise UsageError: another ending.
    :raise HostError: the file cannot be written, or matplotlib is not installed.
    """
    if picture.suffix not in PICTURES:
        raise UsageError(f"cannot draw {picture.name}", hint=f"end its name in {' or '.join(PICTURES)}")
    with needs_flash_extra():
        import matplotlib
        from matplotlib.figure import Figure
    # The same figures give the same file: no date, no ids drawn by lot.
    with matplotlib.rc_context({"svg.hashsalt": "ringfence", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
        yield figure.subplots()
        try:
            figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)
        except OSError as error:
            raise HostError(
                f"cannot write {picture}: {error.strerror}",
                path=str(picture),
                errno=error.errno or 0,
                hint="choose a place that this user may write to",
            ) from error
