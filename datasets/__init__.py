"""Captioned images: the interface, one file a source, the memory-mapped store, the loader, tokenizers of text.

`captioned`: `CaptionedDataset`, `Batch`, `Source`, `Chunk`. `store`: `prepare`, `Store`. `loader`: `Loader`.
`audit`: `check`. `tokenizers`: `Tokenizer`, `CharacterTokenizer`, `WordTokenizer`, `tokenizer_from_json`. `bpe`:
`BPETokenizer`. Sources, each with `open_source`: `scenes`, `emoji`, `emoji_full`, `cub`, `oxford102`, `coco`,
`flickr`, `webdataset`, `imagefolder`. For sources of files: `image_files`, `user_files`, `images`, `legacy_pickles`.
"""

__all__ = ["audit", "bpe", "captioned", "coco", "cub", "emoji", "emoji_full", "flickr", "image_files", "imagefolder",
           "images", "legacy_pickles", "loader", "oxford102", "scenes", "store", "tokenizers", "user_files",
           "webdataset"]
