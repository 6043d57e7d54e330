"""Conventions shared by all commands: one-line input errors, and one JSON object with `--json`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from tasks.host.home import home, prepare
from tasks.host.services import registry_url
from tasks.untrusted.display_text import one_line

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print exactly one JSON object on stdout; everything else goes to stderr."
    ),
]


MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)
"""Errors of the machine, not of the input: no other input would fix them."""


class BadInput(Exception):
    """Invalid input. The message is the one line that the user sees."""


def say(message: str) -> None:
    """Print one line on stderr.

    Control sequences in names are printed as text, so that no terminal obeys them. Very long lines
    are cut.
    """
    print(f"erpd: {one_line(message)}", file=sys.stderr)


def prepare_for(asked: str | None) -> None:
    """Prepare ERPD_HOME for a query about `asked`, a campaign or an artifact (None: no name).

    **Raises:** BadInput if ERPD_HOME does not exist: a query by name must not create one.
    """
    if asked is not None and not home().is_dir() and str(home()) in registry_url():
        raise BadInput(
            f"{asked}: not found, nothing was run in {home()} yet; set ERPD_HOME to its "
            f"folder, or start: erpd run tiny"
        )
    prepare()


@contextmanager
def checking() -> Iterator[None]:
    """Context manager that turns an error of the input into BadInput: one line, exit code 2."""
    try:
        yield
    except UnicodeEncodeError as error:  # the command line has bytes that are not UTF-8
        raise BadInput(f"{error.object[:80]!a} is not text; give it in UTF-8") from error
    except OverflowError as error:
        raise BadInput(f"a number is too large ({error}); give a smaller one") from error
    except (ValueError, LookupError) as error:
        raise BadInput(str(error.args[0] if error.args else error)) from error
    except OSError as error:
        if error.errno in MACHINE:
            raise
        raise BadInput(
            f"{error.filename or 'a file'}: {error.strerror or error}; check that it exists and "
            f"that you may read or write it"
        ) from error


@contextmanager
def only_json(wanted: bool) -> Iterator[Callable[[str], object]]:
    """Context manager that yields a print function.

    With `--json`, everything else written to stdout goes to stderr, child processes included.
    """
    if not wanted:
        yield print
        return
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield lambda text: os.write(real, (text + "\n").encode())
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)
