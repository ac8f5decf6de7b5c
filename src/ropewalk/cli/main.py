"""The command line: its commands and exit codes.

    0    done                        2    a user's mistake, one line on stderr (of a recipe, a line each)
    1    a defect, with a traceback;  3    a limit of a recipe was missed
         `verify`: a mismatch
                                     130  Ctrl-C; a search or a recipe says how to resume

Only this package reads the command line. Its modules import other packages inside their functions, except
settings classes, so that `ropewalk --help` loads no torch.
"""

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from ropewalk import __version__
from ropewalk.cli import demo, evaluate, export, extend, factors, inspect, recipe, search, verify
from ropewalk.cli.output import INTERRUPTED_CODE, complain, say
from ropewalk.cli.streams import steady_streams
from ropewalk.errors import RopewalkError

USAGE_CODE = 2
# What a disk, a path or its permissions can do to a run: no defects.
DISK_ERRORS = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
        errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EIO,
    }
)  # fmt: skip
# The base class of everything that typer raises about the command line itself, whichever click it has.
UsageError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="ropewalk",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,  # brackets in help and in errors are the user's, not markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("demo")(demo.demo)
app.command("inspect")(inspect.inspect)
app.command("search")(search.search)
app.command("extend")(extend.extend)
app.command("verify")(verify.verify)
app.add_typer(recipe.app, name="recipe")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(factors.app, name="factors")
app.add_typer(export.app, name="export")


def _version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"ropewalk {__version__}")
        raise typer.Exit


@app.callback()
def ropewalk(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Extend a language model's context window with searched rescale factors, with or without training.

    \b
    Try it on the bundled model (a few minutes on two cores):
        ropewalk demo
    Extend a model of your own eight times, on text of your own:
        ropewalk search ./my-model --target-length 8x --text ./books --out runs/my-model
        ropewalk evaluate passkey ./my-model --factors runs/my-model/factors.json --lengths 4k,32k
    Run the whole method, with fine-tuning, from a recipe:
        ropewalk extend scale-model-quick
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    with steady_streams():
        return _run(sys.argv[1:] if arguments is None else list(arguments))


def _run(arguments: list[str]) -> int:
    _quiet_libraries()
    try:
        code = app(arguments, prog_name="ropewalk", standalone_mode=False, obj=arguments)
        sys.stdout.flush()
    except RopewalkError as error:
        return _fail(*getattr(error, "lines", [str(error)]))
    except UsageError as error:
        return _fail(_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED_CODE
    except typer.Exit as ended:  # as the last of the output is written
        return ended.exit_code
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        return _fail(f"{error.filename or 'The output'}: {error.strerror}; nothing was half-written.")
    return code if isinstance(code, int) else 0


def _fail(*messages: str) -> int:
    for message in messages:
        complain(message)
    return USAGE_CODE


def _usage(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    message = str(getattr(error, "format_message", error.__str__)())
    command = context.command_path if context else "ropewalk"
    return f"{message}{'' if message.endswith(('.', '?')) else '.'} See `{command} --help`."


def _quiet_libraries() -> None:
    """Keep stderr for messages of this program: libraries write progress bars and advice there."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning, module=r"ropewalk(\.|$)")
    warnings.showwarning = lambda message, *_: say(f"warning: {' '.join(str(message).split())}")
