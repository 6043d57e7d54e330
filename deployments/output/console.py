"""What every command does alike: what is wrong with the input is one line, and with `--json`
stdout is one JSON object.
"""

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
"""Faults that no other input would mend."""


class BadInput(Exception):
    """Something the user gave cannot work; the message is the one line they see."""


def say(message: str) -> None:
    """One line on stderr. What a terminal would obey, in a name of somebody's, is shown, not
    obeyed; of a very long line its beginning.
    """
    print(f"erpd: {one_line(message)}", file=sys.stderr)


def prepare_for(asked: str | None) -> None:
    """Make the home ready to be asked about `asked`, a campaign or what one made. Raises BadInput
    where nothing was run in it: asking for something by name makes no home.
    """
    if asked is not None and not home().is_dir() and str(home()) in registry_url():
        raise BadInput(
            f"{asked}: not found, nothing was run in {home()} yet; set ERPD_HOME to where it was, "
            f"or begin: erpd run tiny"
        )
    prepare()


@contextmanager
def checking() -> Iterator[None]:
    """What is wrong with the input is said in one line, with exit code 2."""
    try:
        yield
    except (
        UnicodeEncodeError
    ) as error:  # bytes of the command line that are no text, which no name here has
        raise BadInput(f"{error.object[:80]!a} is not text; give it in UTF-8") from error
    except OverflowError as error:
        raise BadInput(f"a number is too large ({error}); give a smaller one") from error
    except (ValueError, LookupError) as error:
        raise BadInput(str(error.args[0] if error.args else error)) from error
    except OSError as error:
        if error.errno in MACHINE:
            raise
        raise BadInput(
            f"{error.filename or 'a file'}: {error.strerror or error}; check that it is there and "
            f"may be read or written"
        ) from error


@contextmanager
def only_json(wanted: bool) -> Iterator[Callable[[str], object]]:
    """Yield a printer. With `--json`, everything else that writes to stdout, children too, goes
    to stderr.
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
