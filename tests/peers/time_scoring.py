"""How fast a folder is scored by Inception, beside torch-fidelity and clean-fid with the same weights and files.

    python tests/peers/time_scoring.py --images 500

Each reads two folders of PNG files, drawn and real scenes, resizes them as TensorFlow 1 did, has its Inception-v3 of
2015 look once at each image, and computes what it offers; nothing is kept from before. The weights are random, since
only speed and agreement are asked. clean-fid cannot load a state dict: it is given torch-fidelity's network, and its
parts are put together so that it looks once for both its scores. Runs in the environment of `make peers` with

    pip install --no-deps torch-fidelity==0.4.0 clean-fid==0.1.35
    pip install requests
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision_operators  # noqa: F401  (before whatever imports torchvision)
from PIL import Image
from random_inception import lively_inception

import torch_fidelity  # isort: skip
from cleanfid import fid as cleanfid  # isort: skip

from t2ibench.datasets.imagefolder import open_source
from t2ibench.datasets.scenes import Scenes
from t2ibench.datasets.store import prepare
from t2ibench.eval.harness import Drawn, evaluate
from t2ibench.eval.inception import InceptionJudge
from t2ibench.eval.reference import Reference, blocks_of, see

SIZE = 64
THEIR_BATCH = 64
"""torch-fidelity's own choice."""
Scores = dict[str, float]
Route = Callable[[Path, Path, Path], Scores]
"""Scores a folder of drawn images, beside a folder of real ones, by the weights in a file."""


def main() -> None:
    """Let all three score the same folders in turn, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {options.images} images a side of {SIZE}")
    with tempfile.TemporaryDirectory() as folder:
        drawn, real = (write(Path(folder) / split, split, options.images) for split in ("test", "val"))
        weights = Path(folder) / "random.pth"
        torch.save(lively_inception().state_dict(), weights)
        routes: dict[str, Route] = {
            "t2ibench": ours, "torch-fidelity": by_torch_fidelity, "clean-fid": by_clean_fid}  # fmt: skip
        took: dict[str, list[np.ndarray]] = {name: [] for name in routes}
        for _ in range(options.rounds):
            for name, route in routes.items():
                begun, computed = time.perf_counter(), time.process_time()
                scores = route(drawn, real, weights)
                took[name].append(np.array([time.perf_counter() - begun, time.process_time() - computed]))
                print(f"{name:<16}{took[name][-1][0]:>8.1f} s{took[name][-1][1]:>8.1f} s of CPU  ",
                      ", ".join(f"{metric} {value:.5g}" for metric, value in scores.items()), flush=True)  # fmt: skip
    least = {name: np.min(times, axis=0) for name, times in took.items()}
    for name, seconds in least.items():
        clock, own = seconds / least["t2ibench"]
        print(f"{name:<16}{clock:>8.2f} times ours, {own:.2f} of CPU")


def write(folder: Path, split: str, images: int) -> Path:
    """Write scenes with their captions as a folder of PNG files."""
    folder.mkdir()
    batch = prepare(Scenes(sizes={split: images}), split, SIZE).batch(np.arange(images))
    for number, (pixels, caption) in enumerate(zip(batch.images, batch.captions, strict=True)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number:05}.png")
        (folder / f"{number:05}.txt").write_text(caption, encoding="utf-8")
    return folder


def ours(drawn: Path, real: Path, weights: Path) -> Scores:
    """Return all that this judge serves: IS, FID, KID, precision, recall, density, coverage."""
    judge, scored, others = InceptionJudge(weights), decoded(drawn), decoded(real)
    true = see(judge, blocks_of(others.images, others.captions, others.image_ids))
    known = Reference(about={}, moments=true.moments, seen=true)
    return {score.metric: score.value for score in evaluate(scored, [judge], lambda _: known).scores}


def decoded(folder: Path) -> Drawn:
    """Return the captioned images of a folder."""
    files = open_source(folder)
    chunks = [chunk for split in files.splits for chunk in files.chunks(split, SIZE)]
    captions = [own for chunk in chunks for own in chunk.captions]
    firsts = [own[0] for own in captions]
    return Drawn(images=torch.from_numpy(np.concatenate([chunk.images for chunk in chunks])), captions=firsts,
                 image_ids=firsts, references=captions)  # fmt: skip


def by_torch_fidelity(drawn: Path, real: Path, weights: Path) -> Scores:
    """Return IS, FID, KID, precision and recall."""
    images = len(list(real.glob("*.png")))
    found = torch_fidelity.calculate_metrics(
        input1=str(drawn), input2=str(real), feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights), isc=True, fid=True, kid=True,
        prc=True, kid_subset_size=min(1000, images), batch_size=THEIR_BATCH, cuda=False, cache=False, verbose=False,
    )  # fmt: skip
    return {name: float(value) for name, value in found.items() if not name.endswith("std")}


def by_clean_fid(drawn: Path, real: Path, weights: Path) -> Scores:
    """Return FID and KID."""
    network = torch_fidelity.FeatureExtractorInceptionV3("inception", ["2048"], str(weights)).eval()

    @torch.no_grad()
    def look(batch: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = network(batch.to(torch.uint8))[0]
        return features

    fake, true = (cleanfid.get_folder_features(
        str(folder), look, num_workers=0, batch_size=THEIR_BATCH, device=torch.device("cpu"), mode="legacy_tensorflow",
        verbose=False,
    ) for folder in (drawn, real))  # fmt: skip
    moments = [part for rows in (fake, true) for part in (rows.mean(axis=0), np.cov(rows, rowvar=False))]
    return {"fid": float(cleanfid.frechet_distance(*moments)), "kid": float(cleanfid.kernel_distance(true, fake))}


if __name__ == "__main__":
    main()
