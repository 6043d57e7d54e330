"""Numbers that a training cannot go on with, said in one line: what, where, how to mend it
(docs/faults.md has every one).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Fault(ArithmeticError):
    """What is wrong is in the numbers, so that doing it again would not help.

    Example: `str(Fault("grad_norm is nan", "lower the learning rate", "step 12").within("teacher
    training"))` is `"teacher training, step 12: grad_norm is nan; lower the learning rate"`
    """

    def __init__(self, what: str, mend: str, where: str = "") -> None:
        # all of them, so that it can be handed from process to process
        super().__init__(what, mend, where)
        self.what, self.mend, self.where = what, mend, where

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.what}; {self.mend}" if self.where else f"{self.what}; {self.mend}"
        )

    def within(self, place: str) -> Fault:
        """The same fault, of a part of `place`."""
        return Fault(self.what, self.mend, f"{place}, {self.where}" if self.where else place)


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Faults that come up in here say that they are of `place`."""
    try:
        yield
    except Fault as fault:
        raise fault.within(place) from None
