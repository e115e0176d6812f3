"""The judge `dinov2`: the network that was published, in the layout of its file."""

import math
import re

import pytest
import safetensors.torch
import torch
from untaught import TRAINING, one_line, pictures

from t2ibench.errors import UserError
from t2ibench.eval import dinov2
from t2ibench.eval.judges import at_once


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
    images = pictures(at_once(torch.device("cpu")) + 2)
    together = dinov2_judge.look(images).features
    assert together.shape == (10, SMALL.width) and together.dtype == torch.float32
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
