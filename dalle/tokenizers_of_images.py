"""Which image tokenizer a model uses: the paper's dVAE by default, any other by a config field."""

from dataclasses import dataclass, field, replace
from typing import Literal

from ..baselines.interface import Stage
from ..errors import UserError
from .dvae import DVAE, DVAEConfig, DVAEStage
from .fsq import FSQ, FSQConfig, FSQStage
from .image_tokenizer import GridTokenizer, Teaching
from .resnet_codec import CodecConfig
from .vqvae2 import VQVAE2, VQVAE2Config, VQVAE2Stage


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Which tokenizer, how much of the budget teaches it, and the settings of each kind."""

    kind: Literal["dvae", "vqvae2", "fsq"] = "dvae"
    """The tokenizer that is used; the settings of the others have no effect."""
    share: float = 0.3
    """Part of the training budget that goes to the tokenizer."""
    dvae: DVAEConfig = field(default_factory=DVAEConfig)
    """Settings of `dvae`."""
    vqvae2: VQVAE2Config = field(default_factory=VQVAE2Config)
    """Settings of `vqvae2`."""
    fsq: FSQConfig = field(default_factory=FSQConfig)
    """Settings of `fsq`."""

    def __post_init__(self) -> None:
        """Refuse what leaves no budget."""
        if not 0 < self.share < 1:
            raise UserError(f"tokenizer.share={self.share:g}: expected above 0 and below 1")


_TINY_CODEC = CodecConfig(width=32, first_decoder_width=64, blocks=1, stride=4, unshuffle=2, kernel=3, gain=1.0)
_TINY_TEACHING = Teaching(batch_size=32, learning_rate=4e-3, last_learning_rate=5e-5, rate_falls_over=1.0, ema_kimg=0.0)

TINY = TokenizerConfig(
    dvae=DVAEConfig(
        num_codes=256, codec=_TINY_CODEC, divergence_weight=0.3, divergence_rises_over=0.2,
        temperature_falls_over=0.7, logits_deviation=3.0, least_scale=0.1, teaching=_TINY_TEACHING,
    ),
    vqvae2=VQVAE2Config(
        num_codes=256, code_dim=32, width=48, block_width=24, decay=0.95, restart_below=0.1,
        teaching=replace(_TINY_TEACHING, learning_rate=2e-3),
    ),
    fsq=FSQConfig(levels=(8, 5, 5, 5), codec=replace(_TINY_CODEC, width=40),
                  teaching=replace(_TINY_TEACHING, batch_size=8, learning_rate=2e-3)),
)  # fmt: skip
"""Sizes that learn on 2 CPU cores, at 32 px: codes of 4 x 4 pixels, and 8 x 8 for the coarse level of `vqvae2`."""
# With 8 images a step FSQ keeps 26.3 dB of real images after 64,000, with 32 a step 25.3 dB.
# Some ten thousand images are less than 1,000 steps: they are large, schedules fill the stage, and nothing is averaged.
# That short, a divergence of weight 1 leaves the codes noisier than 0.3 does, and more of them in use.
_SMALL_CODEC = replace(_TINY_CODEC, width=64, first_decoder_width=128, blocks=2, gain=0.5)
_SMALL_TEACHING = replace(_TINY_TEACHING, learning_rate=1e-3)
SMALL = TokenizerConfig(
    dvae=replace(TINY.dvae, num_codes=512, codec=_SMALL_CODEC, teaching=_SMALL_TEACHING),
    vqvae2=VQVAE2Config(num_codes=512, decay=0.95, restart_below=0.1, teaching=_SMALL_TEACHING),
    fsq=FSQConfig(levels=(8, 5, 5, 5), codec=_SMALL_CODEC, teaching=_SMALL_TEACHING),
)  # fmt: skip
"""Sizes for 64 px and 16 x 16 codes, one GPU, or hours on a CPU."""


def open_tokenizer(config: TokenizerConfig, image_size: int) -> GridTokenizer:
    """Return the chosen tokenizer, untrained, for images of a size."""
    if config.kind == "dvae":
        return DVAE(config.dvae, image_size)
    return VQVAE2(config.vqvae2, image_size) if config.kind == "vqvae2" else FSQ(config.fsq, image_size)


def tokenizer_stage(tokenizer: GridTokenizer, config: TokenizerConfig) -> Stage:
    """Return the stage that teaches a tokenizer which `open_tokenizer` made."""
    if isinstance(tokenizer, DVAE):
        return DVAEStage(tokenizer, config.share)
    if isinstance(tokenizer, VQVAE2):
        return VQVAE2Stage(tokenizer, config.share)
    if isinstance(tokenizer, FSQ):
        return FSQStage(tokenizer, config.share)
    raise TypeError(f"no stage teaches a {type(tokenizer).__name__}")
