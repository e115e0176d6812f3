"""The DAMSM: its losses by hand and by the official loop, what padding and other captions may not do, Inception."""

import math

import pytest
import torch
import torch.nn.functional as F
from damsm_loop import loop_scores

from t2ibench.baselines.damsm import DAMSM, DAMSMConfig, WordLSTM, matching_loss, word_scores
from t2ibench.baselines.inception_network import InceptionV3
from t2ibench.baselines.reading import MatchingStage
from t2ibench.datasets.store import Store
from t2ibench.datasets.tokenizers import WordTokenizer
from t2ibench.errors import UserError

SMALL = DAMSMConfig(vocabulary=20, words=8, word_dim=6, text_dim=10, image_width=4, regions=8)
WORDS = ("a", "red", "blue", "circle", "square", "above")


def encoder() -> WordLSTM:
    torch.manual_seed(0)
    made = WordLSTM(SMALL).eval()
    made.tokenizers["words"] = WordTokenizer(WORDS, SMALL.words)
    return made


def some(images: int = 11, captions: int = 7, regions: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    lengths = torch.arange(captions) % 6 + 1
    mask = torch.arange(6) < lengths[:, None]
    return torch.randn(images, regions, 16), torch.randn(captions, 6, 16) * mask[:, :, None], mask


@pytest.mark.parametrize(("gamma1", "gamma2"), [(4.0, 5.0), (1.0, 2.0)])
def test_word_scores_and_their_gradients_are_those_of_the_official_loop(gamma1: float, gamma2: float) -> None:
    regions, words, mask = some()
    regions.requires_grad_()
    words.requires_grad_()
    ours = word_scores(regions, words, mask, gamma1=gamma1, gamma2=gamma2)
    theirs = loop_scores(regions, words, mask, gamma1, gamma2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    weights = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad((s * weights).sum(), (regions, words)) for s in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_gradients_of_word_scores_are_those_of_small_differences() -> None:
    regions, words, mask = some(images=9, captions=4, regions=5)
    inputs = (regions.double().requires_grad_(), words.double().requires_grad_())
    assert torch.autograd.gradcheck(lambda r, w: word_scores(r, w, mask, gamma1=4.0, gamma2=5.0), inputs)
    [by_regions] = torch.autograd.grad(word_scores(*inputs, mask, gamma1=4.0, gamma2=5.0).sum(), inputs[0],
                                       create_graph=True)  # fmt: skip
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by_regions.sum().backward()


def test_word_scores_by_hand() -> None:
    regions = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    words = torch.tensor([[[2.0, 0.0]]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    # One word takes each region whole, so that it attends to both alike: c = (1, 1), at 45 degrees to the word.
    score = word_scores(regions, words, mask, gamma1=4.0, gamma2=5.0)
    assert score.item() == pytest.approx(5 * math.sqrt(0.5), abs=1e-6)


def test_a_word_that_is_not_there_has_no_part() -> None:
    regions, words, mask = some()
    said = words.clone()
    said[~mask] = 7.0
    torch.testing.assert_close(
        word_scores(regions, said, mask, gamma1=4, gamma2=5), word_scores(regions, words, mask, gamma1=4, gamma2=5)
    )
    said.requires_grad_()
    word_scores(regions, said, mask, gamma1=4, gamma2=5).sum().backward()
    assert said.grad is not None and said.grad[~mask].abs().max() == 0 and said.grad[mask].abs().min() > 0


def test_matching_loss_by_hand() -> None:
    scores = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    by_images = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))) / 2
    by_captions = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-2))) / 2
    loss = matching_loss(scores, torch.eye(2, dtype=torch.bool))
    assert loss.item() == pytest.approx(by_images + by_captions, abs=1e-6)
    # Pairs that match are no mismatch: nothing is left to be told apart.
    assert matching_loss(scores, torch.ones(2, 2, dtype=torch.bool)).item() == 0


def test_losses_are_scaled_as_published() -> None:
    torch.manual_seed(0)
    made = DAMSM(SMALL, 32)
    images, matching = torch.rand(4, 3, 32, 32) * 2 - 1, torch.eye(4, dtype=torch.bool)
    made.encoder = encoder()
    made.image_encoder.eval()
    read = made.encoder.encode(["a red circle", "a blue square above", "red", ""])
    losses, seen = made.match(images, read, matching), made.image_encoder(images)
    cosines = F.cosine_similarity(seen.image[:, None], read.sentence[None], dim=2)
    torch.testing.assert_close(losses["sentences"], matching_loss(10 * cosines, matching))
    scores = loop_scores(seen.regions, read.words, read.mask, 4.0, 5.0)
    torch.testing.assert_close(losses["words"], matching_loss(10 * scores, matching))
    assert losses["matched"] == (cosines.argmax(1) == torch.arange(4)).float().mean()
    made.config = DAMSMConfig(gamma2_root=True)
    torch.testing.assert_close(made.match(images, read, matching)["words"], matching_loss(2 * scores, matching))


def test_the_second_lstm_reads_each_caption_backwards_within_its_own_length() -> None:
    made = encoder()
    caption = "a red circle above"
    read = made.encode([caption])
    tokens = made.tokenizers["words"]([caption])[:, :5]
    embedded = made.embed(tokens)
    there, (_, _) = made.forwards(embedded)
    back, (last, _) = made.backwards(embedded.flip(1))
    torch.testing.assert_close(read.words[:, :5], torch.cat([there, back.flip(1)], 2))
    torch.testing.assert_close(read.sentence, torch.cat([there[:, -1], last[0]], 1))
    assert read.mask.tolist() == [[True] * 5 + [False] * 3] and not read.words[:, 5:].any()


def test_a_caption_is_read_alike_beside_any_other() -> None:
    made = encoder()
    captions = ["a red circle", "", "a blue square above a red circle a red", "unknown"]
    together = made.encode(captions)
    turned = made.encode(captions[::-1])
    for ours, theirs in zip(together, turned, strict=True):
        assert torch.equal(ours, theirs.flip(0))
    assert together.mask.sum(1).tolist() == [4, 1, 8, 2]


def test_padding_beyond_a_caption_changes_nothing() -> None:
    made = encoder()
    short = made.encode(["a red circle"])
    made.tokenizers["words"] = WordTokenizer(WORDS, 13)
    long = made.encode(["a red circle"])
    torch.testing.assert_close(short.sentence, long.sentence)
    torch.testing.assert_close(short.words, long.words[:, :8])


def test_the_word_encoder_has_the_published_size() -> None:
    with torch.device("meta"):
        made = WordLSTM(DAMSMConfig())
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(2.08e6, rel=0.005)


@pytest.mark.parametrize(("side", "count"), [(4, 16), (8, 64), (16, 256)])
def test_the_small_image_encoder_has_a_grid_of_regions(side: int, count: int) -> None:
    made = DAMSM(DAMSMConfig(text_dim=10, image_width=4, regions=side), 32)
    seen = made.image_encoder(torch.zeros(2, 3, 32, 32))
    assert seen.regions.shape == (2, count, 10) and seen.image.shape == (2, 10)


@pytest.fixture(scope="module")
def through_inception(tmp_path_factory: pytest.TempPathFactory) -> DAMSM:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(InceptionV3().state_dict(), path)
    return DAMSM(DAMSMConfig(inception_weights=str(path)), 64)


def test_inception_is_frozen_and_its_batch_norms_do_not_drift(through_inception: DAMSM) -> None:
    network = through_inception.image_encoder.train()
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert trained == pytest.approx(0.72e6, rel=0.005)
    before = {name: value.clone() for name, value in network.inception.state_dict().items()}
    seen = network(torch.rand(1, 3, 64, 64) * 2 - 1)
    assert seen.regions.shape == (1, 289, 256) and seen.image.shape == (1, 256)
    assert all(torch.equal(value, before[name]) for name, value in network.inception.state_dict().items())
    taught = {id(p) for group in through_inception.optimiser().param_groups for p in group["params"]}
    assert not taught & {id(p) for p in network.inception.parameters()}
    published = torch.load(through_inception.config.inception_weights, weights_only=True)
    assert all(torch.equal(value, published[name]) for name, value in network.inception.state_dict().items())


def test_a_generator_learns_through_the_frozen_inception(through_inception: DAMSM) -> None:
    images = torch.zeros(2, 3, 64, 64, requires_grad=True)
    seen = through_inception.image_encoder.eval()(images)
    for part in (seen.regions, seen.image):
        (gradient,) = torch.autograd.grad(part.square().sum(), images, retain_graph=True)
        assert gradient.abs().sum() > 0


def test_inception_sees_the_pixels_from_0_to_255(through_inception: DAMSM) -> None:
    came = []
    hook = through_inception.image_encoder.inception.register_forward_pre_hook(lambda _, given: came.append(given[0]))
    through_inception.image_encoder(torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64))
    hook.remove()
    assert came[0].shape == (1, 3, 299, 299)
    torch.testing.assert_close(came[0].mean((0, 2, 3)), torch.tensor([0.0, 127.5, 255.0]))


def test_weights_that_are_not_there_are_a_users_mistake() -> None:
    made = DAMSM(DAMSMConfig(inception_weights="nowhere.pth"), 64)  # as a trained model is made, to draw with
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        made.optimiser()


def test_sizes_that_make_no_network_are_a_users_mistake() -> None:
    for setting in ({"text_dim": 7}, {"regions": 6}, {"words": 1}):
        with pytest.raises(UserError, match=next(iter(setting))):
            DAMSMConfig(**setting)


def test_it_learns_to_match(world: Store) -> None:
    torch.manual_seed(0)
    made = DAMSM(DAMSMConfig(vocabulary=200, words=20, word_dim=16, text_dim=32, image_width=8, regions=8,
                             dropout=0.0, batch_size=16), 32)  # fmt: skip
    made.encoder.learn_vocabulary(world)
    stage = MatchingStage(made, share=1.0, mismatch="image")
    batch = world.batch(range(16))
    first, *_, last = (stage.train_step(batch) for _ in range(40))
    assert last["words"] < first["words"] / 2 and last["sentences"] < first["sentences"] / 2
    assert last["matched"] > 0.8
