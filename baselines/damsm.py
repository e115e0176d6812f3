"""DAMSM: the text and image encoder of AttnGAN, taught by matching words with regions and sentences with images.

Xu, Zhang, Huang, Zhang, Gan, Huang and He 2018, "AttnGAN: Fine-Grained Text to Image Generation with Attentional
Generative Adversarial Networks" (arXiv:1711.10485, section 3.2). Long captions are cut, where the official code leaves
out words at random; the vocabulary is that of the train split, where the official code reads the test captions too;
Inception stays as it was trained, where the official code lets its batch norms drift. The official code also
multiplies the learning rate by 0.98 an epoch down to a tenth and makes Adam anew in each; here a run counts images,
not epochs. It clips the gradients of the LSTM alone; here also those of the image encoder, which learns from scratch
with it. Marks of punctuation are words, and so is a caption's end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from ..datasets.captioned import CaptionedDataset
from ..datasets.tokenizers import WordTokenizer
from ..errors import UserError
from .inception_network import SIDE, InceptionV3
from .precision import full_precision
from .published_weights import fill
from .reading import Read, TextEncoder, learn_words, matched, reversed_order

IMAGES_AT_ONCE = 8
"""That words attend to together. For all 48 of the published batch every array would have 48 MB, which a processor
hands back to the system after each operation; that is a tenth to a third slower."""


@dataclass(frozen=True, kw_only=True)
class DAMSMConfig:
    """Sizes of the DAMSM and how it is taught; the defaults are the published ones for birds."""

    vocabulary: int = 5450
    """Most frequent words of the train split's captions that are told apart."""
    words: int = 18
    """Captions are cut after this many words, their end included."""
    word_dim: int = 300
    """Length of a word's embedding before the LSTM."""
    text_dim: int = 256
    """Length of a word's and a sentence's embedding after it, half of which reads from each end."""
    dropout: float = 0.5
    """Of the words' embeddings before the LSTM."""
    batch_size: int = 48
    """Pairs in a step, each the others' mismatch."""
    learning_rate: float = 2e-3
    """Of Adam, constant."""
    clip_norm: float = 0.25
    """The largest norm of the gradients together."""
    gamma1: float = 4.0
    """How much a word attends to its nearest regions alone; 5 in the paper, 4 in the settings of the official code."""
    gamma2: float = 5.0
    """How much the best matching word counts beyond the others."""
    gamma3: float = 10.0
    """Inverse temperature of the softmax over the batch."""
    gamma2_root: bool = False
    """Take the 1 / gamma2-th power of the sum over words (equation 10). The official code does not, so that words
    count gamma2 times as much in the softmax over the batch."""
    inception_weights: str = ""
    """File of the Inception-v3 of 2015 (.pth or .safetensors) through which images are seen; without one,
    a small network is trained from scratch together with the text encoder. A generator taught through it must not be
    judged by `inception`, which is the same network; the official code sees through torchvision's. The run's key holds
    this path, not what lies there."""
    image_width: int = 64
    """Channels of the small network's first layer."""
    regions: int = 16
    """Side of the small network's grid of regions; that of Inception is 17."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        if self.text_dim % 2:
            raise UserError(f"damsm.text_dim={self.text_dim}: expected an even number, half is read from each end")
        if self.regions < 4 or self.regions & (self.regions - 1):
            raise UserError(f"damsm.regions={self.regions}: expected a power of two from 4")
        if self.words < 2:
            raise UserError(f"damsm.words={self.words}: expected 2 or more, a word and the caption's end")


class WordLSTM(TextEncoder):
    """Words -> embeddings by two LSTMs, one from each end; the sentence's are their last states (section 3.2).

    Both read all places whatever the caption's length, the second one in the order in which the caption is
    reversed and the padding is not, so that no caption's embedding depends on another's.
    """

    def __init__(self, config: DAMSMConfig) -> None:
        super().__init__(config.text_dim)
        self.config = config
        self.tokenizers = {}
        self.embed = nn.Embedding(config.vocabulary + 3, config.word_dim)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        self.dropout = nn.Dropout(config.dropout)
        self.forwards = nn.LSTM(config.word_dim, config.text_dim // 2, batch_first=True)
        self.backwards = nn.LSTM(config.word_dim, config.text_dim // 2, batch_first=True)

    def learn_vocabulary(self, data: CaptionedDataset) -> None:
        """Learn the most frequent words of the data's captions."""
        learn_words(self.tokenizers, data, length=self.config.words, size=self.config.vocabulary)

    def forward(self, tokens: torch.Tensor) -> Read:
        """Read tokens int64 [N, words]."""
        mask = tokens != WordTokenizer.padding
        last = (mask.sum(1, keepdim=True) - 1).clamp(min=0)
        embedded = self.dropout(self.embed(tokens))
        order = reversed_order(mask)
        # Not every processor has LSTMs in bfloat16.
        with full_precision(embedded):
            there, _ = self.forwards(embedded.float())
            back, _ = self.backwards(_pick(embedded, order).float())
        words = torch.cat([there, _pick(back, order)], 2) * mask[:, :, None]
        sentence = torch.cat([_pick(there, last), _pick(back, last)], 2)[:, 0]
        return Read(sentence=sentence, words=words, mask=mask)

    def encode(self, captions: Sequence[str]) -> Read:
        """Read captions; before a vocabulary is learned, all words are unknown."""
        tokenizer = self.tokenizers.get("words", WordTokenizer((), self.config.words))
        read: Read = self(tokenizer(captions).to(self.embed.weight.device))
        return read


def _pick(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return [N, P, D]: of each row of `values` [N, T, D] those at its `places` [N, P]."""
    return values.gather(1, places[:, :, None].expand(-1, -1, values.shape[2]))


class Seen(NamedTuple):
    """Images as seen: `image` float [N, D], `regions` float [N, R, D]."""

    image: torch.Tensor
    regions: torch.Tensor


class SmallRegionEncoder(nn.Module):
    """Image -> embeddings: stride-2 convolutions down to 4 x 4, regions from the grid on the way there."""

    def __init__(self, image_size: int, config: DAMSMConfig) -> None:
        super().__init__()
        side = min(config.regions, image_size // 2)
        to_grid: list[nn.Module] = []
        to_image: list[nn.Module] = []
        channels, width, size, seen = 3, config.image_width, image_size, 0
        while size > 4:
            layers = to_grid if size > side else to_image
            layers += [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels, width, size = width, min(2 * width, 512), size // 2
            seen = channels if size == side else seen
        self.to_grid, self.to_image = nn.Sequential(*to_grid), nn.Sequential(*to_image)
        self.regions = nn.Conv2d(seen, config.text_dim, 1, bias=False)
        self.image = nn.Linear(channels * size**2, config.text_dim)

    def forward(self, images: torch.Tensor) -> Seen:
        """Look at images float [N, 3, S, S] in [-1, 1]."""
        grid = self.to_grid(images)
        regions = self.regions(grid).flatten(2).transpose(1, 2)
        return Seen(image=self.image(self.to_image(grid).flatten(1)), regions=regions)


class InceptionRegionEncoder(nn.Module):
    """Image -> embeddings by linear maps of a frozen Inception-v3: 17 x 17 regions, and the image's pooled features."""

    def __init__(self, config: DAMSMConfig) -> None:
        super().__init__()
        self.inception = InceptionV3().eval().requires_grad_(False)
        self.weights = Path(config.inception_weights)
        self.regions = nn.Conv2d(768, config.text_dim, 1, bias=False)
        self.image = nn.Linear(2048, config.text_dim)
        for layer in (self.regions, self.image):
            nn.init.uniform_(layer.weight, -0.1, 0.1)

    def load_published(self) -> None:
        """Fill Inception with the published weights; a trained model brings them with it."""
        fill(self.inception, self.weights)

    def train(self, mode: bool = True) -> "InceptionRegionEncoder":
        """Train the linear maps; Inception's batch norms stay as they are."""
        super().train(mode)
        self.inception.eval()
        return self

    def forward(self, images: torch.Tensor) -> Seen:
        """Look at images float [N, 3, S, S] in [-1, 1]."""
        enlarged = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
        seen = self.inception((enlarged + 1) * 127.5)
        return Seen(image=self.image(seen.pooled), regions=self.regions(seen.regions).flatten(2).transpose(1, 2))


def word_scores(
    regions: torch.Tensor, words: torch.Tensor, mask: torch.Tensor, *, gamma1: float, gamma2: float
) -> torch.Tensor:
    """Return [N, M], how well N images match the words of M captions: log sum over words of exp(gamma2 x cosine).

    The cosine is that of a word and the regions it attends to, averaged by softmax of gamma1 x (softmax over the
    caption's words of word . region) (equations 7 to 10, without the root). `regions` float [N, R, D]; `words` float
    [M, T, D], of which bool `mask` [M, T] marks those that are there.
    """
    attended = [_Attended.apply(some, words, mask, gamma1) for some in regions.split(IMAGES_AT_ONCE)]  # type: ignore[no-untyped-call]
    along, square = (torch.cat(parts) for parts in zip(*attended, strict=True))
    lengths = square.clamp(min=1e-16).sqrt() * torch.linalg.vector_norm(words, dim=2).clamp(min=1e-8)
    scores: torch.Tensor = (gamma2 * along / lengths).masked_fill(~mask, float("-inf")).logsumexp(2)
    return scores


class _Attended(torch.autograd.Function):
    """The regions c that each word e attends to, by what a cosine needs of them: e . c and c . c, both [N, M, T].

    A cosine does not ask for the length of c, so that attention stays a sum of exponentials, never divided by their
    sum. With the regions' inner products G, c . c = a G a: neither c, the largest array of all, is made, nor in the
    backward pass the product that its gradient would need, because the gradient of a G a is the 2 G a at hand.
    Inside, arrays are [M x T, N, R], so that one matrix product serves all images.
    """

    @staticmethod
    def forward(
        ctx: Any, regions: torch.Tensor, words: torch.Tensor, mask: torch.Tensor, gamma1: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images, shape = len(regions), (mask.numel(), *regions.shape[:2])
        # Low enough to have no share in the softmax; with infinity 0 x infinity would be a gradient.
        absent = torch.where(mask, 0.0, -1e4).to(words).view(-1, 1)
        near = torch.addmm(absent, words.flatten(0, 1), regions.flatten(0, 1).T)
        share = near.view(*mask.shape, -1).softmax(1).view(shape)
        attention = (gamma1 * share).exp_()
        around = torch.bmm(attention.transpose(0, 1), torch.bmm(regions, regions.transpose(1, 2))).transpose(0, 1)
        along, square = near.view(shape).mul_(attention), around.mul_(attention)
        ctx.save_for_backward(regions, words, share, attention, along, square)
        ctx.gamma1 = gamma1
        return along.sum(2).T.view(images, *mask.shape), square.sum(2).T.view(images, *mask.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        regions, words, share, attention, along, square = ctx.saved_tensors
        by_along, by_square = (gradient.flatten(1).T[:, :, None] for gradient in gradients)
        by_near = (along * (ctx.gamma1 * by_along)).addcmul_(square, 2 * ctx.gamma1 * by_square).mul_(share)
        of_caption = by_near.view(*words.shape[:2], -1).sum(1, keepdim=True)
        by_near.view(*words.shape[:2], -1).addcmul_(share.view(*words.shape[:2], -1), of_caption, value=-1)
        flat = by_near.addcmul_(attention, by_along).flatten(1)
        by_regions = by_words = None
        with full_precision(flat):
            if ctx.needs_input_grad[0]:
                weighted = (attention * (2 * by_square)).transpose(0, 1)
                by_regions = torch.bmm(torch.bmm(attention.permute(1, 2, 0), weighted), regions)
                by_regions.flatten(0, 1).addmm_(flat.T, words.flatten(0, 1))
            if ctx.needs_input_grad[1]:
                by_words = (flat @ regions.flatten(0, 1)).view_as(words)
        return by_regions, by_words, None, None


def matching_loss(scores: torch.Tensor, matching: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropies of `scores` [N, N] of images with captions, from both sides (equations 11 to 13).

    Pairs that `matching` (bool [N, N]) marks are not counted as mismatches.
    """
    own = torch.arange(len(scores), device=scores.device)
    twins = matching & (own[:, None] != own)
    scores = scores.masked_fill(twins, float("-inf"))
    return F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)


class DAMSM:
    """The LSTMs and an image encoder, taught by matching words with regions and sentences with images."""

    def __init__(self, config: DAMSMConfig, image_size: int) -> None:
        self.config, self.batch_size = config, config.batch_size
        self.clip_norm: float | None = config.clip_norm
        self.encoder: TextEncoder = WordLSTM(config)
        self.image_encoder: nn.Module = (
            InceptionRegionEncoder(config) if config.inception_weights else SmallRegionEncoder(image_size, config)
        )

    def losses(
        self, images: torch.Tensor, captions: Sequence[str], matching: torch.Tensor
    ) -> Mapping[str, torch.Tensor]:
        """Return the losses of images float [N, 3, S, S] in [-1, 1] with captions, and the share matched."""
        return self.match(images, self.encoder.encode(captions), matching)

    def match(self, images: torch.Tensor, read: Read, matching: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return the losses of images with captions that are read already, in float32, and the share matched."""
        config, seen = self.config, self.image_encoder(images)
        with full_precision(images):
            words = word_scores(
                seen.regions.float(), read.words.float(), read.mask, gamma1=config.gamma1, gamma2=config.gamma2
            )
            image, sentence = F.normalize(seen.image.float(), dim=1), F.normalize(read.sentence.float(), dim=1)
            scale = config.gamma3 / config.gamma2 if config.gamma2_root else config.gamma3
            return {
                "words": matching_loss(scale * words, matching),
                "sentences": matching_loss(config.gamma3 * image @ sentence.T, matching),
                "matched": matched(image, sentence),
            }

    def optimiser(self) -> torch.optim.Optimizer:
        """Return a new optimiser of both encoders, into which published weights are read first."""
        if isinstance(self.image_encoder, InceptionRegionEncoder):
            self.image_encoder.load_published()
        parameters = [*self.encoder.parameters(), *self.image_encoder.parameters()]
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        return torch.optim.Adam(trained, lr=self.config.learning_rate, betas=(0.5, 0.999))
