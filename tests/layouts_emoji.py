"""The npm packages of `emoji-full` as npm unpacks them, with a few icons: discs whose colour the caption says."""

import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLORS = {
    "red": "#dd2020", "blue": "#2040dd", "green": "#20b030", "purple": "#9020c0", "yellow": "#f0d020",
    "gold": "#d0a020", "teal": "#108080", "brown": "#704020", "navy": "#202060",
}  # fmt: skip
EMOJIS: list[dict[str, Any]] = [
    {"hexcode": "1F534", "label": "red circle", "group": 8, "tags": ["geometric", "lol"], "version": 0.6},
    {"hexcode": "1F535", "label": "blue circle", "group": 8, "tags": ["geometric"], "version": 0.6},
    {"hexcode": "1F7E2", "label": "green circle", "group": 8, "tags": ["geometric"], "version": 12},
    {"hexcode": "1F7E3", "label": "purple circle", "group": 8, "version": 12},
    {"hexcode": "1F7E1", "label": "yellow circle", "group": 8, "version": 12},
    {"hexcode": "1F638", "label": "grinning cat with smiling eyes", "group": 0, "tags": ["animal"], "version": 0.6},
    {"hexcode": "1F639", "label": "cat with tears of joy", "group": 0, "tags": ["animal"], "version": 0.6},
    {"hexcode": "1F1EB-1F1F7", "label": "flag: France", "group": 9, "tags": ["FR", "flag"], "version": 2},
]
"""What every artist draws; the judges below only some."""
RIMS = ("#000", "#888", "#f80", "#0ff", "#f0f", "#8f0", "#fa9", "#44f", "#084", "#aab")
"""Each artist's rim of the discs."""
COLOR_OF = dict(zip([row["hexcode"] for row in EMOJIS], [*COLORS][:5] + ["gold", "teal", "navy"], strict=True))
JUDGES = {"1F9D1": "judge", "1F468": "man judge", "1F469": "woman judge"}
VERSIONS = {
    "noto": "1.2.9", "noto-v1": "1.2.5", "twemoji": "1.2.5", "openmoji": "1.2.29", "fluent-emoji-flat": "1.2.6",
    "fxemoji": "1.2.2", "emojione": "1.2.3", "emojione-v1": "1.2.3", "streamline-emojis": "1.2.4",
}  # fmt: skip
WITH_CODE_POINTS = ("noto", "twemoji", "openmoji", "fluent-emoji-flat")


def emoji_full(root: Path) -> Path:
    """Write the eleven packages below `root`/node_modules: 105 pictures by ten artists; return `root`."""
    modules = root / "node_modules"
    _package(modules, "emojibase-data", "17.0.0", {"en/data.json": json.dumps(_emojibase())})
    for number, (name, version) in enumerate(VERSIONS.items()):
        files = {"icons.json": _icons(name, number), "chars.json": _chars(name), "info.json": {}}
        texts = {path: json.dumps(value) for path, value in files.items()}
        _package(modules, f"@iconify-json/{name}", version, texts)
    folder = _package(modules, "@lobehub/fluent-emoji-3d", "1.1.0", {"README.md": ""})
    (folder / "assets").mkdir()
    for row in EMOJIS:
        image = Image.new("RGBA", (64, 64))
        ImageDraw.Draw(image).ellipse((10, 10, 54, 54), fill=COLORS[COLOR_OF[row["hexcode"]]], outline=RIMS[9], width=9)
        image.save(folder / "assets" / f"{row['hexcode'].lower()}-fe0f.webp", lossless=True)
    (folder / "assets" / "unknown-name.webp").write_bytes(b"not looked at")
    return root


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of the object in a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tarballs(root: Path, to: Path) -> Path:
    """Write each package below `root`/node_modules as the tarball that `npm pack` leaves; return `to`."""
    to.mkdir()
    for said in (root / "node_modules").rglob("package.json"):
        package = json.loads(said.read_text())
        stem = f"{package['name'].removeprefix('@').replace('/', '-')}-{package['version']}"
        with tarfile.open(to / f"{stem}.tgz", "w:gz") as archive:
            archive.add(said.parent, "package")
    return to


def _emojibase() -> list[dict[str, Any]]:
    regional = {"hexcode": "1F1E6", "label": "regional indicator A"}
    component = {"hexcode": "1F3FF", "label": "dark skin tone", "group": 2, "version": 1}
    judges = [
        {
            "hexcode": f"{person}-200D-2696-FE0F", "label": label, "group": 1, "tags": ["law", "man"], "version": 4,
            "skins": [{"hexcode": f"{person}-1F3FF-200D-2696-FE0F", "label": f"{label}: dark skin tone", "tone": 5}],
        }
        for person, label in JUDGES.items()
    ]  # fmt: skip
    return [regional, component, *EMOJIS, *judges]


def _icons(package: str, number: int) -> dict[str, Any]:
    """Return icons.json; every artist draws the discs with a rim of another colour, and the coded ones judges too."""
    rim = RIMS[number]
    icons: dict[str, Any] = {_name(package, row): {"body": _disc(COLOR_OF[row["hexcode"]], rim)} for row in EMOJIS}
    if package in WITH_CODE_POINTS:
        for height, label in enumerate(JUDGES.values()):
            icons[label.replace(" ", "-")] = {"body": _disc("brown", rim, 30 + 9 * height)}
            icons[f"{label.replace(' ', '-')}-dark-skin-tone"] = {"body": _disc("navy", rim, 30 + 9 * height)}
        icons["outdated"] = {"body": _disc("brown", rim), "hidden": True}
    icons["letter-a"] = {"body": _disc("brown", rim)}
    aliases = {"crimson-circle": {"parent": "red-circle"}} if package == "noto" else {}
    if package == "streamline-emojis":
        icons["red-circle-2"] = {"body": _disc("red", "#dd0")}
    if package == "fxemoji":  # one that is drawn twice as tall as wide
        icons["largeredcircle"] |= {"width": 64, "body": _disc("red", rim).replace('cx="64"', 'cx="32" ')}
    return {"prefix": package, "icons": icons, "aliases": aliases, "width": 128, "height": 128}


def _chars(package: str) -> dict[str, str]:
    if package not in WITH_CODE_POINTS:
        return {}
    chars = {row["hexcode"].lower(): _name(package, row) for row in EMOJIS}
    for person, label in JUDGES.items():
        slug = label.replace(" ", "-")
        chars |= {f"{person}-200D-2696".lower(): slug, f"{person}-1F3FF-200D-2696".lower(): f"{slug}-dark-skin-tone"}
    return chars | {"1f1e6": "letter-a"}


def _name(package: str, row: dict[str, Any]) -> str:
    """Return what the artist calls the icon of an emoji: each has its own way."""
    label = row["label"].replace(": ", "-").replace(" ", "-").lower()
    ways = {
        "fxemoji": {"red-circle": "largeredcircle", "flag-france": "franceflag"},
        "emojione": {"flag-france": "flag-for-france", "cat-with-tears-of-joy": "cat-with-tears-of-joy"},
        "emojione-v1": {"flag-france": "flag-for-flag-france", "red-circle": "crimson-circle"},
        "streamline-emojis": {"flag-france": "france", "red-circle": "red-circle-1"},
    }
    return ways.get(package, {}).get(label, label)


def _disc(color: str, rim: str, radius: int = 52) -> str:
    fill = f'<linearGradient id="a"><stop stop-color="{COLORS[color]}"/></linearGradient>'
    return (
        f'<defs>{fill}</defs><circle cx="64" cy="64" r="{radius}" fill="url(#a)" stroke="{rim}" stroke-width="20"/>'
    )


def _package(modules: Path, name: str, version: str, files: dict[str, str]) -> Path:
    folder = modules / name
    for path, text in {"package.json": json.dumps({"name": name, "version": version}), **files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder
