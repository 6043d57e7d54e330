"""A run hashes its base model and its data only once, for any number of iterations."""

import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers import campaign_arguments, migrated, python

from tasks.models.import_policy import ASSETS

pytestmark = pytest.mark.slow

RUN = """
import os, sys
folder, log = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(event, args):
    if event == "open" and isinstance(args[0], str) and args[0].startswith(folder):
        os.write(log, (os.path.basename(args[0]) + chr(10)).encode())

sys.addaudithook(note)
sys.argv = ["erpd", *sys.argv[3:]]
from deployments.cli import main
main()
"""


@pytest.mark.long  # every event of the process is noted
def test_a_run_reads_the_model_to_hash_it_and_to_copy_it(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("in")
    model = Path(shutil.copytree(ASSETS / "tiny-base", folder / "model"))
    earlier = time.time() - 3600
    for path in model.iterdir():
        os.utime(path, (earlier, earlier))
    time.sleep(2.5)  # a digest is kept only of a file that has not changed for two seconds
    home = migrated(folder / "home")
    arguments = campaign_arguments(
        "iterations=1", f"model={{kind: directory, path: {model}}}", "evaluation.signal=false"
    )
    done = python(RUN, model, folder / "opened", *arguments, home=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "completed"
    opened = Counter((folder / "opened").read_text().split())
    assert opened["model.safetensors"] == 2, "once to hash it, once to copy it into the store"
