"""The GAN lineage: the interface of a model, text encoders, and one file a model.

Every model: `interface`. Every GAN: `losses`, `stabilise` (`Track`: how it is taught), `mismatch` (which pairs are
wrong), `text_encoders` (what reads the captions: `char_cnn_rnn`, `damsm` or `clip_text`), `blocks` that two share.
"""

__all__ = [
    "aligndraw", "attngan", "df_gan", "interface", "losses", "mismatch", "stabilise", "stackgan_v1", "stackgan_v2",
    "text_dcgan", "text_encoders",
]  # fmt: skip
