"""Studies that have run, kept next to their reports so that a report can be written again."""

from __future__ import annotations

from glob import escape
from pathlib import Path

from flows.recipes.studies import Study
from tasks.host.atomic_files import write_atomically
from tasks.host.home import home
from tasks.untrusted.paths import path_inside

FILE = "study.json"


def remember(name: str, study: Study) -> None:
    """Save a study under its id."""
    write_atomically(
        _reports() / name / FILE, lambda path: path.write_text(study.model_dump_json(indent=1))
    )


def remembered(name: str) -> tuple[str, Study] | None:
    """The id of a study and the study itself; None if it never ran here.

    **Arguments:**
        name: The study's id, or the name of its recipe (the latest study of that name is taken).
    """
    try:
        exact = path_inside(_reports(), name, "study") / FILE
    except ValueError:  # cannot be the name of a study
        return None
    if exact.is_file():
        return name, _read(exact)
    files = sorted(
        _reports().glob(f"{escape(name)}-*/{FILE}"),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    return next(
        ((path.parent.name, study) for path in files if (study := _read(path)).name == name), None
    )


def _reports() -> Path:
    return home() / "reports"


def _read(path: Path) -> Study:
    return Study.model_validate_json(path.read_text())
