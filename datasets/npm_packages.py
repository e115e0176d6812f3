"""Packages of exact versions from npm: found in a folder of the user, or fetched once with the `npm pack` client."""

import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import cache_folder, whole_folder
from .user_files import opened_root, parse_json, read_text, short

FETCH_SECONDS = 600
MAX_UNPACKED_BYTES = 512 << 20


@dataclass(frozen=True)
class Package:
    """One npm package and what is wanted of it: files, or folders that end in "/"."""

    name: str
    version: str
    wanted: tuple[str, ...]

    @property
    def spec(self) -> str:
        """As npm writes it: "@iconify-json/noto@1.2.9"."""
        return f"{self.name}@{self.version}"

    @property
    def stem(self) -> str:
        """As `npm pack` names the tarball: "iconify-json-noto-1.2.9"."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}"


def located(source: str, packages: Sequence[Package], root: Path | None) -> dict[str, Path]:
    """Return the folder of each package by its name, checked for name, version and the wanted files.

    Below `root` a package lies in NAME or node_modules/NAME (as `npm install` leaves it), or in STEM or
    STEM/package (as the tarball of `npm pack` unpacks). Without `root` what the cache lacks is fetched.
    """
    return _fetched(source, packages) if root is None else _found(source, packages, opened_root(source, root))


def _found(source: str, packages: Sequence[Package], root: Path) -> dict[str, Path]:
    folders = {}
    missing = []
    for package in packages:
        places = [root / package.name, root / "node_modules" / package.name, root / package.stem / "package"]
        places.append(root / package.stem)
        folder = next((place for place in places if (place / "package.json").is_file()), None)
        if folder is None:
            missing.append(package)
        else:
            _check(root, folder, package)
            folders[package.name] = folder.resolve()
    if missing:
        names = ", ".join(package.spec for package in missing)
        first = missing[0]
        looked = f"looked for {root / first.name}, {root / 'node_modules' / first.name} and {root / first.stem}"
        specs = " ".join(package.spec for package in missing)
        raise UserError(f"{source}: missing {names} ({looked}); get them: npm install --prefix {root} {specs}")
    return folders


def _fetched(source: str, packages: Sequence[Package]) -> dict[str, Path]:
    folders = {package.name: cache_folder() / "npm" / package.stem for package in packages}
    missing = [package for package in packages if not folders[package.name].is_dir()]
    npm = shutil.which("npm")
    if missing and npm is None:
        names = ", ".join(package.spec for package in missing)
        raise UserError(f"{source}: install npm to fetch its packages, or give --root DIR with them: {names}")
    for package in missing:
        _fetch(source, str(npm), package, folders[package.name])
    for package in packages:
        folders[package.name] = folders[package.name].resolve()
        _check(folders[package.name], folders[package.name], package)
    return folders


def _fetch(source: str, npm: str, package: Package, folder: Path) -> None:
    """Fetch one package into `folder`, whole or not at all; nothing of it is run."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [npm, "pack", package.spec, "--ignore-scripts", "--pack-destination", scratch]
        instead = "try again, or give --root DIR with the packages"
        try:
            done = subprocess.run(
                command, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=FETCH_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"{source}: npm pack {package.spec} did not run ({error}); {instead}") from error
        tarballs = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(tarballs) != 1:
            reason = short(" ".join(done.stderr.split()), 200) or f"exit code {done.returncode}, no tarball"
            raise UserError(f"{source}: npm pack {package.spec} failed ({reason}); {instead}")
        with whole_folder(folder) as temporary:
            _unpack(tarballs[0], temporary, package)
            _check(temporary.resolve(), temporary.resolve(), package)


def _unpack(tarball: Path, folder: Path, package: Package) -> None:
    """Unpack package.json and the wanted files, which a tarball of npm keeps below "package/"."""
    try:
        with tarfile.open(tarball) as archive:
            wanted = [member for member in archive if _is_wanted(member, package)]
            if sum(member.size for member in wanted) > MAX_UNPACKED_BYTES:
                raise UserError(f"{package.spec}: its files unpack to over {MAX_UNPACKED_BYTES >> 20} MiB")
            for member in wanted:
                member.name = member.name.removeprefix("package/")
                archive.extract(member, folder, filter="data")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{package.spec}: its tarball does not unpack ({error}); try again") from error


def _is_wanted(member: tarfile.TarInfo, package: Package) -> bool:
    name = member.name.removeprefix("package/")
    wanted = ("package.json", *package.wanted)
    return member.isfile() and any(name == entry or (entry[-1] == "/" and name.startswith(entry)) for entry in wanted)


def _check(root: Path, folder: Path, package: Package) -> None:
    """Raise UserError unless `folder` holds the wanted files of exactly this package and version."""
    path = folder / "package.json"
    said = parse_json(read_text(root, path), str(path))
    name, version = (said.get("name"), said.get("version")) if isinstance(said, dict) else (None, None)
    if (name, version) != (package.name, package.version):
        got = short(f"{name}@{version}" if name else repr(said), 100)
        raise UserError(f"{path}: expected {package.spec}, got {got}; npm install {package.spec}")
    for entry in package.wanted:
        if not (folder / entry).exists():
            raise UserError(f"{folder / entry}: missing; {package.spec} has it, so install the package again")
