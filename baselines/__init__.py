"""The GAN lineage: the interface of a model, text encoders, and one file a model.

`interface`: `TextToImage`, `Stage`, `optimiser_step`, `sample_in_chunks`. `mismatch`: which pairs are wrong.
`text_encoders`: `CharCNNRNN`, `JointEmbeddingStage`. Models: `text_dcgan` (Reed et al. 2016).
"""

__all__ = ["interface", "mismatch", "text_dcgan", "text_encoders"]
