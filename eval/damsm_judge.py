"""The judge `damsm`: R-precision as AttnGAN's authors measured it, by a DAMSM taught on the data at hand.

Xu et al. 2018, arXiv:1711.10485, sections 3.2 and 4: the sentence's and the image's embedding, by their cosine. Small,
taught on the train split when it is first asked for, and kept; a network of its own, never the one that taught a
generator. Other than in `baselines/damsm.py`, the learning rate rises and falls over the steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..baselines.damsm import DAMSM, DAMSMConfig
from ..baselines.interface import from_uint8
from ..baselines.reading import MatchingStage
from ..datasets.captioned import CaptionedDataset
from ..datasets.tokenizers import WordTokenizer
from ..files import digest_of_file
from .alignment import RPrecision
from .judges import Look, Training
from .resize import bicubic
from .taught import UNREADABLE, drawn_batches, foreign, load_taught, notes_of, save_taught, side_for, taught

CONFIG = DAMSMConfig(
    vocabulary=4000, words=24, word_dim=64, text_dim=128, dropout=0.1, batch_size=48, image_width=32, regions=4
)
IMAGES = 36_000
"""Images it learns from, over several epochs."""
WARM_UP = 0.05
"""Part of the steps in which the learning rate rises."""
CANDIDATES = 100
"""Captions among which a held-out image's own is looked for."""
RECIPE = 1
"""Raised when the network or its training changes."""
CAVEAT = (
    "judge damsm: R-precision by a DAMSM is inflated for models that a DAMSM taught, which are attngan and any with "
    "text_encoder.kind = damsm; compare those with others by another judge"
)


class DAMSMJudge:
    """A taught DAMSM with its vocabulary, frozen."""

    name = "damsm"
    caveat = CAVEAT
    BATCH = 256

    def __init__(self, path: Path) -> None:
        try:
            notes = notes_of(path)
            self.side: int = notes["side"]
            self.damsm = DAMSM(CONFIG, self.side)
            self.damsm.encoder.tokenizers["words"] = WordTokenizer(notes["words"], CONFIG.words)
            load_taught(path, networks_of(self.damsm))
            self.held_out: Mapping[str, float] = notes["held_out"]
            self.id = f"damsm-r{RECIPE}:{digest_of_file(path)[:12]}:bicubic-antialias-{self.side}"
        except UNREADABLE as error:
            raise foreign(path, error) from error
        self.device = next(self.damsm.encoder.parameters()).device

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> Look:
        """Return features and embeddings [N, 128] of images uint8 [N, 3, H, W]."""
        parts = [resized(some.to(self.device), self.side) for some in torch.split(images, self.BATCH)]
        features = torch.cat([self.damsm.image_encoder(from_uint8(some)).image for some in parts]).cpu()
        return Look(features=features, embeddings=F.normalize(features, dim=1))

    @torch.no_grad()
    def caption_embeddings(self, captions: Sequence[str]) -> torch.Tensor:
        """Return float32 [N, 128] of unit length: what sentences are read as."""
        blocks = [captions[start : start + self.BATCH] for start in range(0, len(captions), self.BATCH)]
        return F.normalize(torch.cat([self.damsm.encoder.encode(block).sentence for block in blocks]), dim=1).cpu()


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return images uint8 [N, 3, H, W] as uint8 [N, 3, side, side]."""
    return bicubic(images, side, side).round().to(torch.uint8)


def networks_of(damsm: DAMSM) -> torch.nn.ModuleDict:
    """Return the networks that are kept."""
    return torch.nn.ModuleDict({"text": damsm.encoder, "image": damsm.image_encoder})


def open_judge(training: Training) -> DAMSMJudge:
    """Return the DAMSM of the data at hand, taught on its train split unless that was done before."""
    return DAMSMJudge(taught(training, "damsm", RECIPE, IMAGES, save_damsm))


def save_damsm(
    path: Path,
    train: CaptionedDataset,
    held_out: CaptionedDataset | None,
    *,
    images: int,
    progress: Callable[[int, int], None],
) -> None:
    """Teach a DAMSM on `train` for `images` images and write it with its held-out R-precision."""
    torch.manual_seed(0)
    damsm = DAMSM(CONFIG, side_for(train))
    damsm.encoder.learn_vocabulary(train)
    _fit(damsm, train, images, progress)
    words = damsm.encoder.tokenizers["words"].to_json()["words"]

    def trial(written: Path) -> Mapping[str, Any]:
        return {} if held_out is None else {"held_out": held_out_precision(DAMSMJudge(written), held_out)}

    save_taught(path, networks_of(damsm), {"words": words, "side": side_for(train), "held_out": {}}, trial)


def _fit(damsm: DAMSM, train: CaptionedDataset, images: int, progress: Callable[[int, int], None]) -> None:
    size, side = CONFIG.batch_size, side_for(train)
    steps = max(1, images // size)
    stage = MatchingStage(damsm, share=1.0, mismatch="image")
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        stage.optimiser, CONFIG.learning_rate, steps, pct_start=WARM_UP, cycle_momentum=False
    )
    device = next(damsm.encoder.parameters()).device
    for step, batch in enumerate(drawn_batches(train, size, steps, device)):
        stage.train_step(replace(batch, images=resized(batch.images, side)))
        schedule.step()
        progress((step + 1) * size, steps * size)


def held_out_precision(judge: DAMSMJudge, data: CaptionedDataset) -> dict[str, float]:
    """Return how often a real image it never saw is nearest to its own first caption among 100; empty if too few."""
    described = [index for index in range(len(data)) if data.captions(index)]
    batch = data.batch(np.array(described, np.int64))
    if len(set(batch.captions)) < CANDIDATES:
        return {}
    found = RPrecision(CANDIDATES)
    embeddings = judge.look(batch.images).embeddings
    assert embeddings is not None
    found.update(embeddings, judge.caption_embeddings(batch.captions), batch.captions)
    return {"caption_of_100": float(found.compute().value)}
