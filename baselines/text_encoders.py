"""The text encoders that a GAN may be conditioned on: each paper's own by default, any other by a config field.

So generators can be compared with the same encoder. `char-cnn-rnn`: Reed et al. 2016; `damsm`: the bi-LSTM of Xu et
al. 2018; `clip`: the transformer of Radford et al. 2021. Each is taught on the data at hand as the model's first
stage, then frozen.
"""

from dataclasses import dataclass, field
from typing import Literal

from ..datasets.captioned import CaptionedDataset
from ..errors import UserError
from .char_cnn_rnn import CharCNNRNNConfig, JointEmbedding
from .clip_text import CLIPTextConfig, ContrastivePretraining
from .damsm import DAMSM, DAMSMConfig
from .interface import Stage
from .mismatch import MismatchBy
from .reading import Matching, MatchingStage


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Which text encoder, how much of the budget teaches it, and the settings of each kind."""

    kind: Literal["char-cnn-rnn", "damsm", "clip"] = "char-cnn-rnn"
    """The encoder that is used; the settings of the others have no effect."""
    share: float = 0.2
    """Part of the training budget that goes to the text encoder."""
    standardise: bool = False
    """Give every dimension of a sentence mean 0 and variance 1 before a GAN reads it. None of the papers does; the
    embeddings of an encoder taught on few images are so short that the noise beside them drowns them."""
    char_cnn_rnn: CharCNNRNNConfig = field(default_factory=CharCNNRNNConfig)
    """Settings of `char-cnn-rnn`."""
    damsm: DAMSMConfig = field(default_factory=DAMSMConfig)
    """Settings of `damsm`."""
    clip: CLIPTextConfig = field(default_factory=CLIPTextConfig)
    """Settings of `clip`."""

    def __post_init__(self) -> None:
        """Refuse what leaves no budget."""
        if not 0 <= self.share < 1:
            raise UserError(f"text_encoder.share={self.share:g}: expected from 0 to below 1")
        if self.standardise and not self.share:
            raise UserError("text_encoder.share=0: expected more with text_encoder.standardise, learnt in that stage")
        if min(self.char_cnn_rnn.batch_size, self.damsm.batch_size, self.clip.batch_size) < 2:
            raise UserError("text_encoder: batch_size: expected 2 pairs or more, batch norm needs them")

    @property
    def text_dim(self) -> int:
        """Return the length of the chosen encoder's embeddings."""
        kinds: dict[str, CharCNNRNNConfig | DAMSMConfig | CLIPTextConfig] = {
            "char-cnn-rnn": self.char_cnn_rnn, "damsm": self.damsm, "clip": self.clip
        }  # fmt: skip
        return kinds[self.kind].text_dim


TINY_TEXT = TextEncoderConfig(
    share=0.4,
    char_cnn_rnn=CharCNNRNNConfig(
        channels=(64, 96, 128), recurrent_width=128, text_dim=128, optimiser="adam", learning_rate=1e-3, image_width=32
    ),
    damsm=DAMSMConfig(
        vocabulary=2000, words=24, word_dim=64, text_dim=128, dropout=0.1, image_width=32, regions=4
    ),
    clip=CLIPTextConfig(vocabulary=2000, words=24, width=96, layers=2, heads=4, text_dim=128, batch_size=64,
                        learning_rate=1e-3, image_width=32),
)  # fmt: skip
"""Sizes that learn on 2 CPU cores, at 32 px."""
SMALL_TEXT = TextEncoderConfig(
    share=0.3,
    char_cnn_rnn=CharCNNRNNConfig(
        channels=(128, 192, 256), recurrent_width=256, text_dim=256, optimiser="adam", learning_rate=1e-3,
        image_width=32,
    ),
    damsm=DAMSMConfig(
        vocabulary=5450, words=24, word_dim=128, text_dim=256, dropout=0.1, image_width=32, regions=8
    ),
    clip=CLIPTextConfig(vocabulary=5450, words=24, width=192, layers=4, heads=4, text_dim=256, batch_size=64,
                        learning_rate=1e-3, image_width=32),
)  # fmt: skip
"""Sizes for 64 px and one GPU, or hours on a CPU."""


def open_text_encoder(config: TextEncoderConfig, image_size: int) -> Matching:
    """Return the chosen text encoder, untrained, with the image encoder that is to teach it."""
    text: Matching
    if config.kind == "char-cnn-rnn":
        text = JointEmbedding(config.char_cnn_rnn, image_size)
    elif config.kind == "damsm":
        text = DAMSM(config.damsm, image_size)
    else:
        text = ContrastivePretraining(config.clip, image_size)
    text.encoder.standardise = config.standardise
    return text


def text_stage(text: Matching, config: TextEncoderConfig, data: CaptionedDataset, mismatch: MismatchBy) -> Stage:
    """Return the stage that teaches the text encoder; its vocabulary is learned from `data` unless it has one."""
    text.encoder.learn_vocabulary(data)
    return MatchingStage(text, share=config.share, mismatch=mismatch)
