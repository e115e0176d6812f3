"""The suite: one training loop, one run end to end, sweeps of runs, and the table of what there is.

`plugins`: names -> models, data sets, judges. `spec`: `TrainSpec`, `Evaluation`. `training`: `train`.
`run`: `run`, `train_run`, `score_run`, `score_images`.
`sampling`: `sample_run`. `sweep`: `run_sweep`. `describe`, `doctor`.
"""

__all__ = ["checkpoint", "describe", "doctor", "drawing", "environment", "plugins", "progress", "run", "spec",
           "sweep", "training"]
