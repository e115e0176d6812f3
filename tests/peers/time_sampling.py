"""How fast candidates of one caption are drawn, and a transformer learns, beside PyPI's dalle-pytorch.

    python tests/peers/time_sampling.py --rounds 3

Both have d = 256, 6 layers, 4 heads, 32 text and 64 image tokens, 512 codes without digits, and random weights; each
draws in turn and then takes a step of training on the same number of captioned images, in which ours also clips the
gradient. dalle-pytorch takes its cache only under guidance, with two passes a token: so ours is timed guided too. Its
time holds a small decoder, ours ends with the codes. Runs in the environment of `make peers` with

    pip install --no-deps dalle-pytorch==1.6.6 axial-positional-embedding==0.3.12 rotary-embedding-torch==0.9.1
    pip install "setuptools<80" einops ftfy regex requests tqdm
"""

import argparse
import copy
import sys
import time
import types
from collections.abc import Callable
from functools import partial

import torch
import torchvision_operators  # noqa: F401  (before whatever imports torchvision)

from t2ibench.baselines.interface import optimiser_step
from t2ibench.dalle.sampler import SamplingConfig, sample_codes
from t2ibench.dalle.transformer import Transformer, TransformerConfig

WIDTH, LAYERS, HEADS, TEXT, SIDE, CODES, WORDS = 256, 6, 4, 32, 8, 512, 1000
NOT_USED = {"omegaconf": ("OmegaConf",), "taming": (), "taming.models": (), "youtokentome": ("BPE",), "dall_e": (),
            "taming.models.vqgan": ("VQModel", "GumbelVQ"), "transformers": ("BertTokenizer",)}  # fmt: skip
"""Packages that dalle-pytorch imports for published tokenizers, and the names that it takes from them."""
STEP = 32
"""Images in a step of training."""
GUIDANCE = 3.0


def main() -> None:
    """Let both draw and learn in turn, and print what each did in a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=128)
    parser.add_argument("--their-candidates", type=int, default=32, help="that dalle-pytorch draws at once")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(0)
    ours, theirs = our_transformer(), their_transformer()
    sizes = [sum(weight.numel() for weight in taught(network)) / 1e6 for network in (ours, theirs)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {sizes[0]:.1f} M and {sizes[1]:.1f} M "
          "parameters")  # fmt: skip
    tokens = STEP * (TEXT + SIDE * SIDE)
    many, few = options.candidates, options.their_candidates
    cached = {"use_cache": True, "cond_scale": GUIDANCE}
    our_half, their_half = (copy.deepcopy(network).bfloat16() for network in (ours, theirs))
    routes: dict[str, tuple[float, str, Callable[[], object]]] = {
        "t2ibench draws": (many, "images", partial(we_draw, ours, many)),
        "dalle-pytorch draws": (few, "images", partial(they_draw, theirs, few)),
        "t2ibench draws, guided": (many, "images", partial(we_draw, ours, many, guidance=GUIDANCE)),
        "dalle-pytorch draws, guided": (few, "images", partial(they_draw, theirs, few, **cached)),
        "t2ibench draws, bfloat16": (many, "images", partial(we_draw, our_half, many)),
        "dalle-pytorch draws, bfloat16": (few, "images", partial(they_draw, their_half, few)),
        "t2ibench draws, guided, bfloat16": (many, "images", partial(we_draw, our_half, many, guidance=GUIDANCE)),
        "dalle-pytorch draws, guided, bfloat16": (few, "images", partial(they_draw, their_half, few, **cached)),
        "t2ibench learns": (tokens, "tokens", our_step(ours)),
        "dalle-pytorch learns": (tokens, "tokens", their_step(theirs)),
        "t2ibench learns, bfloat16": (tokens, "tokens", in_bfloat16(our_step(ours))),
        "dalle-pytorch learns, bfloat16": (tokens, "tokens", in_bfloat16(their_step(theirs))),
    }  # fmt: skip
    for _, _, route in routes.values():
        route()
    for _ in range(options.rounds):
        for name, (count, unit, route) in routes.items():
            begun = time.perf_counter()
            route()
            print(f"{name:<38}{count / (time.perf_counter() - begun):>10,.1f} {unit}/s", flush=True)


def taught(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the parameters of a transformer, without those of the image tokenizer inside theirs."""
    return [parameter for name, parameter in network.named_parameters() if not name.startswith("vae.")]


def our_transformer() -> Transformer:
    """Return ours, with full attention, as theirs has."""
    config = TransformerConfig(vocabulary=WORDS, text_length=TEXT, width=WIDTH, layers=LAYERS, heads=HEADS,
                               attention="full")  # fmt: skip
    return Transformer(config, num_codes=CODES, grids=(SIDE,))


def their_transformer() -> torch.nn.Module:
    """Return theirs, with a tokenizer of images of 32 px that is never asked for more than the codes' shape."""
    for name, wanted in NOT_USED.items():
        module = types.ModuleType(name)
        module.__dict__.update({each: type(each, (), {}) for each in wanted}, __path__=[])
        sys.modules.setdefault(name, module)
    from dalle_pytorch import DALLE, DiscreteVAE

    vae = DiscreteVAE(image_size=4 * SIDE, num_layers=2, num_tokens=CODES, codebook_dim=64, hidden_dim=32)
    return DALLE(dim=WIDTH, vae=vae, num_text_tokens=WORDS, text_seq_len=TEXT, depth=LAYERS, heads=HEADS,
                 dim_head=WIDTH // HEADS, rotary_emb=True, shift_tokens=False)  # fmt: skip


def we_draw(transformer: Transformer, candidates: int, guidance: float = 1.0) -> None:
    """Draw so many candidates of one caption at once."""
    text = torch.randint(1, WORDS, (1, TEXT))
    uniforms = torch.rand(1, candidates, SIDE * SIDE, dtype=torch.float64)
    sample_codes(transformer.eval(), text, uniforms, SamplingConfig(guidance=guidance), null=text[0])


@torch.no_grad()
def they_draw(model: torch.nn.Module, candidates: int, **how: bool | float) -> None:
    """Draw so many candidates of one caption at once; its decoder, which is small, draws the pixels too."""
    text = torch.randint(1, WORDS, (1, TEXT)).repeat(candidates, 1)
    model.eval().generate_images(text, filter_thres=0.9, **how)


def our_step(transformer: Transformer) -> Callable[[], object]:
    """Return a step on random captions of full length and random codes."""
    text, codes = torch.randint(1, WORDS, (STEP, TEXT)), torch.randint(0, CODES, (STEP, SIDE * SIDE))
    optimiser = torch.optim.AdamW(transformer.parameters(), 1e-4)

    def step() -> None:
        losses = transformer.train().losses(text, codes)
        optimiser_step(optimiser, losses.text / 8 + 7 / 8 * losses.image, clip_norm=4.0)

    return step


def their_step(model: torch.nn.Module) -> Callable[[], object]:
    """Return a step on random captions of full length and random codes, so that its tokenizer has nothing to do."""
    text, codes = torch.randint(1, WORDS, (STEP, TEXT)), torch.randint(0, CODES, (STEP, SIDE * SIDE))
    optimiser = torch.optim.AdamW(taught(model), 1e-4)

    def step() -> None:
        optimiser.zero_grad()
        model.train()(text, codes, return_loss=True).backward()
        optimiser.step()

    return step


def in_bfloat16(step: Callable[[], object]) -> Callable[[], object]:
    """Return the step with its products in bfloat16, as `--precision bfloat16` trains."""

    def cast() -> None:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            step()

    return cast


if __name__ == "__main__":
    main()
