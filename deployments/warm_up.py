"""What an installation prepares so that the first campaign starts as fast as later ones.

    python -m deployments.warm_up

Python compiles a module when it is first imported, and Prefect migrates a new database. Both are
done here, side by side. Only the modules that campaigns import are compiled: they are a fifth of
the installed ones.
"""

from __future__ import annotations

import os
import subprocess
import sys

from deployments.commands.run import STAGE_MODULES
from deployments.servers.prefect_database import make_template

FLOW_MODULES = ("flows.ablation", "flows.campaign", "mlflow.tracking", "ray")
"""Modules that the process of a campaign imports, beside those of its stages."""


def main() -> None:
    """Compile the modules of campaigns and migrate an empty Prefect database."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # for the two processes that follow
    modules = ", ".join([*STAGE_MODULES, *FLOW_MODULES])
    compiling = subprocess.Popen([sys.executable, "-c", f"import {modules}"])
    make_template()
    if compiling.wait():
        sys.exit("warm-up: an import failed; see above")


if __name__ == "__main__":
    main()
