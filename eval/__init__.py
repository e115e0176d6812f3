"""The eval harness: judges look at images, their features become statistics, statistics become scores.

`judges`: `Judge`, `Look`, `open_judge`. `frechet`, `inception_score`, `alignment`: the metrics.
`metric`: what they share. `harness`: `choose_prompts`, `evaluate`. Judges: `joint_judge` (scenes, in-domain),
`inception`, `clip_judge`, `efficientnet`; `weights` and `resize` serve them.
"""

__all__ = ["alignment", "clip_judge", "efficientnet", "frechet", "harness", "inception", "inception_score",
           "joint_judge", "judges", "metric", "resize", "weights"]
