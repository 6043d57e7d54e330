"""Faults: invalid numbers that end a run, reported in one line with a remedy (docs/faults.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Fault(ArithmeticError):
    """Numbers with which a run cannot continue. A retry does not help: it gives the same numbers.

    **Arguments:**
        what: What is wrong.
        remedy: What the user can change.
        where: Where it happened, such as "step 12"; empty if not known yet.

    **Example:** `str(Fault("grad_norm is nan", "lower the learning rate", "step 12").within(
    "teacher training"))` is `"teacher training, step 12: grad_norm is nan; lower the learning
    rate"`.
    """

    def __init__(self, what: str, remedy: str, where: str = "") -> None:
        # pickling between processes needs every argument in `args`
        super().__init__(what, remedy, where)
        self.what, self.remedy, self.where = what, remedy, where

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.what}; {self.remedy}"
            if self.where
            else f"{self.what}; {self.remedy}"
        )

    def within(self, place: str) -> Fault:
        """The same fault with `place` put before its location."""
        return Fault(self.what, self.remedy, f"{place}, {self.where}" if self.where else place)


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Add `place` to the location of every Fault raised inside the block."""
    try:
        yield
    except Fault as fault:
        raise fault.within(place) from None
