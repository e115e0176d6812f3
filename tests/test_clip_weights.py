"""CLIP's published weights: names and shapes as OpenAI's, their tokenizer, and files that are refused."""

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from test_clip import RESNET, SMALL_CLIP
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from t2ibench.dalle.clip import CLIPConfig, open_clip, published_name
from t2ibench.dalle.clip_inputs import END
from t2ibench.dalle.model import DallE
from t2ibench.errors import UserError
from t2ibench.suite.plugins import find_model
from t2ibench.suite.spec import resolve_config
from t2ibench.tests.test_cli import Call
from t2ibench.tests.test_models import SMALL


def transformer_layout(prefix: str, width: int, layers: int) -> dict[str, tuple[int, ...]]:
    layout: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        at = f"{prefix}transformer.resblocks.{layer}."
        layout |= {
            f"{at}attn.in_proj_weight": (3 * width, width), f"{at}attn.in_proj_bias": (3 * width,),
            f"{at}attn.out_proj.weight": (width, width), f"{at}attn.out_proj.bias": (width,),
            f"{at}ln_1.weight": (width,), f"{at}ln_1.bias": (width,),
            f"{at}mlp.c_fc.weight": (4 * width, width), f"{at}mlp.c_fc.bias": (4 * width,),
            f"{at}mlp.c_proj.weight": (width, 4 * width), f"{at}mlp.c_proj.bias": (width,),
            f"{at}ln_2.weight": (width,), f"{at}ln_2.bias": (width,),
        }  # fmt: skip
    return layout


def text_layout() -> dict[str, tuple[int, ...]]:
    return {
        "positional_embedding": (24, 32), "text_projection": (32, 16), "logit_scale": (),
        "token_embedding.weight": (300, 32), "ln_final.weight": (32,), "ln_final.bias": (32,),
    } | transformer_layout("", 32, 1)  # fmt: skip


def vit_layout() -> dict[str, tuple[int, ...]]:
    return {
        "visual.class_embedding": (64,), "visual.positional_embedding": (5, 64), "visual.proj": (64, 16),
        "visual.conv1.weight": (64, 3, 16, 16), "visual.ln_pre.weight": (64,), "visual.ln_pre.bias": (64,),
        "visual.ln_post.weight": (64,), "visual.ln_post.bias": (64,),
    } | transformer_layout("visual.", 64, 1) | text_layout()  # fmt: skip


def norm_layout(at: str, width: int) -> dict[str, tuple[int, ...]]:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{at}.{name}": (width,) for name in names} | {f"{at}.num_batches_tracked": ()}


def resnet_layout() -> dict[str, tuple[int, ...]]:
    layout: dict[str, tuple[int, ...]] = {}
    for number, (before, after) in enumerate([(3, 2), (2, 2), (2, 4)], start=1):
        layout[f"visual.conv{number}.weight"] = (after, before, 3, 3)
        layout |= norm_layout(f"visual.bn{number}", after)
    channels = 4
    for group, (width, blocks) in enumerate([(4, 1), (8, 1), (16, 1), (32, 2)], start=1):
        for block in range(blocks):
            at = f"visual.layer{group}.{block}"
            layout |= {
                f"{at}.conv1.weight": (width, channels, 1, 1), f"{at}.conv2.weight": (width, width, 3, 3),
                f"{at}.conv3.weight": (4 * width, width, 1, 1),
            }  # fmt: skip
            layout |= norm_layout(f"{at}.bn1", width) | norm_layout(f"{at}.bn2", width)
            layout |= norm_layout(f"{at}.bn3", 4 * width)
            if block == 0:
                layout[f"{at}.downsample.0.weight"] = (4 * width, channels, 1, 1)
                layout |= norm_layout(f"{at}.downsample.1", 4 * width)
            channels = 4 * width
    layout["visual.attnpool.positional_embedding"] = (2, 128)
    for name, width in (("k_proj", 128), ("q_proj", 128), ("v_proj", 128), ("c_proj", 16)):
        layout |= {f"visual.attnpool.{name}.weight": (width, 128), f"visual.attnpool.{name}.bias": (width,)}
    return layout | text_layout()


LAYOUTS: dict[str, tuple[dict[str, object], Callable[[], dict[str, tuple[int, ...]]]]] = {
    "vit": ({}, vit_layout),
    "resnet": (RESNET, resnet_layout),
}


def state_of(layout: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Return a state dict in half precision, as OpenAI's are, with what lies beside the weights in them."""
    torch.manual_seed(0)
    state = {name: (0.1 * torch.randn(shape)).half() for name, shape in layout.items()}
    for name in layout:
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
    beside = {"input_resolution": 32, "context_length": 24, "vocab_size": 300}
    return state | {name: torch.tensor(number) for name, number in beside.items()}


def write_tokenizer(path: Path, end: int = 299) -> Path:
    """Write a tokenizer in CLIP's format: a few words, the start and the end."""
    words = {"red": 0, "circle": 1, "blue": 2, "<|startoftext|>": end - 1, END: end}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=END))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<|startoftext|> $A {END}", special_tokens=[("<|startoftext|>", end - 1), (END, end)]
    )
    tokenizer.save(str(path))
    return path


def published(folder: Path, kind: str = "vit", suffix: str = ".pt", **changes: torch.Tensor | None) -> CLIPConfig:
    """Write published weights, changed (None takes one out), and their tokenizer; return the config that opens them."""
    settings, layout = LAYOUTS[kind]
    state = {name: tensor for name, tensor in (state_of(layout()) | changes).items() if tensor is not None}
    path = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    return replace(SMALL_CLIP, **settings, share=0.0, weights=str(path), published_tokenizer=str(tokenizer))


def refusal(config: CLIPConfig) -> str:
    with pytest.raises(UserError) as caught:
        open_clip(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_published_weights_load(kind: str, suffix: str, tmp_path: Path) -> None:
    clip = open_clip(published(tmp_path, kind, suffix))
    state = state_of(LAYOUTS[kind][1]())
    own = {published_name(name): tensor for name, tensor in clip.state_dict().items()}
    assert own.keys() == LAYOUTS[kind][1]().keys()
    for name, tensor in own.items():
        if not name.endswith("num_batches_tracked"):
            assert tensor.dtype == torch.float32 and torch.equal(tensor, state[name].float()), name
    assert not clip.training and not any(parameter.requires_grad for parameter in clip.parameters())


def test_published_weights_read_captions_by_their_own_tokenizer(tmp_path: Path) -> None:
    clip = open_clip(published(tmp_path))
    tokens = torch.tensor([[298, 0, 1, 299], [298, 2, 299, 0]])
    expected = F.normalize(clip.text.read(tokens)[[0, 1], [3, 2]], dim=1)
    torch.testing.assert_close(clip.embed_captions(["Red circle", "blue"]), expected)
    assert len(clip.embed_captions(["red " * 22])) == 1, "22 words between the start and the end"
    with pytest.raises(UserError, match="prompt 'red red .*: takes more tokens than the 24 that CLIP reads"):
        clip.embed_captions(["red circle", "red " * 23])


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("visual.proj", None, "missing"),
        ("visual.proj", torch.zeros(64, 17), r"[64, 17], expected float32 [64, 16]"),
        ("visual.proj", torch.zeros(64, 16, dtype=torch.int64), "int64 [64, 16], expected float32 [64, 16]"),
        ("visual.proj", torch.full((64, 16), math.nan), "not finite"),
        ("transformer.resblocks.0.ln_1.bias", torch.full((32,), math.inf), "not finite"),
        ("token_embedding.weight", torch.zeros(300, 32).to_sparse(), "no plain tensor"),
        ("ln_final.bias", torch.zeros(32, device="meta"), "no plain tensor"),
        ("transformer.resblocks.1.ln_1.bias", torch.zeros(32), "1 tensors too many"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    name: str, tensor: torch.Tensor | None, said: str, tmp_path: Path
) -> None:
    message = refusal(published(tmp_path, **{name: tensor}))
    assert str(tmp_path / "weights.pt") in message and repr(name) in message and said in message


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str, str], object], tuple[str, str]]:
        return open, (str(self.path), "w")


def test_no_code_in_weights_is_run(tmp_path: Path) -> None:
    config, sprung = published(tmp_path), tmp_path / "sprung"
    torch.save({"logit_scale": Trap(sprung)}, config.weights)
    assert "not readable as weights" in refusal(config)
    Path(config.weights).write_bytes(pickle.dumps({"logit_scale": Trap(sprung)}))
    assert "not readable as weights" in refusal(config)
    assert not sprung.exists()
    pickle.loads(Path(config.weights).read_bytes())
    assert sprung.exists(), "the trap works"


def test_an_archive_of_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    config = published(tmp_path)
    module = torch.nn.Linear(2, 2)
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 2)), config.weights)
    message = refusal(config)
    assert "TorchScript" in message and "torch.jit.load" in message and config.weights in message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x00" * 64, b"{}"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_weights_are_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    config = published(tmp_path, suffix=suffix)
    Path(config.weights).write_bytes(content)
    assert config.weights in refusal(config)
    Path(config.weights).unlink()
    assert config.weights in refusal(config)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    config = published(tmp_path)
    path = write_tokenizer(Path(config.published_tokenizer), end=298)
    assert "expected clip.vocabulary=300" in refusal(config)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"post_processor": None}))
    assert END in refusal(config)
    for text in ("{}", "", json.dumps({"model": {"type": "BPE"}})):
        path.write_text(text)
        assert f"{path}: not a tokenizer" in refusal(config)


def test_a_caption_that_clip_cannot_read_is_refused_before_anything_is_drawn(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = published(tmp_path)
    names = ("image_size", "patch", "image_width", "image_layers", "vocabulary", "context", "text_width",
             "text_layers", "text_heads", "embed_dim", "share", "weights", "published_tokenizer")  # fmt: skip
    own = {name: value for name, value in SMALL["dalle"].items() if not name.startswith("clip.")}
    wanted = own | {f"clip.{name}": getattr(clip, name) for name in names} | {
        "clip.image_encoder": "vit", "prior.share": 0.6, "transformer.text_length": 64}  # fmt: skip
    resolve_config(find_model("dalle").presets["tiny"], wanted)
    settings = [part for name, value in wanted.items()
                for part in ("--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}")]  # fmt: skip
    code, out, _ = call("train", "dalle", "--budget", "64", "--runs", tmp_path, "--json", *settings)
    assert code == 0
    folder = json.loads(out)["run"]
    monkeypatch.setattr(DallE, "_draw", None)
    code, _, said = call("sample", folder, "red circle", "red " * 23, "--best-of", "4", "--keep", "2", "--out",
                         tmp_path / "best")  # fmt: skip
    assert code == 2 and "takes more tokens than the 24 that CLIP reads" in said
    assert not (tmp_path / "best").exists()
