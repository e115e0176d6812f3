"""The captioner: it learns to say what images show, it is kept, and its words do not hang on how it is asked."""

import math

import numpy as np
import pytest
import torch

from t2ibench.datasets.captioned import Batch
from t2ibench.datasets.tokenizers import WordTokenizer
from t2ibench.errors import UserError
from t2ibench.eval import captioner, taught
from t2ibench.eval.caption_scores import score_captions
from t2ibench.eval.captioner import Captioner, CaptionNetwork, open_captioner, save_captioner
from t2ibench.eval.judges import Reader, Training

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
NAMES = list(COLOURS)


class Halves:
    """Images whose left and right half are of one colour each, and say so; every seventh has no caption."""

    name, split, image_size, class_names = "halves", "train", 16, ()
    digest = "halves"

    def __len__(self):
        return 112

    def _colours(self, index):
        return NAMES[index % 4], NAMES[index // 4 % 4]

    def captions(self, index):
        left, right = self._colours(index)
        return [] if index % 7 == 6 else [f"{left} is beside the {right}", f"A {left} half, then {right}."]

    def batch(self, indices, draws=None):
        images = torch.zeros(len(indices), 3, 16, 16, dtype=torch.uint8)
        for image, index in zip(images, indices, strict=True):
            for half, colour in zip((slice(0, 8), slice(8, 16)), self._colours(index), strict=True):
                image[:, :, half] = torch.tensor(COLOURS[colour], dtype=torch.uint8)[:, None, None]
        draws = [0.0] * len(indices) if draws is None else draws
        captions = [(self.captions(at) or ["", ""])[int(draw * 2)] for at, draw in zip(indices, draws, strict=True)]
        return Batch(images=images, captions=captions, ids=[str(index) for index in indices])

    def scene(self, index):
        return None


DATA = Halves()
DESCRIBED = [index for index in range(len(DATA)) if DATA.captions(index)]


@pytest.fixture(scope="module")
def judge(cache):
    """A captioner that learnt the halves."""
    heard = []
    training = Training(
        train=lambda: DATA, held_out=lambda: DATA, progress=lambda done, total: heard.append((done, total))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captioner, "IMAGES", 64 * 45)
        opened = open_captioner(training)
        assert heard[-1] == (2_880, 2_880) and len(heard) == 45
        assert open_captioner(training).id == opened.id and len(heard) == 45
    return opened


def test_it_says_what_it_sees(judge):
    said = judge.captions(DATA.batch(DESCRIBED).images)
    marks = ["".join(mark for mark in caption if mark.isalnum() or mark == " ").lower().split() for caption in said]
    known = [[caption.lower().replace(",", "").replace(".", "").split() for caption in DATA.captions(index)]
             for index in DESCRIBED]  # fmt: skip
    right = sum(words in some for words, some in zip(marks, known, strict=True))
    assert right >= 0.95 * len(said)
    assert judge.held_out["bleu_4"] > 0.9 and judge.held_out["cider"] > 3


def test_what_it_says_is_scored_against_all_captions_of_the_image(judge):
    batch = DATA.batch(DESCRIBED)
    references = [DATA.captions(index) for index in DESCRIBED]
    reading = judge.compare(judge.read(batch.images), batch.captions, references)
    expected = score_captions(judge.captions(batch.images), references)
    np.testing.assert_array_equal(reading.values["cider"], expected.per_image["cider"])
    assert reading.whole == {"bleu_4": expected.scores["bleu_4"]}
    assert float(reading.whole["bleu_4"].value) == pytest.approx(judge.held_out["bleu_4"], abs=1e-6)
    away = judge.compare(judge.read(batch.images.roll(1, 0)), batch.captions, references).values["cider"]
    assert away.mean() < 0.7 * reading.values["cider"].mean()
    # Without others an image's own caption is what there is to compare with.
    alone = judge.compare(judge.read(batch.images), batch.captions, [[] for _ in DESCRIBED]).values["cider"]
    own = [[caption] for caption in batch.captions]
    same = judge.compare(judge.read(batch.images), batch.captions, own).values["cider"]
    np.testing.assert_array_equal(alone, same)


def test_captions_of_the_image_are_likelier_than_others(judge):
    batch = DATA.batch(DESCRIBED)
    own = judge.log_likelihood(batch.images, batch.captions)
    # Two forms of one caption: ln 2 over its words is the best there is.
    assert own.shape == (len(DESCRIBED),) and own.mean() > -0.5
    other = judge.log_likelihood(batch.images, batch.captions[1:] + batch.captions[:1])
    assert (own > other).float().mean() > 0.95
    assert judge.held_out["log_likelihood"] == pytest.approx(float(own.mean()), abs=1e-5)


def test_likelihood_is_that_of_the_words_one_by_one(judge):
    images, caption = DATA.batch([1]).images, "green beside red"
    tokens = judge.tokenizer([caption])[:, :4]
    total = 0.0
    with torch.no_grad():
        seen, state = judge.network.see(images), None
        word = torch.tensor([[WordTokenizer.end]])
        for number in tokens[0]:
            states, state = judge.network.lstm(judge.network.embed(word) + seen, state)
            total += float(judge.network.say(states[0, 0]).log_softmax(0)[number])
            word = number.view(1, 1)
    assert float(judge.log_likelihood(images, [caption])) == pytest.approx(total / 4, abs=1e-4)


def test_neighbours_change_nothing(judge, monkeypatch):
    batch = DATA.batch(DESCRIBED[:11])
    said, likely = judge.captions(batch.images), judge.log_likelihood(batch.images, batch.captions)
    monkeypatch.setattr(Captioner, "BATCH", 4)
    assert judge.captions(batch.images[[9, 2]]) == [said[9], said[2]]
    assert judge.captions(batch.images) == said
    long = "red " * 30
    padded = judge.log_likelihood(batch.images, [*batch.captions[:10], long])
    torch.testing.assert_close(padded[:10], likely[:10], rtol=1e-4, atol=1e-4)


def test_what_it_says_is_the_most_probable_word_each_time(judge):
    images = DATA.batch(DESCRIBED[:6]).images
    said = judge.network.write(images, captioner.CONTEXT - 1)
    with torch.no_grad():
        logits = judge.network(images, said)
    logits[..., [WordTokenizer.padding, WordTokenizer.unknown]] = -math.inf
    ended = (said == WordTokenizer.end).int().cumsum(1) > 1
    assert ((logits.argmax(2) == said) | ended | (said == WordTokenizer.padding)).all()


def test_it_never_says_a_word_it_does_not_know():
    torch.manual_seed(0)
    network = CaptionNetwork(vocabulary=8, side=16).eval()
    network.say.bias.data[[WordTokenizer.padding, WordTokenizer.unknown]] = 100
    words = network.write(DATA.batch(range(8)).images, 9)
    assert words.shape[1] <= 9 and (words >= WordTokenizer.end).all()


def test_images_of_any_size_and_number(judge):
    images = DATA.batch(DESCRIBED[:5]).images
    large = images.repeat_interleave(3, 2).repeat_interleave(3, 3)
    assert len(judge.captions(large)) == 5 and judge.captions(images[:0]) == []
    assert judge.log_likelihood(images[:0], []).shape == (0,)
    assert judge.name == "captioner" and isinstance(judge, Reader)
    assert judge.id.startswith("captioner-r2:") and judge.id.endswith(":bicubic-antialias-16")
    with pytest.raises(ValueError, match="2 captions and 5 images"):
        judge.log_likelihood(images, ["red", "blue"])


def test_images_are_no_larger_than_they_need_be():
    sides = {16: 16, 17: 32, 32: 32, 48: 64, 64: 64, 256: 64, 8: 16}
    for side, expected in sides.items():
        data = Halves()
        data.image_size = side
        assert taught.side_for(data) == expected


def test_steps_are_drawn_from_described_images_without_repetition():
    device = torch.device("cpu")
    steps = [batch.ids for batch in taught.drawn_batches(DATA, 20, 3, device)]
    assert all(len(set(ids)) == 20 and all(DATA.captions(int(name)) for name in ids) for ids in steps)
    assert steps == [batch.ids for batch in taught.drawn_batches(DATA, 20, 3, device)] and steps[0] != steps[1]
    assert len(next(iter(taught.drawn_batches(DATA, 500, 1, device)))) == len(DESCRIBED)


def test_without_captions_nothing_is_learnt_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(Halves, "captions", lambda self, index: [])
    path = tmp_path / "judge.safetensors"
    with pytest.raises(UserError, match="halves/train: 0 images have captions") as caught:
        save_captioner(path, Halves(), None, images=64, progress=lambda done, total: None)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "empty", "without notes"])
def test_damaged_weights_are_named(tmp_path, damage):
    path = tmp_path / "judge.safetensors"
    network = CaptionNetwork(vocabulary=5, side=16)
    notes = {"words": ["red", "blue"], "side": 16, "held_out": {}}
    taught.save_taught(path, network, notes if damage != "without notes" else {}, lambda written: {})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "empty":
        path.write_bytes(b"")
    with pytest.raises(UserError, match="judge.safetensors: not a judge of this version") as caught:
        Captioner(path)
    assert "\n" not in str(caught.value)
