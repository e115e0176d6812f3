"""How fast the transformer draws candidates of one caption, and learns: images and tokens a second, and the bound.

    python benchmarks/sampling.py                       # 512 candidates, d = 256, 6 layers, 32 text + 64 image tokens
    python benchmarks/sampling.py --guidance 3 --device cuda --precision bfloat16 --cuda-graphs

The bound: two FLOPs a weight and token over the FLOPs of a plain matrix product of the same sizes, measured here, plus
the bytes of keys and values over the speed at which a plain sum reads, measured here. Weights are random, codes have no
digits.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from t2ibench.baselines.interface import optimiser_step
from t2ibench.dalle.cuda_graphs import GraphedSampler
from t2ibench.dalle.model import CANDIDATES
from t2ibench.dalle.sampler import SamplingConfig, sample_codes
from t2ibench.dalle.transformer import Transformer, TransformerConfig

TEXT, GRID, CODES = 32, 8, 512


def main() -> None:
    """Print images a second for several numbers at once, and the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--candidates", type=int, default=512)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--cuda-graphs", action="store_true", help="sampling.cuda_graphs, on a GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_device(options.device)
    config = TransformerConfig(vocabulary=1000, text_length=TEXT, width=options.width, layers=options.layers,
                               heads=options.heads, attention="full")  # fmt: skip
    transformer = Transformer(config, num_codes=CODES, grids=(GRID,)).eval()
    if options.precision == "bfloat16":
        transformer.bfloat16()
    text = torch.randint(1, 1000, (1, TEXT))
    sampling = SamplingConfig(guidance=options.guidance)
    sampler = (GraphedSampler(transformer, sampling) if options.cuda_graphs
               else partial(sample_codes, transformer, config=sampling))  # fmt: skip

    def draw(at_once: int) -> None:
        for start in range(0, options.candidates, at_once):
            some = min(at_once, options.candidates - start)
            uniforms = torch.rand(1, some, GRID * GRID, dtype=torch.float64)
            sampler(text, uniforms, null=text[0])

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.precision}, {options.device}")
    bound = seconds_at_least(transformer, options.candidates, 1 if options.guidance == 1 else 2)
    print(f"{'at once':>8}{'images/s':>10}{'of the bound':>14}")
    for at_once in sorted({CANDIDATES // 4, CANDIDATES, 2 * CANDIDATES}):
        took = timed(partial(draw, at_once), repeats=2)
        print(f"{at_once:>8}{options.candidates / took:>10.1f}{bound / took:>14.1%}", flush=True)
    teach(transformer.train())


def teach(transformer: Transformer, batch: int = 32) -> None:
    """Print the tokens a second of a training step on random captions of full length and random codes."""
    text = torch.randint(1, 1000, (batch, TEXT))
    codes = torch.randint(0, CODES, (batch, GRID * GRID))
    optimiser = torch.optim.AdamW(transformer.parameters(), 1e-4)

    def step() -> None:
        losses = transformer.losses(text, codes)
        optimiser_step(optimiser, losses.text / 8 + 7 / 8 * losses.image, clip_norm=4.0)

    took = timed(step)
    parameters = sum(parameter.numel() for parameter in transformer.parameters())
    print(f"learning: {batch * (TEXT + GRID * GRID) / took:,.0f} tokens/s, {parameters / 1e6:.1f} M parameters")


def seconds_at_least(transformer: Transformer, candidates: int, sides: int) -> float:
    """Return the seconds that the matrix products, and reading the keys and values, take by themselves."""
    width, like = transformer.config.width, transformer.start_of_image
    x, weight = like.new_empty(CANDIDATES, width).normal_(), like.new_empty(4 * width, width).normal_()
    flops = 2 * CANDIDATES * 4 * width * width / timed(lambda: torch.nn.functional.linear(x, weight))
    cached = like.new_empty(64 << 20 >> 2)
    bandwidth = cached.numel() * cached.element_size() / timed(lambda: cached.sum())
    states = sides * candidates * (transformer.codes - 1)
    products = 2 * states * (12 * len(transformer.layers) * width**2) + 2 * states * width * transformer.num_codes
    own = 2 * states * transformer.codes / 2 * len(transformer.layers) * width * like.element_size()
    print(f"{products / 1e9:.0f} GFLOP at {flops / 1e9:.0f} GFLOP/s, {own / 1e9:.1f} GB at {bandwidth / 1e9:.0f} GB/s")
    return products / flops + own / bandwidth


def timed(part: Callable[[], object], repeats: int = 10) -> float:
    """Return the least seconds of `part` over `repeats` calls."""
    took = []
    for _ in range(repeats):
        begun = time.perf_counter()
        part()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took.append(time.perf_counter() - begun)
    return min(took)


if __name__ == "__main__":
    main()
