"""The suite: one training loop, one run end to end, sweeps of runs, and the table of what there is.

`plugins`: names -> models, data sets, judges. `spec`: `TrainSpec`, `Evaluation`. `training`: `train`.
`run`: `run`, `score_run`. `sweep`: `run_sweep`. `describe`, `doctor`.
"""

__all__ = ["checkpoint", "describe", "doctor", "plugins", "run", "spec", "sweep", "training"]
