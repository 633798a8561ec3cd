"""The program's way in: finds the verb, loads only that, and turns errors into messages and exit codes."""

import gc

# A short command spends most of its life in imports; the collector finds nothing to free in them, and costs a
# sixth of that time. It is switched on again before any work is done.
gc.disable()

import importlib  # noqa: E402  (the collector must be off before the imports)
import os  # noqa: E402
import sys  # noqa: E402
from typing import NoReturn  # noqa: E402

VERBS = ("ps", "show", "set", "monitor", "pool", "doctor", "run", "lab")

_COMPLETE = "_RINGFENCE_COMPLETE"  # set by the scripts that typer makes for shells


def _build(arguments: list[str]) -> int:
    """Run the program and return its exit code."""
    if _COMPLETE in os.environ:
        # Typer would load it, and take longer than for all the rest, to strip markup that our texts have none of.
        sys.modules["rich"] = None  # type: ignore[assignment]
    import typer

    from ringfence.errors import RingfenceError

    app = typer.Typer(
        name="ringfence",
        help="Fence in running QEMU virtual machines: see their limits, change them live, prove that they hold.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def _program() -> None:
        """Fence in running QEMU virtual machines: see their limits, change them live, prove that they hold."""

    wanted = _verb(arguments)
    for verb in (wanted,) if wanted else VERBS:
        importlib.import_module(f"ringfence.cli.{verb}").register(app)
    gc.freeze()
    gc.enable()
    try:
        app(arguments, standalone_mode=True, prog_name="ringfence")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except RingfenceError as error:
        return report(error)
    return 0


def _verb(arguments: list[str]) -> str | None:
    """The verb that was asked for, or that the line to complete has; None where all may be needed."""
    if _COMPLETE in os.environ:
        arguments = os.environ.get("_TYPER_COMPLETE_ARGS", os.environ.get("COMP_WORDS", "")).split()[1:]
    return arguments[0] if arguments and arguments[0] in VERBS else None


def report(error: Exception) -> int:
    """Print a RingfenceError as people read it, on standard error; returns its exit code."""
    print(f"error: {error}", file=sys.stderr)
    for label in ("state", "hint"):
        text = getattr(error, label, "")
        if text:
            print(f"{label}: {text}", file=sys.stderr)
    return int(getattr(error, "exit_code", 1))


def main() -> NoReturn:
    """Run `ringfence` with the process's arguments and exit."""
    try:
        code = _build(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 141
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = 141
    # Nothing is left to release but memory, and taking the modules down one by one takes 10 ms.
    os._exit(code)
