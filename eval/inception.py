"""The judge `inception`: Inception-v3 as released in 2015, the network that FID and IS are defined by.

The network is in `baselines/inception_network.py`; images are resized for it as TensorFlow 1 did.
Heusel et al. 2017, arXiv 1706.08500.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..baselines.inception_network import SIDE, InceptionV3
from ..baselines.published_weights import fill
from ..files import digest_of_file
from .judges import Look, Training, at_once
from .resize import tf1_bilinear
from .weights import find_weights

FILES = ("pt_inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05.safetensors")
PUBLISHED = "release fid_weights of github.com/mseitzer/pytorch-fid"


def open_judge(training: Training) -> "InceptionJudge":
    """Return the judge with the published weights; raise UserError saying what to fetch for it."""
    return InceptionJudge(find_weights("inception", FILES, PUBLISHED))


class InceptionJudge:
    """2,048 pooled features, and probabilities of the 1,008 classes from the logits without their bias."""

    name = "inception"

    def __init__(self, path: Path) -> None:
        self.network = InceptionV3()
        fill(self.network, path)
        self.network.fold()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.id = f"inception-2015:{digest_of_file(path)[:12]}:tf1-bilinear-{SIDE}"

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> Look:
        """Return features [N, 2048] and class probabilities [N, 1008] of images uint8 [N, 3, H, W]."""
        device = self.network.fc.weight.device
        parts = torch.split(images, at_once(device))
        features = torch.cat([self.network(tf1_bilinear(some.to(device), SIDE)).pooled for some in parts])
        logits = features @ self.network.fc.weight.T
        return Look(features=features.cpu(), class_probabilities=logits.softmax(dim=1).cpu())

    def caption_embeddings(self, captions: Sequence[str]) -> None:
        """Return None: the network reads no text."""
        return None
