"""Print what pyproject.toml lists as needed, and what the extras named on the command line add:
packages without the code.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
print(
    *project["dependencies"],
    *(need for extra in sys.argv[1:] for need in project["optional-dependencies"][extra]),
    sep="\n",
)
