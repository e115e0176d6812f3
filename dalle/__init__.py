"""DALL-E: image tokenizers, the transformer that draws their codes after a caption, and CLIP that picks the best.

The model: `model`. Image tokenizers, behind `image_tokenizer`: `dvae`, `vqvae2`, `fsq`; `tokenizers_of_images` opens
one. Codes after captions: `transformer`, taught by `prior`, drawn by `sampler` (on a GPU also with
`cuda_graphs`), given by `image_prompt`. `clip` and `reranking` choose.
"""

__all__ = ["clip", "cuda_graphs", "dvae", "fsq", "image_prompt", "image_tokenizer", "model", "prior",
           "reranking", "sampler", "tokenizers_of_images", "transformer", "vqvae2"]
