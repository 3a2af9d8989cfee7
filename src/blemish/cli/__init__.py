"""The command line: one file a verb, imported when it is typed.

Exit codes: 0 done · 1 a part was rejected, with --fail-on-reject · 2 usage · 3 data · 4 model file ·
70 an error of ours · 130 interrupted · 141 nobody reads the output any more.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from blemish.errors import BlemishError, UsageError

__all__ = ["VERBS", "command", "main"]

VERBS = {
    "demo": "See it work: draw a small data set, fit, inspect, evaluate and report. Offline, minutes.",
    "fit": "Learn from good images what a good part looks like.",
    "inspect": "Judge pictures: one record a picture.",
    "eval": "Measure a model on test images.",
    "bench": "Compare methods, presets and seeds on data sets.",
    "synth": "Look at synthetic defects, painted on good images.",
    "split": "Make a long-tailed list of several classes, or find a published one's images.",
    "info": "Say what is in a model file.",
    "methods": "List the methods, or tell one's options and presets.",
}
OURS, INTERRUPTED, BROKEN_PIPE = 70, 130, 141


def main() -> NoReturn:
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115  (for those that were closed, as long as we run)
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that is no Unicode must not stop the work
            stream.reconfigure(errors="backslashreplace")
    try:
        status = run([argument for argument in arguments if argument != "--debug"])
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = fail("Interrupted", INTERRUPTED, debug)
    except BrokenPipeError:
        status = BROKEN_PIPE
    except BlemishError as error:
        status = fail(f"Error: {error}", error.exit_code, debug)
    except OSError as error:
        place = error.filename or "Standard output"
        told = f"Error: {place} cannot be used ({error.strerror}): check that it may be, and has room."
        status = fail(told, UsageError.exit_code, debug)
    except Exception as error:
        told = " ".join(f"Error: something unforeseen happened ({type(error).__name__}: {error})".split())
        status = fail(f"{told}: run it again with --debug, and report what it prints.", OURS, debug)
    try:
        sys.stdout.flush()
    except OSError:  # Python will flush once more, and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def fail(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    return status


def run(arguments: Sequence[str]) -> int:
    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        raise UsageError(f"There is no command {verb!r}: choose among {', '.join(VERBS)}.")
    try:
        with command(verb, arguments).make_context("blemish", list(arguments) or ["--help"]) as context:
            context.command.invoke(context)
    except typer.Exit as done:
        return done.exit_code if arguments else UsageError.exit_code
    except Exception as error:
        if hasattr(error, "format_message"):  # one of typer's, whose class has moved between its versions
            raise UsageError(usage(error)) from error
        raise
    return 0


def usage(error: Any) -> str:
    context, option = getattr(error, "ctx", None), getattr(error, "option_name", None)
    if context is None:
        return str(error.format_message())
    if option is not None and hasattr(error, "possibilities"):
        known = [name for parameter in context.command.params for name in parameter.opts if "--" in name]
        return f"{context.command_path} has no option {option}: it has {', '.join(known)}."
    message = error.format_message().rstrip(".").replace("\n", " ")
    return f"{message}: see {context.command_path} --help."


def command(verb: str | None, arguments: Sequence[str] = ()) -> Any:
    """The whole command line as typer's, of which only `verb` is more than its line in the help."""
    app = typer.Typer(
        help="Find what is wrong in pictures of things that should all look alike.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        no_args_is_help=True,
    )
    app.callback()(root)
    for name, told in VERBS.items():
        app.command(name, short_help=told)(load(name, arguments) if name == verb else root)
    return get_command(app)


def load(verb: str, arguments: Sequence[str]) -> Any:
    module = import_module(f"blemish.cli.{verb}")
    return module.command(arguments) if hasattr(module, "command") else getattr(module, verb)


def show_version(wanted: bool) -> None:
    if wanted:
        import blemish

        print(f"blemish {blemish.__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="With any command: show where an error came from.")
    ] = False,
) -> None:
    del version, debug  # the one acts by its callback, the other is taken out in main()
