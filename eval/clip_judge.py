"""The judge `clip`: OpenAI's CLIP ViT-B/32, the network that the CLIP score is defined by (extra `[clip]`).

Beside it the larger ones: `clip-vit-b16`, `clip-vit-l14`, and `clip-vit-l14-336`, by which CMMD is defined. Their
scores do not compare with each other's. Radford et al. 2021, arXiv 2103.00020; Hessel et al. 2021, arXiv 2104.08718;
CMMD: Jayasumana et al. 2024, arXiv 2401.09603.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..baselines.published_weights import fill
from ..baselines.text_transformer import text_fingerprint
from ..dalle.clip_inputs import open_tokenizer, prepare
from ..errors import UserError
from ..files import digest_of, digest_of_file, read_json
from .judges import Look, Training, at_once
from .weights import find_weights

FOLDERS: Mapping[str, str] = {
    "clip": "clip-vit-base-patch32",
    "clip-vit-b16": "clip-vit-base-patch16",
    "clip-vit-l14": "clip-vit-large-patch14",
    "clip-vit-l14-336": "clip-vit-large-patch14-336",
}
"""Of each judge, named as published."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONTEXT = 77
"""Tokens of a caption, start and end included; longer captions are cut before the end token."""


def open_judge(training: Training) -> "ClipJudge":
    """Return `clip` with the published weights; raise UserError saying what to fetch for it."""
    return _open("clip")


def open_b16(training: Training) -> "ClipJudge":
    """Return `clip-vit-b16`, likewise."""
    return _open("clip-vit-b16")


def open_l14(training: Training) -> "ClipJudge":
    """Return `clip-vit-l14`, likewise."""
    return _open("clip-vit-l14")


def open_l14_336(training: Training) -> "ClipJudge":
    """Return `clip-vit-l14-336`, likewise."""
    return _open("clip-vit-l14-336")


def _open(name: str) -> "ClipJudge":
    return ClipJudge(name, find_weights(name, (FOLDERS[name],), published(FOLDERS[name])))


def published(folder: str) -> str:
    """Return where a folder of weights is published and what belongs into it."""
    return f"openai/{folder} on Hugging Face (config.json, tokenizer.json, {' or '.join(WEIGHTS)})"


class ClipJudge:
    """Embeddings of images and captions, of unit length; before that, the images' are the features."""

    BATCH = 64
    """Captions at a time."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        weights = find_file(folder, *WEIGHTS)
        config, tokens = find_file(folder, "config.json"), find_file(folder, "tokenizer.json")
        self.network = _network(name, config)
        fill(self.network, weights)
        self.side: int = self.network.config.vision_config.image_size
        self.tokenizer = open_tokenizer(tokens, CONTEXT)
        digest = digest_of([digest_of_file(path) for path in (weights, config, tokens)])
        self.id = f"{name}:{digest[:12]}:bicubic-antialias-{self.side}"
        self.fingerprint = text_fingerprint(self.network.text_model.embeddings.token_embedding.weight)

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> Look:
        """Return features and embeddings [N, E] of images uint8 [N, 3, H, W]."""
        batches = torch.split(images.to(self.network.device), at_once(self.network.device))
        features = torch.cat([self._see(some) for some in batches]).cpu()
        return Look(features=features, embeddings=F.normalize(features, dim=1))

    @torch.no_grad()
    def caption_embeddings(self, captions: Sequence[str]) -> torch.Tensor:
        """Return float32 [N, E] of unit length."""
        blocks = [captions[start : start + self.BATCH] for start in range(0, len(captions), self.BATCH)]
        return F.normalize(torch.cat([self._read(block) for block in blocks]), dim=1).cpu()

    def _see(self, images: torch.Tensor) -> torch.Tensor:
        seen = self.network.vision_model(pixel_values=prepare(images, self.side))
        projected: torch.Tensor = self.network.visual_projection(seen.pooler_output)
        return projected

    def _read(self, captions: Sequence[str]) -> torch.Tensor:
        encoded = self.tokenizer.encode_batch(list(captions))
        device = self.network.device
        read = self.network.text_model(
            input_ids=torch.tensor([row.ids for row in encoded], device=device),
            attention_mask=torch.tensor([row.attention_mask for row in encoded], device=device),
        )
        projected: torch.Tensor = self.network.text_projection(read.pooler_output)
        return projected


def find_file(folder: Path, *names: str) -> Path:
    """Return the first of `names` that is in `folder`; raise UserError when none is."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: has no {' or '.join(names)}; fetch it from {published(folder.name)}")


def _network(judge: str, path: Path) -> Any:
    try:
        from transformers import CLIPConfig, CLIPModel
    except ModuleNotFoundError as error:
        raise UserError(f"judge {judge!r} needs the package transformers: pip install t2ibench[clip]") from error
    config = read_json(path)
    if not isinstance(config, dict) or config.get("model_type") != "clip":
        raise UserError(f"{path}: not the configuration of a CLIP; fetch it from {published(path.parent.name)}")
    try:
        return CLIPModel(CLIPConfig.from_dict(config))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not the configuration of a CLIP ({type(error).__name__})") from error
