"""One run, end to end: data -> training -> drawn images -> judges -> scores -> the record.

Each step is kept under a key that contains the one before it, so the same command again goes on where it
was cut off, or finds that there is nothing to do.
"""

from pathlib import Path
from typing import NamedTuple

from ..reports.records import Record
from .scoring import open_evaluation, score_run
from .spec import Evaluation
from .trained import Request, open_run, train_run
from .training import Watch, silent

__all__ = ["Finished", "Request", "run"]


class Finished(NamedTuple):
    """A run that was trained and scored."""

    folder: Path
    record: Record


def run(request: Request, evaluation: Evaluation | None = None, watch: Watch = silent) -> Finished:
    """Train, draw and score; return the run's folder and the record that lies in it as `record.json`.

    What the evaluation needs is looked for before the training, so that a mistake costs no training.
    """
    opened = open_run(request, watch)
    panel = open_evaluation(opened, evaluation or Evaluation.of(request.data), watch)
    train_run(opened, watch)
    return Finished(opened.folder, score_run(opened, panel, watch))
