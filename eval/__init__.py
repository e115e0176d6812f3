"""The eval harness: judges look at images, their features become statistics, statistics become scores.

`judges`: `Judge`, `Reader`, `Look`. `prompts`: which captions are drawn. `reference`: real images as judges see them.
`panel`: every metric a judge can serve. `harness`: `evaluate`, with its controls. `probes`: capabilities by category.
Metrics: `frechet`, `kernel_distance`, `inception_score`, `neighbours`, `alignment`, `diversity`, `caption_scores`.
Judges: `joint_judge` (scenes, in-domain), `damsm_judge`, `inception`, `clip_judge`, `dinov2`, `efficientnet`.
Readers: `scene_reader`, `captioner`, `panel_reader`. `reconstruction`: what image tokenizers keep.
"""

__all__ = ["alignment", "caption_scores", "captioner", "clip_judge", "damsm_judge", "dinov2", "diversity",
           "efficientnet", "frechet", "harness", "inception", "inception_score", "joint_judge", "judges",
           "kernel_distance", "metric", "neighbours", "panel", "panel_reader", "probes", "prompts", "reconstruction",
           "reference", "resize", "scene_reader", "weights"]
