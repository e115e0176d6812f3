"""The GAN lineage: the interface of a model, text encoders, and one file a model.

`interface`: `TextToImage`, `Stage`, `optimiser_step`. `text_encoders`: `CharCNNRNN`, `JointEmbeddingStage`.
`text_dcgan`: Reed et al. 2016.
"""

__all__ = ["interface", "text_dcgan", "text_encoders"]
