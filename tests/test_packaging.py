"""The wheel: every folder is in it, it lives beside Hugging Face's `datasets`, and the command runs."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import t2ibench
from t2ibench.suite import plugins

ROOT = Path(t2ibench.__file__).resolve().parent


def packages() -> dict[str, Path]:
    return {path.parent.name: path.parent for path in ROOT.glob("*/__init__.py")}


def test_every_folder_with_code_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"t2ibench", *(f"t2ibench.{name}" for name in packages() if name != "tests")}
    assert listed == found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    [built] = folder.glob("t2ibench-*.whl")
    return built


def test_the_wheel_holds_every_module_and_the_files_they_read(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"t2ibench/{path.relative_to(ROOT)}"
        for folder in [ROOT, *(path for name, path in packages().items() if name != "tests")]
        for pattern in ("*.py", "*.safetensors", "*.jinja", "py.typed")
        for path in folder.glob(pattern)
    }
    assert wanted <= names and not any(name.startswith("t2ibench/tests") for name in names)


def test_beside_hugging_face_datasets(wheel: Path, tmp_path: Path) -> None:
    """Both installed in an empty environment: theirs still imports, ours lists."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    pip = [tmp_path / "env" / "bin" / "pip", "install", "-q", "--disable-pip-version-check"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *constraints, "--no-deps", str(wheel)], check=True)
    # What `list` needs of our dependencies; the heavy ones stay out, which also shows that it does not need them.
    subprocess.run([*pip, *constraints, "typer", "rich"], check=True)
    subprocess.run([*pip, "datasets"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    program = "import datasets, t2ibench, t2ibench.datasets; " \
              "assert hasattr(datasets, 'load_dataset') and 't2ibench' in t2ibench.datasets.__file__"  # fmt: skip
    subprocess.run([python, "-c", program], check=True, cwd=tmp_path)
    listed = subprocess.run([tmp_path / "env" / "bin" / "t2ibench", "list"], check=True, capture_output=True, text=True)
    assert all(name in listed.stdout for name in plugins.MODELS)
