"""Which services get the figures of a training, beside its table and TensorBoard."""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QLabel, QVBoxLayout, QWidget

from napari_samseg.core.optional import is_installed
from napari_samseg.core.training.logs import LOGGERS

__all__ = ["LoggerChoice"]

# "&&" is one "&", and no shortcut
TITLES = {"wandb": "Weights && Biases", "mlflow": "MLflow"}
NEEDS = {
    "wandb": "Log in with 'wandb login' before.",
    "mlflow": "MLFLOW_TRACKING_URI says to where.",
}


class LoggerChoice(QWidget):
    """A box for each service; one whose library is not installed cannot be ticked."""

    def __init__(self) -> None:
        super().__init__()
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(2)
        title = QLabel("Figures also to")
        title.setToolTip("A table (log.csv) and TensorBoard always get them.")
        rows.addWidget(title)
        self.boxes: dict[str, QCheckBox] = {}
        for name in LOGGERS:
            box = QCheckBox(TITLES.get(name, name))
            has_library = is_installed(name)
            box.setEnabled(has_library)
            box.setToolTip(
                f"Send the figures of the training there. {NEEDS.get(name, '')}".strip()
                if has_library
                else f"Not installed: pip install {name}, and start napari again"
            )
            self.boxes[name] = box
            rows.addWidget(box)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of those that are ticked."""
        return tuple(name for name, box in self.boxes.items() if box.isChecked())
