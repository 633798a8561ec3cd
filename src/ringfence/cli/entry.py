"""The program's way in: finds the verb, loads only that, and turns errors into messages and exit codes."""

import gc

# A short command spends most of its life in imports; the collector finds nothing to free in them, and costs a
# sixth of that time. It is switched on again before any work is done.
gc.disable()

import importlib  # noqa: E402  (the collector must be off before the imports)
import os  # noqa: E402
import sys  # noqa: E402
from contextlib import suppress  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

VERBS = (
    *("ps", "show", "set", "plan", "apply", "confirm", "diff", "undo", "history", "why", "recover", "schema"),
    *("monitor", "pool", "doctor", "run", "clean", "lab", "flash"),
)

_COMPLETE = "_RINGFENCE_COMPLETE"  # set by the scripts that typer makes for shells


def _build(arguments: list[str]) -> int:
    """Run the program and return its exit code."""
    if (
        arguments[:1] == ["set"]
        and len(arguments) > 1
        and not _has_options(arguments)
        and _COMPLETE not in os.environ
    ):
        return _change(arguments[1:])
    if _COMPLETE in os.environ:
        # Typer would load it, and take longer than for all the rest, to strip markup that our texts have none of.
        sys.modules["rich"] = None  # type: ignore[assignment]
    import typer

    from ringfence.cli.output import problem
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
    # Typer publishes one of its errors of the command line; this is what they all have in common.
    bad_command_line: type[Exception] = typer.BadParameter.__bases__[0]
    gc.freeze()
    gc.enable()
    try:
        result = app(arguments, standalone_mode=False, prog_name="ringfence")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except RingfenceError as error:
        problem(error.message, state=error.state, hint=error.hint)
        return error.exit_code
    except bad_command_line as error:
        return _report(error)
    return result if isinstance(result, int) else 0


def _has_options(arguments: list[str]) -> bool:
    return any(argument.startswith("-") for argument in arguments)


def _change(words: list[str]) -> int:
    """`set` without any option: there is nothing for Typer to read, and loading it takes half of the time."""
    from ringfence.cli.output import problem
    from ringfence.cli.set_change import change
    from ringfence.errors import RingfenceError

    try:
        return change(words)
    except RingfenceError as error:
        problem(error.message, state=error.state, hint=error.hint)
        return error.exit_code


def _verb(arguments: list[str]) -> str | None:
    """The verb that was asked for, or that the line to complete has; None where all may be needed."""
    if _COMPLETE in os.environ:
        arguments = os.environ.get("_TYPER_COMPLETE_ARGS", os.environ.get("COMP_WORDS", "")).split()[1:]
    return arguments[0] if arguments and arguments[0] in VERBS else None


def _report(error: Any) -> int:
    """Tell of a command line that Typer could not read as of any other bad request; returns the exit code."""
    from ringfence.cli.output import problem
    from ringfence.errors import UsageError

    message = error.format_message()
    if message:  # else it has printed the help
        command = error.ctx.command_path if error.ctx else "ringfence"
        problem(message.rstrip("."), hint=f"`{command} -h` tells what it takes")
    return UsageError.exit_code


def _prepare_output() -> None:
    """Have characters that the terminal's encoding lacks escaped, and a closed stream take what it is given."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lasts
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def main() -> NoReturn:
    """Run `ringfence` with the process's arguments and exit."""
    _prepare_output()
    try:
        code = _build(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 141
    except OSError as error:
        sys.stderr.write(f"error: the result could not be written: {error.strerror}\n")
        code = 5
    with suppress(OSError):
        sys.stderr.flush()
    # Nothing is left to release but memory, and taking the modules down one by one takes 10 ms.
    os._exit(code)
