"""VQ-VAE-2: the codebooks' averages, restarts and start, and the two levels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from t2ibench.dalle.vqvae2 import EPSILON, VQVAE2, Codebook, VQVAE2Config, VQVAE2Stage, quantise

CONFIG = VQVAE2Config(num_codes=16, code_dim=4, width=8, blocks=1, block_width=4)


def stage_of(config: VQVAE2Config = CONFIG) -> VQVAE2Stage:
    torch.manual_seed(0)
    return VQVAE2Stage(VQVAE2(config, 32), share=0.3)


def some_images(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, 32, 32), dtype=torch.uint8, generator=generator)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def begun(vectors: torch.Tensor, decay: float, restart_below: float) -> Codebook:
    codebook = Codebook(*vectors.shape, decay, restart_below)
    codebook.vectors.copy_(vectors)
    codebook.sums.copy_(vectors)
    codebook.begun.fill_(True)
    return codebook


def test_the_nearest_vector_is_chosen() -> None:
    codebook = begun(normals(7, 3), 0.99, 0.0)
    vectors = normals(50, 3, seed=1)
    expected = torch.cdist(vectors, codebook.vectors).argmin(1)
    assert torch.equal(codebook.nearest(vectors), expected)


def test_codebook_follows_as_a_loop_does() -> None:
    codebook = begun(normals(5, 3), 0.9, 0.0)
    counts, sums = np.ones(5), codebook.vectors.numpy().astype(np.float64).copy()
    for step in range(4):
        vectors = normals(40, 3, seed=step + 1)
        codes = codebook.nearest(vectors)
        codebook.follow(vectors, codes)
        for code in range(5):
            mine = vectors[codes == code].double().numpy()
            counts[code] = 0.9 * counts[code] + 0.1 * len(mine)
            sums[code] = 0.9 * sums[code] + 0.1 * mine.sum(0)
        total = counts.sum()
        expected = [sums[code] / ((counts[code] + EPSILON) / (total + 5 * EPSILON) * total) for code in range(5)]
        np.testing.assert_allclose(codebook.vectors.numpy(), np.array(expected), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(codebook.counts.numpy(), counts, rtol=1e-5)


def far_away(restart_below: float) -> tuple[Codebook, torch.Tensor]:
    """Return a codebook after ten steps of which two codes were the nearest of nothing, and the last vectors."""
    start = normals(6, 3)
    start[[1, 4]] += 100
    codebook = begun(start, 0.5, restart_below)
    torch.manual_seed(0)
    for step in range(10):
        vectors = normals(60, 3, seed=step)
        codebook.follow(vectors, codebook.nearest(vectors))
    return codebook, vectors


def test_dead_codes_restart_at_vectors_of_the_batch() -> None:
    codebook, vectors = far_away(0.05)
    assert codebook.vectors.abs().max() < 10
    assert len(codebook.nearest(vectors).unique()) == 6
    never, _ = far_away(0.0)
    assert (never.vectors.norm(dim=1) > 50).sum() == 2


def test_a_restarted_code_stands_on_a_vector_and_the_living_stay() -> None:
    start = normals(6, 3)
    codebook, same = begun(start, 0.5, 0.5), begun(start, 0.5, 0.0)
    vectors = normals(60, 3, seed=3)
    codes = torch.arange(60) % 5  # the last code has none
    torch.manual_seed(0)
    codebook.follow(vectors, codes)
    same.follow(vectors, codes)
    total = codebook.counts.sum()
    scale = (codebook.counts + EPSILON) / (total + 6 * EPSILON) * total / codebook.counts
    assert torch.cdist(codebook.vectors[5:] * scale[5], vectors).min() < 1e-5
    assert torch.equal(codebook.sums[:5], same.sums[:5]) and torch.equal(codebook.counts[:5], same.counts[:5])
    assert codebook.counts[5] == pytest.approx(float(same.counts.mean()))
    codebook.load_state_dict(begun(start, 0.5, 0.5).state_dict())
    torch.manual_seed(1)
    codebook.follow(vectors, codes)
    assert torch.cdist(codebook.vectors[5:] * scale[5], vectors).min() < 1e-5


def test_a_codebook_begins_as_vectors_of_the_first_batch_alone() -> None:
    codebook = Codebook(8, 3, 0.9, 0.0)
    first, second = normals(20, 3), normals(20, 3, seed=1)
    codebook.begin(first)
    began = codebook.vectors.clone()
    assert torch.cdist(began, first).min(1).values.max() == 0 and len(began.unique(dim=0)) == 8
    codebook.begin(second)
    assert torch.equal(codebook.vectors, began)
    few = Codebook(8, 3, 0.9, 0.0)
    few.begin(first[:3])
    assert len(few.vectors.unique(dim=0)) == 3


def test_gradients_go_straight_through_the_codebook() -> None:
    codebook = begun(normals(5, 4), 0.9, 0.0)
    vectors = normals(2, 4, 3, 3, seed=1).requires_grad_()
    level = quantise(codebook, vectors)
    picked = codebook.vectors[level.codes].permute(0, 3, 1, 2)
    torch.testing.assert_close(level.quantised, picked)
    weights = normals(2, 4, 3, 3, seed=2)
    (gradient,) = torch.autograd.grad((level.quantised * weights).sum(), vectors)
    torch.testing.assert_close(gradient, weights)


def test_loss_by_hand_and_the_codebooks_move_after_it() -> None:
    stage, images = stage_of(), some_images(4)
    stage.losses(images)
    model = stage.vqvae2
    values = images.float() / 127.5 - 1
    with torch.no_grad():
        coarse, fine = model.levels(values)
        error = (model.paint(coarse.quantised, fine.quantised) - values).square().mean()
        distance = sum(
            (level.vectors - book.vectors[level.codes.flatten()]).square().mean()
            for level, book in ((coarse, model.coarse_codes), (fine, model.fine_codes))
        )
    books = (model.coarse_codes, model.fine_codes)
    before = [book.vectors.clone() for book in books]
    losses = {name: torch.as_tensor(loss).detach() for name, loss in stage.losses(images).items()}
    assert float(losses["error"]) == pytest.approx(float(error), rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(float(error) + 0.25 * float(distance), rel=1e-5)
    for vectors, book in zip(before, books, strict=True):
        assert not torch.equal(vectors, book.vectors)


def test_dead_codes_of_both_levels_restart_while_learning() -> None:
    stage, images = stage_of(replace(CONFIG, decay=0.5, restart_below=0.2)), some_images(4)
    stage.losses(images)
    books = (stage.vqvae2.coarse_codes, stage.vqvae2.fine_codes)
    for book in books:
        for values in (book.vectors, book.sums):
            values[3] = 1e3
        book.counts[3] = 0
    stage.losses(images)
    for book in books:
        assert book.vectors.abs().max() < 100


def test_codebooks_learn_by_averages_alone() -> None:
    stage = stage_of()
    names = {name for name, _ in stage.vqvae2.named_parameters()}
    assert not any(name.startswith(("coarse_codes", "fine_codes")) for name in names)
    saved = stage.state_dict()["tokenizer"]
    for book in ("coarse_codes", "fine_codes"):
        assert {f"{book}.{name}" for name in ("vectors", "counts", "sums", "begun")} <= set(saved)


def test_encoding_moves_no_codebook() -> None:
    stage, images = stage_of(), some_images(3)
    stage.losses(images)
    before = {name: value.clone() for name, value in stage.vqvae2.state_dict().items()}
    stage.vqvae2.decode(stage.vqvae2.encode(images))
    assert all(torch.equal(value, before[name]) for name, value in stage.vqvae2.state_dict().items())


def test_the_coarse_level_comes_first_and_reaches_further() -> None:
    """A coarse code moves pixels all over its 8 x 8 cell and more of them than a fine one."""
    model = stage_of(replace(CONFIG, width=16)).vqvae2
    codes = torch.zeros(1, 80, dtype=torch.long)
    painted = model.decode(codes)
    moved = []
    for place in (5, 16 + 18):
        other = codes.clone()
        other[0, place] = 9
        with torch.no_grad():
            moved.append((model.images_of(codes) != model.images_of(other)).any(1).sum())
    assert painted.shape == (1, 3, 32, 32) and moved[0] > moved[1] > 0


def test_the_fine_level_knows_the_coarse() -> None:
    """Other coarse codes, the same image: other fine vectors."""
    stage, values = stage_of(), some_images(2).float() / 127.5 - 1
    model = stage.vqvae2
    with torch.no_grad():
        fine = model.levels(values)[1].vectors.clone()
        model.coarse_codes.vectors.add_(5)
        assert not torch.allclose(model.levels(values)[1].vectors, fine)


def test_relaxing_nothing_every_weight_has_a_gradient() -> None:
    stage = stage_of()
    loss = stage.losses(some_images(4))["loss"]
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    for name, parameter in stage.vqvae2.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
