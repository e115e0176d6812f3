"""Which captions are drawn, and from which noise: the same for every model, so that runs pair up."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..datasets.captioned import CaptionedDataset
from ..errors import UserError
from ..files import seed_of

REPEATED = (32, 8)
"""Captions drawn again to see whether their images differ, and how many images of each."""
AT_ONCE = 256


class Prompt(NamedTuple):
    """A caption to draw, with the seed of its noise."""

    caption: str
    image_id: str
    """Id of the image that the caption describes."""
    number: int
    """Which of that image's captions it is."""
    seed: int

    @property
    def caption_id(self) -> str:
        """Return the id of the caption: its image's, `#` and its number."""
        return f"{self.image_id}#{self.number}"


def choose_prompts(data: CaptionedDataset, images: int, seed: int) -> list[Prompt]:
    """Return `images` captions of `data`, one an image in a seeded order, then another of each, and so on.

    The noise of a prompt is a hash of `seed`, the caption's id and how often the caption came before, so
    that it is the same for every model.
    """
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    described = list(itertools.islice((index for index in order if data.captions(index)), images))
    if not described:
        raise UserError(f"{data.name}/{data.split}: none of its {len(data)} images has a caption to draw")
    blocks = (described[start : start + AT_ONCE] for start in range(0, len(described), AT_ONCE))
    names = [name for at in blocks for name in data.batch(at).ids]
    prompts = []
    for place in range(images):
        turn, at = divmod(place, len(described))
        own, name = data.captions(described[at]), names[at]
        number = (seed_of(seed, name) + turn) % len(own)
        noise = seed_of("noise", seed, name, number, turn // len(own))
        prompts.append(Prompt(caption=own[number], image_id=name, number=number, seed=noise))
    return prompts


def repeated_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the first captions of `prompts`, each in turn as often as `REPEATED` says, with noise of its own.

    Fewer captions are taken where `prompts` has fewer different ones.
    """
    captions, times = REPEATED
    firsts = [prompts[at] for at in first_places([prompt.caption for prompt in prompts])[:captions]]
    return [prompt._replace(seed=seed_of("again", prompt.seed, number)) for prompt in firsts for number in range(times)]


def first_places(names: Sequence[str]) -> list[int]:
    """Return the places at which each name stands first, in order."""
    return sorted({name: at for at, name in reversed(list(enumerate(names)))}.values())


def first_captions(captions: Sequence[str], image_ids: Sequence[str]) -> list[int]:
    """Return the places whose caption is the first that came of its image: others are as true of that image."""
    first: dict[str, str] = {}
    pairs = enumerate(zip(captions, image_ids, strict=True))
    return [at for at, (caption, name) in pairs if first.setdefault(name, caption) == caption]
