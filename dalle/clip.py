"""CLIP: how well captions and images belong together, by which DALL-E chooses among its candidates.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision" (arXiv:2103.00020);
reranking: Ramesh et al. 2021, arXiv:2102.12092, section 2.6. Trained here, or with OpenAI's weights. Other than there:
- Pairs of equal captions, and captions of one image, are not each other's negatives: with batches from a small data
  set they are frequent, with the published 400 million pairs they are not.
- Both transformers are drawn alike at the start; the published code says it of the text's alone.
- Images are not cropped at random, and captions have no token for their start.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer as Library
from torch import nn

from ..baselines.interface import check_adam_betas, optimiser_step
from ..baselines.mismatch import matching_pairs
from ..baselines.published_weights import fill
from ..baselines.text_transformer import MAX_LOGIT_SCALE, TextTransformer, contrastive_loss
from ..datasets.bpe import BPETokenizer
from ..datasets.captioned import Batch, CaptionedDataset
from ..datasets.tokenizers import Tokenizer
from ..datasets.user_files import short
from ..errors import UserError
from .clip_image_encoders import HEAD_WIDTH, RESNET_STRIDE, ModifiedResNet, VisionTransformer, initialise_blocks
from .clip_inputs import open_tokenizer, prepare
from .schedule import warmed_up
from .weight_decay import decay_all_but_vectors

CHUNK = 64
"""Images or captions that are embedded at once."""
BESIDE = ("input_resolution", "context_length", "vocab_size")
"""What published state dicts hold besides weights."""


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Sizes of CLIP and how it is taught; the defaults are those of the published ViT-B/32."""

    image_size: int = 224
    """Side to which images are resized, bicubic and anti-aliased."""
    image_encoder: Literal["vit", "resnet"] = "vit"
    """What reads images."""
    patch: int = 32
    """Side of the patches of `vit`."""
    image_width: int = 768
    """Length of a patch's state in `vit`, 64 for each attention head; channels after the stem of `resnet`."""
    image_layers: int = 12
    """Of `vit`."""
    resnet_layers: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks in each of the four groups of `resnet`."""
    vocabulary: int = 49408
    """Pieces of words that are told apart."""
    context: int = 77
    """Captions are cut after this many pieces, their end included."""
    text_width: int = 512
    """Length of a piece's state."""
    text_layers: int = 12
    """Of the text transformer."""
    text_heads: int = 8
    """Of each of its layers' attention."""
    embed_dim: int = 512
    """Length of an embedding, of image and caption alike."""
    batch_size: int = 256
    """Pairs in a step, each the others' mismatch. The published batch of 32,768 needs a cluster."""
    learning_rate: float = 5e-4
    """Of AdamW, at its highest."""
    warm_up: float = 0.02
    """Share of the steps in which the rate rises; after it, the rate falls to 0 as a cosine. Published are 2000 steps,
    a hundredth or so."""
    beta1: float = 0.9
    """Of AdamW: decay of the mean of gradients."""
    beta2: float = 0.98
    """Of AdamW: decay of the mean of their squares; published is 0.999 for `resnet`."""
    epsilon: float = 1e-6
    """Of AdamW; published is 1e-8 for `resnet`."""
    weight_decay: float = 0.2
    """Of AdamW, on matrices and kernels alone, not on gains, biases and the temperature."""
    share: float = 0.1
    """Part of the training budget that goes to CLIP; 0 with published weights."""
    weights: str = ""
    """File of a published state dict (.pt or .safetensors) that is used instead of training; the sizes above have to
    be its own. The run's key holds this path, not what lies there."""
    published_tokenizer: str = ""
    """The tokenizer.json that belongs to those weights."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no network, and weights without their tokenizer."""
        least = {"image_size": 1, "patch": 1, "image_layers": 1, "vocabulary": 258, "context": 2, "text_layers": 1,
                 "text_heads": 1, "embed_dim": 1, "batch_size": 2}  # fmt: skip
        for name, number in least.items():
            if getattr(self, name) < number:
                raise UserError(f"clip.{name}={getattr(self, name)}: expected {number} or more")
        if self.text_width < 1 or self.text_width % self.text_heads:
            raise UserError(f"clip.text_heads={self.text_heads}: does not divide clip.text_width={self.text_width}")
        check_adam_betas("clip.beta1, clip.beta2", (self.beta1, self.beta2))
        if min(self.learning_rate, self.epsilon, self.weight_decay) < 0:
            raise UserError("clip: expected learning_rate, epsilon and weight_decay of 0 or more")
        if not 0 <= self.share <= 1 or not 0 <= self.warm_up < 1:
            raise UserError(f"clip.share={self.share:g}, warm_up={self.warm_up:g}: expected shares of 1, warm_up below")
        if bool(self.weights) != bool(self.published_tokenizer):
            raise UserError("clip.weights, clip.published_tokenizer: expected both files or none, they belong together")
        if bool(self.weights) == bool(self.share):
            expected = "0, published weights are not trained further" if self.weights else "above 0, or clip.weights"
            raise UserError(f"clip.share={self.share:g}: expected {expected}")
        self._check_image_encoder()

    def _check_image_encoder(self) -> None:
        if self.image_encoder == "vit":
            parts, step, unit = "patch", self.patch, HEAD_WIDTH
        else:
            parts, step, unit = "the stride of resnet", RESNET_STRIDE, 2
            if len(self.resnet_layers) != 4 or min(self.resnet_layers) < 1:
                raise UserError(f"clip.resnet_layers={list(self.resnet_layers)}: expected 4 numbers from 1")
        if self.image_size % step:
            raise UserError(f"clip.image_size={self.image_size}: expected a multiple of {parts}, {step}")
        if self.image_width < 1 or self.image_width % unit:
            raise UserError(f"clip.image_width={self.image_width}: expected a multiple of {unit}")


TINY = CLIPConfig(
    image_size=64, image_encoder="resnet", image_width=16, resnet_layers=(1, 1, 1, 1), vocabulary=1024, context=32,
    text_width=128, text_layers=2, text_heads=2, embed_dim=128, batch_size=128, learning_rate=1e-3, warm_up=0.05,
)  # fmt: skip
"""Sizes that learn on 2 CPU cores, from images of 32 px. They are enlarged for the encoder's five strides, and still it
learns from far fewer than a transformer: after 16,000 scenes it finds 74 of 100 captions, a transformer 10."""
SMALL = CLIPConfig(
    image_size=128, image_encoder="resnet", image_width=32, resnet_layers=(1, 1, 2, 1), vocabulary=4096, context=64,
    text_width=256, text_layers=4, text_heads=4, embed_dim=256, batch_size=256, warm_up=0.05,
)  # fmt: skip
"""Sizes for 64 px and one GPU, or hours on a CPU."""


class CLIP(nn.Module):
    """An image encoder and a text encoder into one space; cosines there say what belongs together."""

    def __init__(self, config: CLIPConfig, tokenizers: dict[str, Tokenizer] | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizers = {} if tokenizers is None else tokenizers
        """Shared with the model, which keeps it with the run; captions are cut up by that of name `clip`."""
        self.visual = _image_encoder(config)
        self.text = TextTransformer(
            vocabulary=config.vocabulary, context=config.context, width=config.text_width, layers=config.text_layers,
            heads=config.text_heads, embed_dim=config.embed_dim,
            end=config.vocabulary - 1 if config.weights else BPETokenizer.end,
        )  # fmt: skip
        initialise_blocks(self.text.resblocks, config.text_width)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def device(self) -> torch.device:
        """Return where it computes."""
        return self.logit_scale.device

    @cached_property
    def published_tokenizer(self) -> Library:
        """Return the tokenizer of the published weights; raise UserError when it is not."""
        path, vocabulary = Path(self.config.published_tokenizer), self.config.vocabulary
        tokenizer = open_tokenizer(path, self.config.context)
        numbers = tokenizer.get_vocab()
        if max(numbers.values()) != vocabulary - 1 or tokenizer.encode("").ids[-1] != vocabulary - 1:
            raise UserError(
                f"{path}: not the tokenizer of these weights, it has {len(numbers)} pieces; expected "
                f"clip.vocabulary={vocabulary}, the last of them the end"
            )
        return tokenizer

    def learn_vocabulary(self, data: CaptionedDataset) -> None:
        """Learn the pieces of words of the data's captions, unless they are known."""
        if "clip" not in self.tokenizers and not self.config.weights:
            captions = (caption for index in range(len(data)) for caption in data.captions(index))
            self.tokenizers["clip"] = BPETokenizer.learn(
                captions, length=self.config.context, size=self.config.vocabulary
            )

    def read(self, captions: Sequence[str]) -> torch.Tensor:
        """Return embeddings [N, D] of captions, not normalised; before a vocabulary is learned, bytes are read.

        Raises UserError for a caption that published weights would see cut.
        """
        if self.config.weights:
            rows = self.published_tokenizer.encode_batch(list(captions))
            for caption, row in zip(captions, rows, strict=True):
                if row.overflowing:
                    raise UserError(
                        f"prompt {short(repr(caption))}: takes more tokens than the {self.config.context} that CLIP "
                        "reads; shorten it"
                    )
            tokens = torch.tensor([row.ids for row in rows], device="cpu")
        else:
            tokenizer = self.tokenizers.get("clip") or BPETokenizer((), self.config.context)
            tokens = tokenizer(captions)
        last = int((tokens == self.text.end).int().argmax(1).max())
        embeddings: torch.Tensor = self.text(tokens[:, : last + 1].to(self.device))
        return embeddings

    def look(self, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings [N, D] of images uint8 [N, 3, H, W], not normalised."""
        embeddings: torch.Tensor = self.visual(prepare(images.to(self.device), self.config.image_size))
        return embeddings

    @torch.no_grad()
    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 [N, D] of unit length, on the CPU, of images uint8 [N, 3, H, W]."""
        self.eval()
        return self._unit(self.look(some) for some in torch.split(images, CHUNK) if len(some))

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> torch.Tensor:
        """Return float32 [N, D] of unit length, on the CPU; each caption is read once, however often it comes."""
        self.eval()
        places = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
        once = list(places)
        read = self._unit(self.read(once[start : start + CHUNK]) for start in range(0, len(once), CHUNK))
        return read[torch.tensor([places[caption] for caption in captions], dtype=torch.int64, device="cpu")]

    def rank(self, captions: Sequence[str], images: torch.Tensor) -> torch.Tensor:
        """Return float32 [N] on the CPU: the cosine of image i, uint8 [N, 3, H, W], with caption i."""
        if len(captions) != len(images):
            raise ValueError(f"one caption an image: {len(captions)} captions and {len(images)} images came")
        return (self.embed_images(images) * self.embed_captions(captions)).sum(1)

    def _unit(self, embeddings: Iterator[torch.Tensor]) -> torch.Tensor:
        rows = [F.normalize(some.float(), dim=1).cpu() for some in embeddings]
        return torch.cat(rows) if rows else torch.zeros(0, self.config.embed_dim, device="cpu")


def _image_encoder(config: CLIPConfig) -> VisionTransformer | ModifiedResNet:
    if config.image_encoder == "resnet":
        return ModifiedResNet(
            image_size=config.image_size, width=config.image_width, layers=config.resnet_layers,
            embed_dim=config.embed_dim,
        )  # fmt: skip
    return VisionTransformer(
        image_size=config.image_size, patch=config.patch, width=config.image_width, layers=config.image_layers,
        embed_dim=config.embed_dim,
    )  # fmt: skip


def open_clip(config: CLIPConfig, tokenizers: dict[str, Tokenizer] | None = None) -> CLIP:
    """Return CLIP as configured: with the published weights, or untrained, cutting captions by `tokenizers`."""
    return load_published(config) if config.weights else CLIP(config, tokenizers)


def load_published(config: CLIPConfig) -> CLIP:
    """Return a frozen CLIP with `config.weights`, OpenAI's state dict as .pt or .safetensors; no code is run.

    Half precision becomes single. Raises UserError naming the file and what in it does not fit the config.
    """
    clip = CLIP(config)
    fill(clip, Path(config.weights), published_name=published_name, beside=BESIDE)
    _ = clip.published_tokenizer
    return clip


def published_name(name: str) -> str:
    """Return what OpenAI's state dict calls a tensor of `CLIP`."""
    return name.replace("text.resblocks.", "transformer.resblocks.").removeprefix("text.")


class CLIPStage:
    """Teach both encoders by the symmetric cross-entropy of matching pairs."""

    name = "clip"
    draws = False
    ema_kimg = 0.0
    total_steps: int = 1
    """Set by the loop before the first step."""

    def __init__(self, clip: CLIP) -> None:
        self.clip, config = clip, clip.config
        self.share, self.batch_size = config.share, config.batch_size
        self.averaged: Mapping[str, nn.Module] = {}
        self.steps = 0
        self.optimiser = torch.optim.AdamW(
            decay_all_but_vectors(clip, config.weight_decay), lr=config.learning_rate,
            betas=(config.beta1, config.beta2), eps=config.epsilon,
        )  # fmt: skip

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Learn from one batch; `accuracy` is the share of images whose nearest caption in it belongs to them."""
        clip, config = self.clip.train(), self.clip.config
        for group in self.optimiser.param_groups:
            group["lr"] = warmed_up((self.steps + 1) / self.total_steps, config.warm_up, config.learning_rate, 0.0)
        image, text = clip.look(batch.images), clip.read(batch.captions)
        matching = matching_pairs(batch, "image").to(image.device)
        loss = contrastive_loss(image, text, clip.logit_scale, matching)
        optimiser_step(self.optimiser, loss)
        with torch.no_grad():
            clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
            nearest = (image @ F.normalize(text, dim=1).T).argmax(1, keepdim=True)
            accuracy = matching.gather(1, nearest).float().mean()
        self.steps += 1
        return {"loss": loss.detach(), "accuracy": accuracy, "logit_scale": clip.logit_scale.detach().exp()}

    def state_dict(self) -> dict[str, Any]:
        """Return the network, the optimiser and the count of steps."""
        return {"clip": self.clip.state_dict(), "optimiser": self.optimiser.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.clip.load_state_dict(state["clip"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps = int(state["steps"])


def clip_stage(clip: CLIP, data: CaptionedDataset) -> CLIPStage:
    """Return the stage that teaches CLIP; its pieces of words are learned from `data` unless it has some."""
    clip.learn_vocabulary(data)
    return CLIPStage(clip)
