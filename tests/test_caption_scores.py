"""BLEU-4 and CIDEr-D: against torchmetrics, against values by hand, and what must not change them."""

import math
import random

import numpy as np
import pytest
from torchmetrics.text import BLEUScore

from t2ibench.errors import UserError
from t2ibench.eval.caption_scores import score_captions

WORDS = "a an the red blue small big circle square star left right of above on white".split()


def corpus(seed, images=12, spread=9):
    """Random captions of 4 words and more, and for each two to four others that share some of its words in order."""
    rng = random.Random(seed)
    generated = [" ".join(rng.choices(WORDS, k=rng.randint(4, 4 + spread))) for _ in range(images)]
    references = []
    for caption in generated:
        words = caption.split()
        others = [[*words[: rng.randint(0, len(words))], *rng.choices(WORDS, k=rng.randint(4, 4 + spread))]
                  for _ in range(rng.randint(2, 4))]  # fmt: skip
        references.append(sorted((" ".join(some) for some in others), key=lambda text: len(text.split())))
    return generated, references


def bleu(generated, references):
    return float(score_captions(generated, references).scores["bleu_4"].value)


@pytest.mark.parametrize("seed", range(8))
def test_bleu_is_torchmetrics(seed):
    # References stand shortest first: of two equally near ones torchmetrics takes the first, we the shorter.
    generated, references = corpus(seed, spread=3 + 2 * seed)
    theirs = BLEUScore()
    theirs.update(generated, references)
    assert bleu(generated, references) == pytest.approx(float(theirs.compute()), rel=1e-5)
    assert bleu(generated, references) > 0


def test_bleu_punishes_captions_shorter_than_the_nearest_reference():
    # All runs match; 4 + 4 words came for 5 + 4.
    generated = ["a red star above", "a blue star on"]
    references = [["a red star above it"], ["a blue star on"]]
    assert bleu(generated, references) == pytest.approx(math.exp(1 - 9 / 8))


def test_bleu_counts_a_repeated_word_as_often_as_a_reference_has_it():
    long = "the small big red blue star"
    generated, references = [f"the the the {long}", long], [[f"the {long}"], [long]]
    # Of 15, 13, 11 and 9 runs, 13, 11, 9 and 7 match: "the the the" has one of each too many, and two.
    assert bleu(generated, references) == pytest.approx((13 / 15 * 11 / 13 * 9 / 11 * 7 / 9) ** 0.25)


def test_bleu_is_nothing_without_a_run_of_four():
    generated, references = ["a red star above", "blue"], [["a red star on"], ["blue"]]
    assert bleu(generated, references) == 0


def test_the_jackknife_of_bleu_is_the_one_by_hand():
    generated, references = corpus(3, images=9)
    n = len(generated)
    without = [bleu(generated[:i] + generated[i + 1 :], references[:i] + references[i + 1 :]) for i in range(n)]
    stderr = float(score_captions(generated, references).scores["bleu_4"].stderr)
    assert stderr == pytest.approx(math.sqrt((n - 1) / n * np.square(np.array(without) - np.mean(without)).sum()))


def test_the_jackknife_of_bleu_is_its_spread_over_corpora():
    drawn = [score_captions(*corpus(seed, images=60)).scores["bleu_4"] for seed in range(100)]
    spread = np.std([float(score.value) for score in drawn])
    assert np.mean([float(score.stderr) for score in drawn]) == pytest.approx(spread, rel=0.2)


def test_cider_by_hand():
    generated = ["red star", "blue star"]
    references = [["red star", "red big star"], ["blue square"]]
    # Every run stands in the references of one of 2 images or of none: all weigh ln 2, which a cosine does not see.
    cider = score_captions(generated, references).per_image["cider"]
    one = 1.0  # single words of the first: both rare, equal
    shared = 2 / math.sqrt(2 * 3)  # `red star` in `red big star`: 2 of 3 words
    late = math.exp(-1 / 72)  # one word longer
    first = 10 * ((one + shared * late) / 2 + (1 + 0) / 2) / 4
    second = 10 * (1 / math.sqrt(2 * 2)) / 4  # `blue` of two words each
    np.testing.assert_allclose(cider, [first, second], rtol=1e-12)


def test_cider_takes_no_account_of_what_every_image_shows():
    generated = ["a red star", "a blue star"]
    references = [["a red circle"], ["a blue square"]]
    # `a` is in all references and weighs nothing; `star` is in none and weighs as if it were in one.
    words = 1 / math.sqrt(2 * 2)
    pairs = 1 / math.sqrt(2 * 2)
    np.testing.assert_allclose(score_captions(generated, references).per_image["cider"], 10 * (words + pairs) / 4)


def test_cider_gains_nothing_from_repetition():
    plain = score_captions(["red star", "blue star"], [["red circle"], ["blue square"]]).per_image["cider"][0]
    padded = score_captions(["red red red star", "blue star"], [["red circle"], ["blue square"]]).per_image["cider"][0]
    # Three times `red` counts as one beside a vector of length sqrt(10), two words longer than the reference.
    assert padded == pytest.approx(plain * math.sqrt(2 / 10) * math.exp(-4 / 72))


def test_a_caption_that_is_its_only_reference_is_worth_ten():
    generated, _ = corpus(1)
    scores = score_captions(generated, [[caption] for caption in generated])
    np.testing.assert_allclose(scores.per_image["cider"], 10)
    assert float(scores.scores["bleu_4"].value) == pytest.approx(1)


def test_order_of_images_and_of_references_changes_nothing():
    generated, references = corpus(5)
    before = score_captions(generated, references)
    order = random.Random(0).sample(range(len(generated)), len(generated))
    after = score_captions([generated[i] for i in order], [references[i][::-1] for i in order])
    np.testing.assert_allclose(after.per_image["cider"], before.per_image["cider"][order])
    for name in ("bleu_4", "cider"):
        assert float(after.scores[name].value) == pytest.approx(float(before.scores[name].value))
        assert float(after.scores[name].stderr) == pytest.approx(float(before.scores[name].stderr))


def test_captions_of_other_images_are_worth_less():
    generated, references = corpus(6, images=40)
    own, others = (score_captions(generated, some) for some in (references, references[1:] + references[:1]))
    for name in ("bleu_4", "cider"):
        assert float(others.scores[name].value) < 0.5 * float(own.scores[name].value)


def test_marks_and_capitals_make_no_difference():
    plain = score_captions(["two shapes a red star", "a blue star"], [["two shapes a red star"], ["a blue dot"]])
    marked = score_captions(["Two shapes: a red star.", "a blue star"], [["two shapes , a red star"], ["A blue dot!"]])
    np.testing.assert_array_equal(plain.per_image["cider"], marked.per_image["cider"])


def test_the_mean_and_its_error_are_those_of_the_images():
    generated, references = corpus(7)
    scores = score_captions(generated, references)
    each = scores.per_image["cider"]
    assert float(scores.scores["cider"].value) == pytest.approx(each.mean())
    assert float(scores.scores["cider"].stderr) == pytest.approx(each.std(ddof=1) / math.sqrt(len(each)))
    assert int(scores.scores["cider"].n) == int(scores.scores["bleu_4"].n) == len(each)


def test_nothing_said_is_worth_nothing():
    scores = score_captions(["", "!"], [["a star"], ["a dot"]])
    assert scores.per_image["cider"].tolist() == [0, 0] and float(scores.scores["bleu_4"].value) == 0


@pytest.mark.parametrize(("generated", "references", "message"), [
    (["a"], [["a"], ["b"]], "1 captions came for 2 images"),
    (["a"], [["a"]], "expected 2 or more"),
    (["a", "b"], [["a"], []], "1 of 2 images have no caption"),
])  # fmt: skip
def test_what_cannot_be_scored_is_said(generated, references, message):
    with pytest.raises(UserError, match=message) as caught:
        score_captions(generated, references)
    assert "\n" not in str(caught.value)
