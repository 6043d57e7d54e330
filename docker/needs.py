"""Prints the dependencies of pyproject.toml and of the extras named on the command line."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
print(
    *project["dependencies"],
    *(need for extra in sys.argv[1:] for need in project["optional-dependencies"][extra]),
    sep="\n",
)
