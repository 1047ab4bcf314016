"""A box for numbers of any size: 0.00002 as well as 100."""

from __future__ import annotations

import math

from qtpy.QtGui import QValidator
from qtpy.QtWidgets import QDoubleSpinBox

__all__ = ["NumberBox"]

# Qt rounds to so many places, two unless told: a small rate would become 0. With these,
# a number of 1e-13 or more stays what it is.
DECIMALS = 30
# One step from zero.
FIRST_STEP = 0.01


class NumberBox(QDoubleSpinBox):
    """Shows and takes numbers as Python writes them, such as 2e-05.

    A comma is taken for a point.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setDecimals(DECIMALS)

    def textFromValue(self, value: float) -> str:
        """Return the shortest text that is read back as the same number."""
        return repr(value).removesuffix(".0")

    def valueFromText(self, text: str) -> float:
        """Read a number."""
        return float(self._number(text))

    def validate(self, text: str, position: int) -> tuple[QValidator.State, str, int]:
        """Tell whether a text is a number, or may become one."""
        number = self._number(text)
        try:
            value = float(number)
        except ValueError:
            state = QValidator.State.Invalid
            if not set(number.lower()) - set("0123456789.+-e"):
                state = QValidator.State.Intermediate
            return state, text, position
        is_within = self.minimum() <= value <= self.maximum()
        state = QValidator.State.Acceptable
        return (state if is_within else QValidator.State.Intermediate), text, position

    def stepBy(self, steps: int) -> None:
        """Change the second digit."""
        size = abs(self.value())
        step = 10 ** (math.floor(math.log10(size)) - 1) if size else FIRST_STEP
        # without what binary fractions add at the end, which would be shown
        self.setValue(float(f"{self.value() + steps * step:.12g}"))

    def _number(self, text: str) -> str:
        return text.removesuffix(self.suffix()).strip().replace(",", ".")
