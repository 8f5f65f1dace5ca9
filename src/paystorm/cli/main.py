"""The entry point `paystorm`: finds the command, shows what goes wrong as one line, gives the exit code.

Exit codes: 0 done; 1 a check found differences; 2 bad usage, configuration or data; 130 ended by Ctrl-C.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from paystorm import __version__
from paystorm.cli.common import complain
from paystorm.errors import PaystormError, UsageError

COMMANDS = {
    "demo": "demo",
    "generate": "generate",
    "send": "send",
    "serve": "serve",
    "keys": "keys",
    "run": "run",
    "status": "status",
    "metrics": "metrics",
    "doctor": "doctor",
    "query": "query",
    "export": "export",
    "dead-letters": "dead_letters",
    "lists": "lists",
    "cases": "cases",
    "sources": "sources",
    "new-source": "new_source",
    "verify": "verify",
    "rebuild": "rebuild",
    "backtest": "backtest",
    "simulate": "simulate",
    "chaos": "chaos",
    "merge": "merge",
    "prune": "prune",
    "reset": "reset",
    "stack": "stack",
}
"""Commands by name and the module of each, in the order of the help."""
INTERRUPTED = 130
BROKEN_PIPE = 141
"""What a shell gives for a process that nobody listens to any more: 128 + SIGPIPE."""

# Click's own base of all errors of usage, wherever this version of typer keeps Click.
_ClickError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"paystorm {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Screens payment event streams for fraud, on Apache Storm or on one machine alone."""


def build(wanted: str | None) -> typer.Typer:
    """The application with one command, or with all where it is not known which is meant.

    A command's module is imported only where it is needed: polars, DuckDB and the project's own code take their time.
    """
    app = typer.Typer(
        name="paystorm",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        module = f"paystorm.cli.{COMMANDS[name]}"
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module).register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    # Closed by whoever started us.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  for as long as the process lives
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    stdout, stderr = sys.stdout, sys.stderr
    try:
        _check_text(args)
        app = build(next((a for a in args if not a.startswith("-")), None))
        code = app(args, standalone_mode=False, prog_name="paystorm")
        sys.stdout.flush()
    except PaystormError as error:
        complain(str(error))
        return error.exit_code
    except _ClickError as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        complain("stopped")
        return INTERRUPTED
    except BrokenPipeError:
        return _unheard()
    except SystemExit:
        if sys.stdout is stdout:
            raise
        # Click takes a closed pipe for itself: it wraps the streams and ends with 1, which here means differences.
        sys.stdout, sys.stderr = stdout, stderr
        return _unheard()
    except OSError as error:
        complain(f"{error.filename or 'standard output'}: {error.strerror or error}: mend it, then try again")
        return PaystormError.exit_code
    return code if isinstance(code, int) else 0


def _check_text(args: Sequence[str]) -> None:
    """Refuse what is no text: it could neither be stored nor be a path of the warehouse's."""
    for argument in args:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(f"argument {argument!r}: not UTF-8") from None


def _unheard() -> int:
    """Nobody listens to standard output any more; else Python would complain of it when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE


def _usage(error: Exception) -> int:
    """An error of usage in one line."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        if message:  # else typer has printed the help already
            print(message)
        return PaystormError.exit_code
    command = context.command_path if context is not None else "paystorm"
    complain(f"{message.rstrip('.')}; see {command} --help")
    return PaystormError.exit_code
