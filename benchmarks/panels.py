"""How well a model goes on with an image: lower panels drawn under given upper ones, read by `eval.panel_reader`.

    python benchmarks/panels.py runs/dalle-tiny-scenes-s0-... --out panels
    python benchmarks/panels.py runs/dalle-tiny-scenes-s0-... --split val --best-of 32 --set sampling.temperature=0.5
    python benchmarks/panels.py runs/dalle-tiny-scenes-s0-... --scenes 30000 --set sampling.temperature=0.3

For every two-panel scene of a split the upper half is given, and the caption says what is to be changed; of the
candidates of `--best-of` the model's CLIP chooses one, as it does for `sample`. Beside what the model has right stand
what the reader has right on the real images and on what their codes keep of them, what a copy of the upper object would
have right, and chance. Leaves grid.png in --out: upper row given and real, lower row drawn.

The world goes on beyond a split's 2,000 scenes: `--scenes` draws more of them, for a smaller standard error.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from t2ibench.baselines.interface import Completes
from t2ibench.dalle.image_prompt import ImagePrompt
from t2ibench.dalle.image_tokenizer import DrawsByCodes
from t2ibench.dalle.reranking import Reranks, best_of
from t2ibench.datasets.captioned import Batch
from t2ibench.datasets.scenes import COLOURS, DEFAULT_SIZES, SHAPES, SIZES, TEXTURES, WORLDS, Scenes
from t2ibench.eval.panel_reader import Read, read_lower_panels
from t2ibench.files import seed_of
from t2ibench.suite.drawing import save_grid
from t2ibench.suite.progress import Bars
from t2ibench.suite.spec import parse_overrides
from t2ibench.suite.trained import load_model, prepared, reopen_run

CHANCE = {"shape": 1 / len(SHAPES), "colour": 1 / len(COLOURS), "texture": 1 / len(TEXTURES), "size": 1 / len(SIZES)}
SHOWN = 16


def main() -> None:
    """Complete, read, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("panels"))
    parser.add_argument("--split", default="test", help="whose panels: test or val")
    parser.add_argument("--scenes", type=int, default=DEFAULT_SIZES["test"], help="of the split; one in ten has panels")
    parser.add_argument("--best-of", type=int, default=0, help="candidates to choose from; by default one is drawn")
    parser.add_argument("--set", action="append", default=[], metavar="sampling.FIELD=VALUE")
    options = parser.parse_args()
    with Bars() as watch:
        run = reopen_run(options.run, watch)
        assert run.source.name in WORLDS, "needs a run on scenes"
        model = load_model(run, parse_overrides(options.set))
        world = Scenes(sizes={options.split: options.scenes})
        data = prepared(world, options.split, run.spec.image_size, watch)
    assert isinstance(model, Completes) and isinstance(model, DrawsByCodes), "needs a model that goes on by codes"
    scenes = {index: data.scene(index) or {} for index in range(len(data))}
    at = [index for index, scene in scenes.items() if scene["kind"] == "panels"]
    batch, wanted = data.batch(at), [scenes[index] for index in at]
    if options.best_of:
        assert isinstance(model, Reranks), "a model that chooses"
        drawn = chosen(model, batch, run.spec.image_size // 2, options.best_of)
    else:
        seeds = [seed_of("panels", name) for name in batch.ids]
        drawn = model.complete(batch.captions, batch.images, run.spec.image_size // 2, seeds=seeds)
    tokenizer = model.image_tokenizer()
    coded = tokenizer.decode(tokenizer.encode(batch.images))
    reads = [read_lower_panels(images.numpy(), wanted) for images in (drawn, batch.images, coded)]
    changes = np.array([scene["change"] for scene in wanted])
    print(f"{len(at)} panels")
    print(f"{'asked':<18}{'of':>6}{'right':>9}{'real':>9}{'codes':>9}{'copied':>9}{'chance':>9}")
    for name in ("shape", "colour", "texture", "size"):
        line(name, (name,), reads, np.ones(len(at), bool))
    line("colour and shape", ("colour", "shape"), reads, np.ones(len(at), bool))
    for name in ("colour", "texture", "size"):
        line(f"{name}, changed", (name,), reads, changes == name)
    line("c. and s., changed", ("colour", "shape"), reads, changes == "colour")
    shown = torch.stack([batch.images[:SHOWN], drawn[:SHOWN]])
    save_grid(options.out / "grid.png", shown.flatten(0, 1).numpy(), columns=SHOWN)


def chosen(model: Reranks, batch: Batch, rows: int, candidates: int) -> torch.Tensor:
    """Return uint8 [N, 3, H, W]: for each image, whose upper `rows` are given, what the model itself likes best."""
    best = []
    for name, caption, image in zip(batch.ids, batch.captions, batch.images, strict=True):
        seeds = [seed_of("panels", name, number) for number in range(candidates)]
        best.append(best_of(model, caption, seeds, 1, given=ImagePrompt(image[None], rows)).images)
    return torch.cat(best)


def line(label: str, names: tuple[str, ...], reads: Sequence[Read], among: np.ndarray) -> None:
    """Print the shares of panels `among` all that have the attributes `names` right."""
    shares = (some[among].mean() for some in (*(read.right(*names) for read in reads), reads[0].copied(*names)))
    chance = np.prod([CHANCE[name] for name in names])
    print(f"{label:<18}{among.sum():>6}" + "".join(f"{share:>9.1%}" for share in (*shares, chance)))


if __name__ == "__main__":
    main()
