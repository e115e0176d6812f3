"""CLIP: published sizes, names and weights, attention and pooling by hand, the loss's duplicates, resuming, ranking."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from t2ibench.baselines.text_transformer import MAX_LOGIT_SCALE, Block
from t2ibench.dalle.clip import CLIP, CLIPConfig, CLIPStage, clip_stage
from t2ibench.dalle.clip_image_encoders import AttentionPool, ModifiedResNet, VisionTransformer
from t2ibench.dalle.clip_inputs import prepare
from t2ibench.datasets.captioned import Batch
from t2ibench.datasets.store import Store
from t2ibench.errors import UserError

SMALL_CLIP = CLIPConfig(
    image_size=32, patch=16, image_width=64, image_layers=1, vocabulary=300, context=24, text_width=32,
    text_layers=1, text_heads=2, embed_dim=16, batch_size=8, learning_rate=1e-3, warm_up=0.25,
)  # fmt: skip
RESNET = {"image_encoder": "resnet", "image_width": 4, "resnet_layers": (1, 1, 1, 2)}
KINDS = pytest.mark.parametrize("kind", [{}, RESNET], ids=["vit", "resnet"])


def small(world: Store, seed: int = 0, **changes: object) -> CLIP:
    """Return an untrained CLIP that knows the world's words."""
    torch.manual_seed(seed)
    clip = CLIP(replace(SMALL_CLIP, **changes))
    clip.learn_vocabulary(world)
    return clip


def shifted(clip: CLIP) -> CLIP:
    """Return `clip` with every parameter moved, so that no gain is one and no bias nothing."""
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return clip


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (CLIPConfig(), 151_277_313),
        (CLIPConfig(patch=16), 149_620_737),
        (CLIPConfig(image_encoder="resnet", image_width=64, embed_dim=1024), 102_007_137),
    ],
    ids=["ViT-B/32", "ViT-B/16", "RN50"],
)
def test_published_sizes(config: CLIPConfig, count: int) -> None:
    with torch.device("meta"):
        clip = CLIP(config)
        images = torch.zeros(2, 3, 100, 90, dtype=torch.uint8)
        assert clip.look(images).shape == clip.read(["a cat", "a dog"]).shape == (2, config.embed_dim)
    assert sum(parameter.numel() for parameter in clip.parameters()) == count


# The layout of OpenAI's state dicts, written out here and not taken from the module.
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": "a.pt"}, "published_tokenizer"),
        ({"weights": "a.pt", "published_tokenizer": "b.json"}, "share=0.1: expected 0"),
        ({"share": 0.0}, "share=0: expected above 0, or clip.weights"),
        ({"patch": 7}, "multiple of patch, 7"),
        ({"image_width": 100}, "multiple of 64"),
        ({"image_encoder": "resnet", "image_size": 48}, "multiple of the stride of resnet, 32"),
        ({"image_encoder": "resnet", "resnet_layers": (1, 2, 3)}, r"resnet_layers=\[1, 2, 3\]"),
        ({"text_heads": 3}, "text_heads=3"),
        ({"vocabulary": 100}, "vocabulary=100: expected 258"),
        ({"batch_size": 1}, "batch_size=1"),
        ({"warm_up": 1.0}, "warm_up=1"),
    ],
)
def test_settings_that_make_no_clip_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(SMALL_CLIP, **changes)


def layer_norm(x: np.ndarray, module: torch.nn.LayerNorm) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return normed * module.weight.detach().numpy() + module.bias.detach().numpy()


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """Return softmax(q k' / sqrt(d)) v head by head, of one image."""
    out = []
    for one_q, one_k, one_v in zip(*(np.split(x, heads, 1) for x in (q, k, v)), strict=True):
        scores = np.exp(one_q @ one_k.T / math.sqrt(one_q.shape[1]))
        out.append(scores / scores.sum(1, keepdims=True) @ one_v)
    return np.concatenate(out, 1)


def test_vision_transformer_by_hand() -> None:
    torch.manual_seed(0)
    network = VisionTransformer(image_size=32, patch=16, width=128, layers=1, embed_dim=6).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    w = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    block = network.transformer.resblocks[0]
    assert isinstance(block, Block)
    cells = [image[0, :, y : y + 16, x : x + 16].numpy() for y in (0, 16) for x in (0, 16)]
    patches = [(w["conv1.weight"] * cell).sum((1, 2, 3)) for cell in cells]
    x = layer_norm(np.stack([w["class_embedding"], *patches]) + w["positional_embedding"], network.ln_pre)
    at = "transformer.resblocks.0."
    qkv = layer_norm(x, block.ln_1) @ w[f"{at}attn.in_proj_weight"].T + w[f"{at}attn.in_proj_bias"]
    out = attended(*np.split(qkv, 3, 1), heads=2)
    x = x + out @ w[f"{at}attn.out_proj.weight"].T + w[f"{at}attn.out_proj.bias"]
    inside = layer_norm(x, block.ln_2) @ w[f"{at}mlp.c_fc.weight"].T + w[f"{at}mlp.c_fc.bias"]
    inside = inside / (1 + np.exp(-1.702 * inside))
    x = x + inside @ w[f"{at}mlp.c_proj.weight"].T + w[f"{at}mlp.c_proj.bias"]
    expected = layer_norm(x[0], network.ln_post) @ w["proj"]
    np.testing.assert_allclose(network(image)[0].detach().numpy(), expected, atol=1e-10)


def test_attention_pool_by_hand() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(2, 128, 5).double()
    features = torch.randn(1, 128, 2, 2, dtype=torch.float64)
    places = features[0].flatten(1).T.numpy()
    x = np.concatenate([places.mean(0, keepdims=True), places]) + pool.positional_embedding.detach().numpy()

    def projected(name: str, of: np.ndarray) -> np.ndarray:
        module = pool.get_submodule(name)
        return of @ module.weight.detach().numpy().T + module.bias.detach().numpy()

    out = attended(projected("q_proj", x[:1]), projected("k_proj", x), projected("v_proj", x), heads=2)
    np.testing.assert_allclose(pool(features).detach().numpy(), projected("c_proj", out), atol=1e-10)


@pytest.mark.parametrize(("image_size", "patch", "places"), [(32, 4, 65), (64, 16, 17), (48, 8, 37)])
def test_vision_transformer_has_a_place_for_each_patch(image_size: int, patch: int, places: int) -> None:
    network = VisionTransformer(image_size=image_size, patch=patch, width=64, layers=1, embed_dim=6)
    assert network.positional_embedding.shape == (places, 64)
    assert network(torch.zeros(2, 3, image_size, image_size)).shape == (2, 6)


@pytest.mark.parametrize("image_size", [32, 96])
def test_resnet_halves_the_side_five_times(image_size: int) -> None:
    network = ModifiedResNet(image_size=image_size, width=4, layers=(1, 1, 1, 1), embed_dim=6).eval()
    sides: list[int] = []
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        network.get_submodule(name).register_forward_hook(lambda _, __, out: sides.append(out.shape[-1]))
    assert network(torch.zeros(2, 3, image_size, image_size)).shape == (2, 6)
    assert sides == [image_size // 2, *(image_size // stride for stride in (4, 8, 16, 32))]


def test_residual_branches_begin_small() -> None:
    torch.manual_seed(0)
    blocks = VisionTransformer(image_size=8, patch=8, width=256, layers=4, embed_dim=6).transformer.resblocks
    weights = {name: torch.stack([block.get_parameter(name) for block in blocks]).std().item()
               for name in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")}
    expected = [256**-0.5, (256 * 8) ** -0.5, 512**-0.5, (256 * 8) ** -0.5]
    assert list(weights.values()) == pytest.approx(expected, rel=0.02)


@KINDS
def test_rank_is_the_cosine(kind: dict[str, object], world: Store) -> None:
    clip = shifted(small(world, **kind))
    batch = world.batch(range(5))
    captions = [*batch.captions[:3], batch.captions[0], ""]
    cosines = clip.rank(captions, batch.images)
    assert cosines.shape == (5,) and cosines.dtype == torch.float32
    for index, caption in enumerate(captions):
        image = clip.visual(prepare(batch.images[index : index + 1], 32))[0]
        tokens = clip.tokenizers["clip"]([caption])
        text = clip.text(tokens)[0]
        by_hand = (image @ text / image.norm() / text.norm()).item()
        assert cosines[index].item() == pytest.approx(by_hand, abs=1e-5)
    assert cosines.std() > 1e-3
    with pytest.raises(ValueError, match="3 captions and 5 images"):
        clip.rank(captions[:3], batch.images)


@KINDS
def test_scores_do_not_depend_on_the_batch(kind: dict[str, object], world: Store) -> None:
    clip = shifted(small(world, **kind)).train()
    batch = world.batch(range(130))
    together = clip.rank(batch.captions, batch.images)
    parts = [clip.rank(batch.captions[a:b], batch.images[a:b]) for a, b in ((0, 1), (1, 70), (70, 70), (70, 130))]
    torch.testing.assert_close(torch.cat(parts), together, atol=1e-5, rtol=1e-5)
    for embedded in (clip.embed_images(batch.images), clip.embed_captions(batch.captions)):
        assert embedded.shape == (130, 16)
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(130))


def test_images_of_another_size_are_resized(world: Store) -> None:
    clip = small(world)
    images = world.batch(range(2)).images
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    near, own, other = clip.embed_images(large), clip.embed_images(images), clip.embed_images(images.flip(0))
    assert (near * own).sum(1).min() > (near * other).sum(1).max()


def test_text_after_the_end_has_no_influence(world: Store) -> None:
    clip = shifted(small(world))
    tokens = clip.tokenizers["clip"](["a red circle"])
    end = int((tokens == 1).int().argmax())
    after = tokens.clone()
    after[0, end + 1 :] = 77
    torch.testing.assert_close(clip.text(after), clip.text(tokens))
    torch.testing.assert_close(clip.text(tokens[:, : end + 1]), clip.text(tokens))
    before = tokens.clone()
    before[0, 0] = 77
    assert not torch.allclose(clip.text(before), clip.text(tokens))


def test_the_temperature_is_held_after_a_step(world: Store) -> None:
    stage = CLIPStage(small(world))
    with torch.no_grad():
        stage.clip.logit_scale.fill_(MAX_LOGIT_SCALE + 3)
    said = stage.train_step(world.batch(range(8)))
    assert stage.clip.logit_scale.item() == pytest.approx(MAX_LOGIT_SCALE)
    assert float(said["logit_scale"]) == pytest.approx(100, rel=1e-4)


def test_duplicates_are_no_negatives(world: Store) -> None:
    stage = CLIPStage(small(world))
    batch = world.batch([0, 1, 2])
    same_captions = replace(batch, captions=[batch.captions[0]] * 3)
    same_images = replace(batch, ids=["one"] * 3)
    for twins in (same_captions, same_images):
        said = stage.train_step(twins)
        assert float(said["loss"]) == pytest.approx(0, abs=1e-5) and float(said["accuracy"]) == 1
    assert float(stage.train_step(batch)["loss"]) > 0.1


def test_only_matrices_decay(world: Store) -> None:
    """With no gradient to follow, a step is the decay alone."""
    stage = CLIPStage(small(world, **RESNET))
    stage.total_steps = 4
    twins = world.batch([3, 3])
    before = copy.deepcopy(dict(stage.clip.named_parameters()))
    stage.train_step(twins)
    assert len(stage.optimiser.param_groups) == 2
    for name, parameter in stage.clip.named_parameters():
        factor = 1 - 1e-3 * 0.2 if parameter.ndim >= 2 else 1
        torch.testing.assert_close(parameter, factor * before[name], rtol=1e-6, atol=1e-9, msg=name)


def test_the_rate_rises_then_falls_to_nothing(world: Store) -> None:
    stage = CLIPStage(small(world))
    stage.total_steps = 8
    rates = []
    for _ in range(9):
        stage.train_step(world.batch(range(4)))
        rates.append(stage.optimiser.param_groups[0]["lr"] / 1e-3)
        assert len({group["lr"] for group in stage.optimiser.param_groups}) == 1
    half = [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(7)]
    assert rates == pytest.approx([0.5, *half, 0], abs=1e-12)


@KINDS
def test_a_resumed_stage_goes_on_bit_for_bit(kind: dict[str, object], world: Store) -> None:
    def begun(seed: int) -> CLIPStage:
        stage = CLIPStage(small(world, seed, **kind))
        stage.total_steps = 5
        return stage

    def step(stage: CLIPStage, number: int) -> None:
        torch.manual_seed(number)
        stage.train_step(world.batch(range(8 * number, 8 * number + 8)))

    unbroken, first, second = begun(0), begun(0), begun(1)
    for number in range(4):
        step(unbroken, number)
    for number in range(2):
        step(first, number)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for number in range(2, 4):
        step(second, number)
    kept, went_on, whole = (stage.clip.state_dict() for stage in (first, second, unbroken))
    assert all(torch.equal(went_on[name], whole[name]) for name in whole)
    assert not all(torch.equal(kept[name], whole[name]) for name in whole)


def test_it_learns_to_match(world: Store) -> None:
    torch.manual_seed(0)
    stage = clip_stage(CLIP(replace(SMALL_CLIP, batch_size=32, learning_rate=5e-3, warm_up=0.1, **RESNET)), world)
    stage.total_steps = 40
    batch: Batch = world.batch(range(32))
    first, *_, last = ({name: float(value) for name, value in stage.train_step(batch).items()} for _ in range(40))
    assert first["accuracy"] < 0.2 and last["accuracy"] > 0.8
    assert last["loss"] < first["loss"] / 3


def test_a_known_vocabulary_is_kept(world: Store, held_out: Store) -> None:
    clip = small(world)
    known = clip.tokenizers["clip"]
    clip.learn_vocabulary(held_out)
    assert clip.tokenizers["clip"] is known and known.vocabulary_size <= 300
