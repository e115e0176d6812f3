"""DALL-E: image tokenizers, the transformer that draws their codes after a caption, and CLIP that picks the best."""
