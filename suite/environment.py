"""What a run ran on."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import __version__

PACKAGES = ("torch", "torchmetrics", "numpy", "scipy", "pandas", "pillow", "safetensors")


def describe_environment() -> dict[str, Any]:
    """Return versions, device, threads and the code's revision, JSON-able."""
    device = torch.get_default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "t2ibench": __version__, "python": platform.python_version(), "system": platform.platform(),
        "packages": {package: package_version(package) for package in PACKAGES},
        "device": device.type, "device_name": name, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
        "revision": code_revision(),
    }  # fmt: skip


def package_version(package: str) -> str | None:
    """Return an installed package's version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def code_revision() -> dict[str, Any] | None:
    """Return the commit of the checkout that the package runs from and whether files differ from it, or None."""
    folder = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder:
            return None
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
