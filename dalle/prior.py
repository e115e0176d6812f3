"""The stage that teaches the transformer: captions and the codes of their images, each image encoded once.

Ramesh et al. 2021 (arXiv:2102.12092), section 2.3 and appendix B. Images are not cropped at random, as they are there,
so that their codes can be kept. The caption is left out now and then where the samples are to be guided (Ho and
Salimans 2022, arXiv:2207.12598); the authors did not.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from ..baselines.interface import check_adam_betas, optimiser_step
from ..datasets.bpe import BPETokenizer
from ..datasets.captioned import Batch, CaptionedDataset
from ..errors import UserError
from .image_tokenizer import CodebookUse, GridTokenizer
from .schedule import warmed_up
from .transformer import Transformer
from .weight_decay import decay_linear_layers

ENCODED_AT_ONCE = 512
VALIDATION_IMAGES = 512
VALIDATED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """How the transformer is taught; the defaults are the published ones."""

    share: float = 0.6
    """Part of the training budget that goes to the transformer."""
    batch_size: int = 1024
    """Captioned images in a step."""
    text_weight: float = 1 / 8
    """Of the text's cross-entropy; the image's has the rest. With 0 captions are not learnt to be read."""
    caption_dropout: float = 0.0
    """Part of the captions that are left out, so that the model without captions, which guidance needs, is learnt."""
    bpe_dropout: float = 0.1
    """Part of the merges of pieces that are passed over."""
    learning_rate: float = 4.5e-4
    """Of AdamW, after the warm-up."""
    warm_up: float = 5 / 430
    """Share of the steps in which the rate rises."""
    last_rate: float = 1 / 32
    """What is left of the rate at the end; as published after five halvings."""
    adam_betas: tuple[float, float] = (0.9, 0.96)
    """Moments of AdamW."""
    weight_decay: float = 4.5e-2
    """Of the matrices; not of embeddings, gains and biases."""
    clip_norm: float = 4.0
    """Greatest norm of the gradient."""
    ema_kimg: float = 1766.0
    """Half-life of the weights' average in thousands of images: 0.99 every 25 steps of 1,024, as published."""

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        for name in ("text_weight", "caption_dropout", "bpe_dropout", "warm_up"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"prior.{name}={getattr(self, name):g}: expected from 0 to below 1")
        if self.batch_size < 1 or not 0 < self.share < 1:
            raise UserError(
                f"prior: batch_size={self.batch_size}, share={self.share:g}: expected 1 or more, and between 0 and 1"
            )
        check_adam_betas("prior.adam_betas", self.adam_betas)
        if min(self.learning_rate, self.last_rate, self.weight_decay, self.ema_kimg) < 0:
            raise UserError("prior: expected learning_rate, last_rate, weight_decay and ema_kimg of 0 or more")
        if self.clip_norm <= 0:
            raise UserError(f"prior.clip_norm={self.clip_norm:g}: expected above 0, the gradient is scaled down to it")


class PriorStage:
    """Teach the transformer to go on with pieces of captions and with the codes of images."""

    name = "prior"
    draws = True
    total_steps = 1

    def __init__(
        self, config: PriorConfig, transformer: Transformer, tokenizer: GridTokenizer, pieces: BPETokenizer,
        data: CaptionedDataset,
    ) -> None:  # fmt: skip
        self.config, self.transformer, self.tokenizer, self.pieces = config, transformer, tokenizer, pieces
        self.share, self.batch_size, self.ema_kimg = config.share, config.batch_size, config.ema_kimg
        self.averaged: Mapping[str, nn.Module] = {"transformer": transformer} if config.ema_kimg else {}
        groups = decay_linear_layers(transformer, config.weight_decay)
        self.optimiser = torch.optim.AdamW(groups, 0.0, config.adam_betas, fused=True)
        self.data, self.steps = data, 0

    @cached_property
    def codes(self) -> "Codes":
        """Return the codes of all training images; warn of a codebook that collapsed, before hours are spent on it."""
        codes = Codes(self.tokenizer, self.data)
        use = CodebookUse(self.tokenizer)
        use.add(codes.codes)
        for line in use.collapses():
            logging.getLogger(__name__).warning(line)
        return codes

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Take one step."""
        config = self.config
        rate = warmed_up((self.steps + 1) / self.total_steps, config.warm_up, config.learning_rate,
                         config.last_rate * config.learning_rate)  # fmt: skip
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.transformer.train()
        text = self.read(batch.captions)
        losses = self.transformer.losses(text, self.codes(batch).to(text.device))
        total = config.text_weight * losses.text + (1 - config.text_weight) * losses.image
        optimiser_step(self.optimiser, total, clip_norm=config.clip_norm)
        self.steps += 1
        return {"text": losses.text.detach(), "image": losses.image.detach()}

    def read(self, captions: list[str]) -> torch.Tensor:
        """Return the pieces of captions, cut at random and some left out."""
        config = self.config
        seed = int(torch.randint(2**62, (), device="cpu")) if config.bpe_dropout else None
        text = self.pieces(captions, dropout=config.bpe_dropout, seed=seed)
        left_out = torch.rand(len(text), device="cpu") < config.caption_dropout
        return torch.where(left_out[:, None], self.pieces([""]), text).to(self.transformer.start_of_image.device)

    @torch.no_grad()
    def validate(self, data: CaptionedDataset) -> Mapping[str, float]:
        """Return the cross-entropies in nats a token on the first images of `data`, each with its first caption."""
        self.transformer.eval()
        text = image = 0.0
        told, count = 0, min(len(data), VALIDATION_IMAGES)
        for start in range(0, count, VALIDATED_AT_ONCE):
            batch = data.batch(np.arange(start, min(start + VALIDATED_AT_ONCE, count)))
            pieces = self.pieces(batch.captions).to(self.transformer.start_of_image.device)
            losses = self.transformer.losses(pieces, self.tokenizer.encode(batch.images))
            asked = int((pieces[:, 1:] != 0).sum())
            text, told = text + float(losses.text) * asked, told + asked
            image += float(losses.image) * len(batch)
        return {"text_validation": text / max(told, 1), "image_validation": image / count}

    def state_dict(self) -> dict[str, Any]:
        """Return the transformer, its optimiser and the steps taken."""
        return {"transformer": self.transformer.state_dict(), "optimiser": self.optimiser.state_dict(),
                "steps": self.steps}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.transformer.load_state_dict(state["transformer"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps = state["steps"]


class Codes:
    """The codes of every image of a data set, made once: batch -> int64 [N, M]."""

    def __init__(self, tokenizer: GridTokenizer, data: CaptionedDataset) -> None:
        parts, self.rows = [], dict[str, int]()
        for start in range(0, len(data), ENCODED_AT_ONCE):
            batch = data.batch(np.arange(start, min(start + ENCODED_AT_ONCE, len(data))))
            parts.append(tokenizer.encode(batch.images).to(torch.int32).cpu())
            self.rows |= {name: start + number for number, name in enumerate(batch.ids)}
        self.codes = torch.cat(parts)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the codes of a batch of the data's images, by their ids."""
        return self.codes[[self.rows[name] for name in batch.ids]].long()
