"""DALL-E: a tokenizer turns images into codes, a transformer draws codes after a caption, CLIP picks the best.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation" (arXiv:2102.12092): section 2.1 the tokenizer, 2.2 the
transformer, 2.6 the choice among candidates; CLIP after Radford et al. 2021 (arXiv:2103.00020).
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from ..baselines.interface import SAMPLE_CHUNK, Stage, seeded_uniform
from ..baselines.text_transformer import text_fingerprint
from ..datasets.bpe import BPETokenizer
from ..datasets.captioned import CaptionedDataset
from ..datasets.tokenizers import Tokenizer
from ..errors import UserError
from .clip import SMALL as SMALL_CLIP
from .clip import TINY as TINY_CLIP
from .clip import CLIPConfig, clip_stage, open_clip
from .cuda_graphs import GraphedSampler
from .image_prompt import ImagePrompt, forced_codes
from .image_tokenizer import GridTokenizer
from .prior import PriorConfig, PriorStage
from .sampler import CodeSampler, SamplingConfig, sample_codes
from .tokenizers_of_images import SMALL as SMALL_TOKENIZER
from .tokenizers_of_images import TINY as TINY_TOKENIZER
from .tokenizers_of_images import TokenizerConfig, open_tokenizer, tokenizer_stage
from .transformer import Transformer, TransformerConfig

CANDIDATES = 128
"""Candidates of one caption that are drawn at once: always as many, so that each is the same whatever their number."""


@dataclass(frozen=True, kw_only=True)
class DallEConfig:
    """Settings of the model; the defaults are the published ones, with 12 billion parameters."""

    image_size: int = 256
    """Side of the images."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """What turns images into codes, taught first."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """What draws codes after a caption."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """How the transformer is taught, second."""
    clip: CLIPConfig = field(default_factory=CLIPConfig)
    """What picks the best of the candidates, taught last."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How codes are drawn."""

    def __post_init__(self) -> None:
        """Refuse shares that are not the whole."""
        total = self.tokenizer.share + self.prior.share + self.clip.share
        if abs(total - 1) > 1e-6:
            raise UserError(
                f"tokenizer.share + prior.share + clip.share = {total:g}: expected 1, the whole of the budget"
            )
        if self.sampling.guidance != 1 and not self.prior.caption_dropout:
            raise UserError(
                f"sampling.guidance={self.sampling.guidance:g}: needs a model that was also taught without captions; "
                "expected prior.caption_dropout above 0, or guidance 1"
            )


TINY = DallEConfig(
    image_size=32,
    tokenizer=replace(TINY_TOKENIZER, kind="fsq", share=0.4),
    transformer=TransformerConfig(
        vocabulary=1024, text_length=32, width=128, layers=6, heads=4, attention="full", share_digits=True,
    ),
    prior=PriorConfig(
        share=0.4, batch_size=8, caption_dropout=0.1, bpe_dropout=0.0, learning_rate=1.4e-3, warm_up=0.02,
        weight_decay=0.01, ema_kimg=2.0,
    ),
    clip=replace(TINY_CLIP, share=0.2),
    sampling=SamplingConfig(guidance=2.0),
)  # fmt: skip
SMALL = DallEConfig(
    image_size=64,
    tokenizer=replace(SMALL_TOKENIZER, kind="fsq"),
    transformer=TransformerConfig(
        vocabulary=4096, text_length=64, width=384, layers=8, heads=6, attention="full", share_digits=True,
    ),
    prior=PriorConfig(share=0.6, batch_size=64, caption_dropout=0.1, warm_up=0.02, ema_kimg=20.0),
    clip=replace(SMALL_CLIP, share=0.1),
)
PAPER = DallEConfig()
PRESETS: Mapping[str, DallEConfig] = {
    "tiny": TINY,
    "tiny-dvae": replace(TINY, tokenizer=replace(TINY.tokenizer, kind="dvae")),
    "tiny-vqvae2": replace(TINY, tokenizer=replace(TINY.tokenizer, kind="vqvae2")),
    "small": SMALL,
    "paper": PAPER,
}
# `tiny` and `small` take FSQ for the published dVAE: from some ten thousands of scenes it learns codes that keep small
# objects (24 dB after 32,000), where the dVAE blurs them (18 dB after 20,000).
# On grids of 8 x 8 and 16 x 16 full attention is as cheap as sparse. Few images and short captions take larger rates,
# and a shorter average. Captions are left out now and then, so that samples may be guided.
# In `tiny` no merges of pieces are passed over: of scenes' captions one in twelve would be cut, and one in twelve read
# as it is in sampling. Steps are small: with 8 images each, FSQ's codes of unseen scenes cost 1.89 nats after 16,000
# images; with 32, 2.14 for a sixth less time. Half way there, one seed: 2.06; with shared digits 1.94; with digits
# shared in the embeddings too 1.95, and then at twice the rate 1.90. Samples are guided: after 240,000 images
# R-precision was 46 %, and 30 % without.
# Tried and not kept: eight views of every image, shifted by up to half a cell, and errors in a tenth of the codes that
# are read. Over 252,000 images codes of unseen scenes then cost 1.70 nats in place of 1.74, but FID@scenes was 165 in
# place of 146, and of relations 61 % were right in place of 72, of lower panels 53 % in place of 59.
# Nor are FSQ's codes drawn anew, from numbers rounded with noise of up to 0.3 of a level (section 2.2 draws codes where
# a model may over-fit). Eight draws an image, which decode to 28.3 dB in place of 28.8, left lower panels at 59 %.
# More scenes do what neither did: 450,000 images of `scenes-100k` came to 1.47 nats, and lower panels to 70 % right.


class DallE:
    """The model: image tokenizer, transformer and CLIP."""

    def __init__(self, config: DallEConfig) -> None:
        self.config = config
        self.tokenizers: dict[str, Tokenizer] = {}
        self.tokenizer = open_tokenizer(config.tokenizer, config.image_size)
        self.transformer = Transformer(
            config.transformer, num_codes=self.tokenizer.num_codes, grids=self.tokenizer.grids,
            radices=self.tokenizer.radices,
        )  # fmt: skip
        self.clip = open_clip(config.clip, self.tokenizers)
        self._graphed: GraphedSampler | None = None

    def networks(self) -> Mapping[str, nn.Module]:
        """Return the image tokenizer, the transformer and CLIP."""
        return {"tokenizer": self.tokenizer, "transformer": self.transformer, "clip": self.clip}

    def stages(self, data: CaptionedDataset) -> Sequence[Stage]:
        """Return the three stages, the pieces of words of the data's captions learnt; two with a published CLIP."""
        if "pieces" not in self.tokenizers:
            captions = (caption for index in range(len(data)) for caption in data.captions(index))
            size = self.config.transformer
            self.tokenizers["pieces"] = BPETokenizer.learn(captions, length=size.text_length, size=size.vocabulary)
        prior = PriorStage(self.config.prior, self.transformer, self.tokenizer, self.pieces, data)
        stages: list[Stage] = [tokenizer_stage(self.tokenizer, self.config.tokenizer), prior]
        return stages if self.config.clip.weights else [*stages, clip_stage(self.clip, data)]

    @property
    def pieces(self) -> BPETokenizer:
        """Return what cuts captions for the transformer: bytes, until `stages` has learnt pieces of words."""
        pieces = self.tokenizers.get("pieces") or BPETokenizer((), self.config.transformer.text_length)
        assert isinstance(pieces, BPETokenizer)
        return pieces

    def draw_one(self) -> torch.Tensor:
        """Run once the networks that draw one image: sampling computes each state of the stream once, guided two."""
        streams = 1 if self.config.sampling.guidance == 1 else 2
        codes = torch.zeros(streams, self.transformer.codes, dtype=torch.long)
        self.transformer(self.pieces([""] * streams).to(codes.device), codes)
        return self.tokenizer.images_of(codes[:1])

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        """Return one image a caption, uint8 [N, 3, H, W], each the only candidate."""
        return self._in_chunks(captions, seeds)

    def complete(
        self, captions: Sequence[str], images: torch.Tensor, keep_rows: int, keep_columns: int = 0, *,
        seeds: Sequence[int],
    ) -> torch.Tensor:  # fmt: skip
        """Return one image a caption, uint8 [N, 3, H, W], that goes on with the kept part of its own of `images`."""
        if len(images) != len(captions):
            raise ValueError(f"one image a caption: {len(captions)} captions and {len(images)} images came")
        prompt = ImagePrompt(images, keep_rows, keep_columns)
        return self._in_chunks(captions, seeds, forced_codes(self.tokenizer, prompt))

    def _in_chunks(
        self, captions: Sequence[str], seeds: Sequence[int], forced: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Draw equal chunks, as `sample_in_chunks` does, each with its rows of `forced`."""
        if len(captions) != len(seeds):
            raise ValueError(f"one seed a caption: {len(captions)} captions and {len(seeds)} seeds came")
        images, draw_codes = [], self._code_sampler()
        for start in range(0, len(captions), SAMPLE_CHUNK):
            some = slice(start, start + SAMPLE_CHUNK)
            texts, numbers = list(captions[some]), list(seeds[some])
            padding = SAMPLE_CHUNK - len(texts)
            given = None if forced is None else torch.cat([forced[some], forced[:1].expand(padding, -1)])
            drawn = self._draw(draw_codes, texts + [""] * padding, numbers + [0] * padding, given)
            images.append(drawn[: len(texts)])
        return torch.cat(images)

    def candidates(
        self, caption: str, seeds: Sequence[int], given: ImagePrompt | None = None
    ) -> Iterator[torch.Tensor]:
        """Yield images uint8 [n, 3, H, W] of one caption, one a seed, in parts; candidate k depends on seed k alone.

        They go on with an image prompt that holds one image, where it is `given`.
        """
        forced = None if given is None else forced_codes(self.tokenizer, given)
        draw_codes = self._code_sampler()
        for start in range(0, len(seeds), CANDIDATES):
            some = list(seeds[start : start + CANDIDATES])
            yield self._draw(draw_codes, [caption], some + [0] * (CANDIDATES - len(some)), forced)[: len(some)]

    def rank(self, captions: Sequence[str], images: torch.Tensor) -> torch.Tensor:
        """Return float32 [N]: the cosine that CLIP finds between each image and its caption (section 2.6)."""
        return self.clip.rank(captions, images)

    def image_tokenizer(self) -> GridTokenizer:
        """Return what turns images into codes and back."""
        return self.tokenizer.eval()

    def ranked_by(self) -> str:
        """Return the fingerprint of CLIP."""
        return text_fingerprint(self.clip.text.token_embedding.weight)

    def _code_sampler(self) -> CodeSampler:
        """Return what draws codes as `sampling` asks."""
        config, device = self.config.sampling, self.transformer.start_of_image.device
        null = self.pieces([""])[0].to(device)
        if not config.cuda_graphs or device.type != "cuda":
            return partial(sample_codes, self._drawing_transformer(), config=config, null=null)
        if self._graphed is None or self._graphed.config != config:
            self._graphed = GraphedSampler(self._drawing_transformer(), config)
        drawing = self._graphed.transformer.eval()
        with torch.no_grad():
            # A graph reads weights where they were when it was captured.
            for weight, taught in zip(drawing.parameters(), self.transformer.parameters(), strict=True):
                weight.copy_(taught)
        return partial(self._graphed, null=null)

    def _drawing_transformer(self) -> Transformer:
        """Return the transformer in the precision that `sampling` asks for."""
        if self.config.sampling.precision == "float32":
            return self.transformer.eval()
        # Each weight is cast by itself: a copy of the whole in float32 would come first and take twice as much.
        weights = {id(weight): nn.Parameter(weight.detach().bfloat16()) for weight in self.transformer.parameters()}
        return copy.deepcopy(self.transformer, weights).eval()

    def _draw(
        self, draw_codes: CodeSampler, captions: Sequence[str], seeds: Sequence[int],
        forced: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return images uint8 [N, 3, H, W], as many a caption as there are seeds for each."""
        device, length = self.transformer.start_of_image.device, self.transformer.codes
        uniforms = torch.from_numpy(seeded_uniform(seeds, length)).view(len(captions), -1, length)
        codes = draw_codes(
            self.pieces(captions).to(device), uniforms.to(device),
            forced=None if forced is None else forced.to(device),
        )  # fmt: skip
        return self.tokenizer.decode(codes.flatten(0, 1))
