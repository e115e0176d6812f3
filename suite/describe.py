"""What a model is made of, counted without building it: stages, networks, parameters, FLOPs an image."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from ..baselines.interface import DrawsOne, TextToImage
from ..datasets.captioned import Batch
from .plugins import find_model, find_preset
from .spec import resolve_config

PREFIXES = ("", "k", "M", "G", "T", "P")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What `describe` prints."""

    model: str
    preset: str
    stages: tuple[str, ...]
    parameters: dict[str, int]
    """Of each network."""
    flops_per_image: int | None
    """Two for each multiply and add of drawing one image; None where the model cannot be counted."""
    config: Any

    def lines(self) -> list[str]:
        """Return it for a reader: networks, FLOPs, and every setting by the name that `--set` takes."""
        networks = [f"  {name:<20} {count:>14,} parameters" for name, count in self.parameters.items()]
        flops = "not counted" if self.flops_per_image is None else f"{scaled(self.flops_per_image)}FLOPs"
        settings = [f"  {name} = {value}" for name, value in _flat(dataclasses.asdict(self.config))]
        return [f"{self.model}/{self.preset}: stages {', '.join(self.stages)}", *networks,
                f"  drawing one image: {flops}", *settings]  # fmt: skip


def scaled(count: int) -> str:
    """Return a count with one decimal and its SI prefix: "33.0 T"."""
    power = min(max(len(str(count)) - 1, 0) // 3, len(PREFIXES) - 1)
    return f"{count / 1000**power:.1f} {PREFIXES[power]}"


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


class Blank:
    """A data set of one black image, from which a model can name its stages."""

    name, split, digest = "blank", "train", ""
    class_names: tuple[str, ...] = ()

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __len__(self) -> int:
        return 1

    def batch(self, indices: Sequence[int] | NDArray[np.int64], draws: NDArray[np.float64] | None = None) -> Batch:
        """Return the black image as often as asked for."""
        shape = (len(indices), 3, self.image_size, self.image_size)
        images = torch.zeros(shape, dtype=torch.uint8)
        return Batch(images=images, captions=["blank"] * len(images), ids=["0"] * len(images))

    def captions(self, index: int) -> list[str]:
        """Return the one caption."""
        return ["blank"]

    def scene(self, index: int) -> None:
        """Return None: there is no ground truth."""


def describe(model: str, preset: str, settings: dict[str, Any]) -> Description:
    """Return the description of a model at a preset with settings, built on the meta device."""
    found = find_model(model)
    config = resolve_config(find_preset(found, preset), settings)
    with torch.device("meta"), torch.no_grad():
        made: TextToImage = found.make(config)
        stages = tuple(stage.name for stage in made.stages(Blank(config.image_size)))
        flops = None
        if isinstance(made, DrawsOne):
            with FlopCounterMode(display=False) as counter:
                made.draw_one()
            flops = counter.get_total_flops()
        parameters = {
            name: sum(parameter.numel() for parameter in network.parameters())
            for name, network in made.networks().items()
        }
    return Description(
        model=found.name, preset=preset, stages=stages, parameters=parameters, flops_per_image=flops, config=config
    )
