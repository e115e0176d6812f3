"""What choosing among more candidates is worth: a judge's scores of the best of N = 1, 2, 8, 32, 128, 512.

    python benchmarks/best_of.py runs/dalle-tiny-scenes-s0-... --captions 200 --out best-of

The model's own CLIP chooses, the data's judge scores. The best of N is that of the first N candidates of a caption, so
that all N share one set of candidates. Leaves best-of.json and best-of.png in --out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot

from t2ibench.dalle.reranking import Reranks
from t2ibench.eval.harness import Drawn, evaluate
from t2ibench.eval.judges import refuse_own_choice
from t2ibench.eval.prompts import choose_prompts
from t2ibench.files import seed_of, write_json
from t2ibench.suite.progress import Bars
from t2ibench.suite.scoring import known, open_judges, taught_by
from t2ibench.suite.spec import Evaluation, parse_overrides
from t2ibench.suite.trained import load_model, reopen_run

NUMBERS = (1, 2, 8, 32, 128, 512)


def main() -> None:
    """Draw, choose, score, and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--captions", type=int, default=200, help="100 or more, R-precision needs them")
    parser.add_argument("--out", type=Path, default=Path("best-of"))
    parser.add_argument("--set", action="append", default=[], metavar="sampling.FIELD=VALUE")
    options = parser.parse_args()
    with Bars() as watch:
        run = reopen_run(options.run, watch)
        model, data = load_model(run, parse_overrides(options.set)), run.store("test", watch)
        training = taught_by(run.source, run.spec.image_size, watch)
        judges = open_judges(Evaluation.of(run.passed["data"]).judges, training, watch)
        assert isinstance(model, Reranks), "a model that ranks what it draws"
        refuse_own_choice(judges, {model.ranked_by()}, str(options.run))
        prompts = choose_prompts(data, options.captions, seed=0)
        chosen: dict[int, list[torch.Tensor]] = {number: [] for number in NUMBERS}
        for done, prompt in enumerate(prompts):
            seeds = [seed_of("noise", 0, prompt.caption, k) for k in range(max(NUMBERS))]
            images = torch.cat(list(model.candidates(prompt.caption, seeds)))
            scores = model.rank([prompt.caption] * len(images), images)
            for number, kept in chosen.items():
                kept.append(images[int(scores[:number].argmax())])
            watch("draw candidates", done + 1, len(prompts))
    rows: list[Row] = []
    for number, kept in chosen.items():
        captions = [prompt.caption for prompt in prompts]
        drawn = Drawn(images=torch.stack(kept), captions=captions, image_ids=[prompt.image_id for prompt in prompts],
                      references=[[caption] for caption in captions])  # fmt: skip
        found = evaluate(drawn, judges, known(data, watch))
        rows.append(Row(number, {score.name: (score.value, score.stderr) for score in found.scores}))
        print(number, "  ".join(f"{score.name} {score.value:.4g}" for score in found.scores), flush=True)
    write_json(options.out / "best-of.json", [{"n": row.n} | row.scores for row in rows])
    plot(rows, options.out / "best-of.png")


class Row(NamedTuple):
    """Scores, each with its standard error, of the best of `n`."""

    n: int
    scores: dict[str, tuple[float, float | None]]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw each score that has an error against N."""
    names = [name for name in rows[0].scores if name.startswith(("r_precision", "clip_score"))]
    figure, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 3), layout="constrained")
    for axis, name in zip(np.atleast_1d(axes), names, strict=True):
        values, errors = zip(*(row.scores[name] for row in rows), strict=True)
        axis.errorbar([row.n for row in rows], values, yerr=errors, marker="o", capsize=3)
        axis.set_xscale("log", base=2)
        axis.set_xticks([row.n for row in rows], labels=[str(row.n) for row in rows])
        axis.set(xlabel="candidates that CLIP chose from", ylabel=name)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
