"""An actor for tests of gangs.

It has its own file so that its process does not import torch or a test.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


class Member:
    """An actor that returns its number; `does` makes one of them fail or die instead."""

    def __init__(self, number: int, does: str, folder: Path) -> None:
        self.number, self.does, self.folder = number, does, folder

    def work(self) -> int:
        with (self.folder / "calls").open("a") as file:
            file.write(f"{self.number}\n")
        if self.number == 1 and self.does == "raise":
            raise ValueError("1: no tokenizer")
        if self.number == 1 and self.does == "die":
            os._exit(9)
        if self.number == 1 and self.does == "die once" and not (self.folder / "died").exists():
            # Wait until the other has begun, so that both begin twice.
            while "0" not in (self.folder / "calls").read_text():
                time.sleep(0.02)
            (self.folder / "died").touch()
            os._exit(9)
        if self.number == 0 and self.does in ("raise", "die"):
            time.sleep(600)  # like a worker that waits in a collective for another one
        return self.number
