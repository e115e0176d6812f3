"""Drawing codes from the transformer: the caption is read once for all its candidates, and every state once.

Every code is drawn by one uniform number that the caller supplies, so that a candidate is a function of its own
numbers. Guidance: Ho and Salimans 2022 (arXiv:2207.12598), for a transformer of tokens as in Gafni et al. 2022
(arXiv:2203.13131): logits without the caption + scale x the difference that the caption makes, before any filter.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch

from ..errors import UserError
from .transformer import Pattern, Transformer, attend, attention_mask


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How codes are drawn; the defaults are the paper's, which draws from the model as it is."""

    guidance: float = 1.0
    """Scale of guidance: 1 is the captioned model, 0 the model without captions, more follows captions further."""
    temperature: float = 1.0
    """The logits are divided by it; 0 takes the most probable code."""
    top_k: int = 0
    """Draw among the so many most probable codes; 0 draws among all."""
    top_p: float = 1.0
    """Draw among the fewest codes that hold this much probability."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the transformer and its cache while they draw; in bfloat16 half as many bytes are read. Logits, the image
    tokenizer and CLIP stay in float32."""
    cuda_graphs: bool = False
    """On a GPU, launch all kernels of a chunk at once, from the second of its shape on. It changes nothing on a CPU."""

    def __post_init__(self) -> None:
        """Refuse what draws nothing."""
        if self.temperature and not 1e-3 <= self.temperature < math.inf:
            raise UserError(f"sampling.temperature={self.temperature:g}: expected 0, or 0.001 or more")
        if self.top_k < 0:
            raise UserError(f"sampling.top_k={self.top_k}: expected 0, for all codes, or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"sampling.top_p={self.top_p:g}: expected above 0 up to 1")
        if not math.isfinite(self.guidance):
            raise UserError(f"sampling.guidance={self.guidance:g}: expected a number")


@torch.inference_mode()
def sample_codes(
    transformer: Transformer, text: torch.Tensor, uniforms: torch.Tensor, config: SamplingConfig, *,
    null: torch.Tensor, forced: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Draw codes int64 [P, G, M]: G candidates for each of P captions.

    `text` int64 [P, text_length]; `uniforms` float64 [P, G, M] in (0, 1), one a code; `null` int64 [text_length], the
    caption that stands for none; `forced` int64 [P, M], codes to be kept, -1 where one is to be drawn.
    """
    inputs = Inputs.of(text, uniforms, config, null, forced)
    return draw(transformer, config, inputs, inputs.cache(transformer))


class CodeSampler(Protocol):
    """`sample_codes`, all but its inputs being chosen."""

    def __call__(
        self, text: torch.Tensor, uniforms: torch.Tensor, *, forced: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Draw codes int64 [P, G, M]."""
        ...


class Inputs(NamedTuple):
    """What a chunk is drawn from."""

    read: torch.Tensor
    """The captions, int64 [P, text_length]; with guidance [2 P, text_length], without captions last."""
    forced: torch.Tensor
    uniforms: torch.Tensor
    shared: int
    """Leading codes that are forced for every caption."""

    @classmethod
    def of(
        cls, text: torch.Tensor, uniforms: torch.Tensor, config: SamplingConfig, null: torch.Tensor,
        forced: torch.Tensor | None,
    ) -> "Inputs":  # fmt: skip
        """Return the inputs of `sample_codes`, brought together."""
        prompts, _, codes = uniforms.shape
        read = text if config.guidance == 1 else torch.cat([text, null.expand_as(text)])
        if forced is None:
            forced = torch.full((prompts, codes), -1, device=text.device)
        return cls(read, forced, uniforms, int((forced >= 0).all(0).int().cumprod(0).sum()))

    def overwrite(self, other: "Inputs") -> None:
        """Take what `other`, of the same shapes, holds, in the same places of memory."""
        self.read.copy_(other.read)
        self.forced.copy_(other.forced)
        self.uniforms.copy_(other.uniforms)

    def cache(self, transformer: Transformer) -> "Cache":
        """Return a cache for these shapes."""
        return Cache(transformer, len(self.read), self.uniforms.shape[1], self.shared)


def draw(transformer: Transformer, config: SamplingConfig, inputs: Inputs, cache: "Cache") -> torch.Tensor:
    """Return the codes of `sample_codes`; nothing here waits for what a device has computed."""
    read, forced, uniforms, shared = inputs
    prompts, candidates, codes = uniforms.shape
    drawn = forced[:, None].repeat(1, candidates, 1)
    if shared == codes:
        return drawn
    sides = len(read) // prompts
    weights = transformer.code_weights()
    states = cache.read(read, forced[:, :shared].repeat(sides, 1))
    for at in range(shared, codes):
        logits = transformer.logits(transformer.norm(states), weights)
        logits = logits.view(sides, prompts, *logits.shape[1:])
        some = pick(guided(logits, config.guidance), uniforms[:, :, at], config)
        drawn[:, :, at] = torch.where(forced[:, None, at] < 0, some, drawn[:, :, at])
        if at + 1 < codes:
            states = cache.step(drawn[:, :, at].repeat(sides, 1), at)
    return drawn


def guided(logits: torch.Tensor, scale: float) -> torch.Tensor:
    """Return logits [P, G, K] of [1, P, G, K] as they are, or of [2, ...], with and without caption, guided."""
    if len(logits) == 1:
        return logits[0]
    captioned, free = logits[0], logits[1]
    return free + scale * (captioned - free)


def pick(logits: torch.Tensor, uniforms: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    """Return int64 [P, G]: from logits float32 [P, G or 1, K], the code at which the distribution reaches a uniform."""
    if config.temperature == 0:
        return logits.argmax(-1).expand_as(uniforms)
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        best = logits.topk(config.top_k)
        logits = torch.full_like(logits, float("-inf")).scatter(-1, best.indices, best.values)
    probabilities = logits.double().softmax(-1)
    if config.top_p < 1:
        ranked, order = probabilities.sort(-1, descending=True)
        beyond = ranked.cumsum(-1) - ranked >= config.top_p
        probabilities = probabilities.masked_fill(beyond.gather(-1, order.argsort(-1)), 0.0)
    reached = probabilities.cumsum(-1)
    reached = reached.expand(*uniforms.shape, -1).contiguous()
    targets = uniforms[..., None].to(reached) * reached[..., -1:]
    return torch.searchsorted(reached, targets, right=True)[..., 0].clamp(max=logits.shape[-1] - 1)


class Seen(NamedTuple):
    """What one state looks at: places of the shared part of the stream, and of the candidate's own part."""

    shared: slice | torch.Tensor
    own: slice | torch.Tensor


class Cache:
    """Keys and values of every layer: those of a caption and of leading kept codes once, for all its candidates.

    `shared` leading codes are part of what is read at once. In the dtype and on the device of the transformer.
    """

    def __init__(self, transformer: Transformer, prompts: int, candidates: int, shared: int) -> None:
        self.transformer, self.candidates = transformer, candidates
        self.read_length = transformer.text_length + 1 + shared
        width, heads = transformer.config.width, transformer.config.heads
        like = transformer.start_of_image
        rows, own = prompts * candidates * heads, max(transformer.codes - 1 - shared, 0)
        self.own = [like.new_empty(2, rows, own, width // heads) for _ in transformer.layers]
        """Keys and values [2, P * G * heads, codes of its own, width / heads] of each layer."""
        self.shared: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Keys and values [P * heads, read_length, width / heads] of each layer."""
        self.seen = {pattern: self._seen(pattern) for pattern in set(transformer.patterns)}

    def read(self, text: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Read captions int64 [P, text_length] and leading codes [P, shared]; return the last states [P, 1, D]."""
        transformer = self.transformer
        self.shared = []
        x = torch.cat([transformer.embed_text(text), transformer.embed_codes(codes)], 1)
        for pattern, block in zip(transformer.patterns, transformer.layers, strict=True):
            mask = transformer.mask(pattern)
            mask = None if mask is None else mask[: self.read_length, : self.read_length]
            queries, keys, values = block.project(x)
            self.shared.append((keys.flatten(0, 1), values.flatten(0, 1)))
            x = block.finish(x, attend(queries, keys, values, mask))
        return x[:, -1:]

    def step(self, codes: torch.Tensor, at: int) -> torch.Tensor:
        """Read the code at place `at` of each candidate, int64 [P, G]; return its states [P, G, D]."""
        transformer = self.transformer
        x = transformer.embed_codes(codes.flatten()[:, None], at)
        for layer, (pattern, block) in enumerate(zip(transformer.patterns, transformer.layers, strict=True)):
            queries, keys, values = block.projected(x)[:, 0].unbind(1)
            place = transformer.text_length + 1 + at - self.read_length
            for cached, new in zip(self.own[layer], (keys, values), strict=True):
                cached.view(*keys.shape[:2], *cached.shape[1:])[:, :, place] = new
            attended = self._attend(layer, self.seen[pattern][place], queries)
            x = block.finish(x, attended[:, :, None])
        return x.view(*codes.shape, -1)

    def _attend(self, layer: int, seen: Seen, queries: torch.Tensor) -> torch.Tensor:
        """Return [P * G, heads, D / heads] for queries of that shape: one softmax over both parts.

        The shared part is one matrix product for all candidates of a prompt, so its keys and values are read once.
        """
        rows, heads, size = queries.shape
        queries = queries * size**-0.5
        keys, values = (part[:, seen.shared] for part in self.shared[layer])
        own_keys, own_values = self.own[layer][:, :, seen.own]
        if own_keys.dtype == torch.bfloat16 and own_keys.device.type == "cpu":
            # The product copies a slice first, and a transposed slice three times more slowly.
            own_keys = own_keys.contiguous()
        read = self._by_candidate(torch.bmm(self._by_prompt(queries), keys.transpose(1, 2)))
        own = torch.bmm(queries.reshape(-1, 1, size), own_keys.transpose(1, 2)).view(rows, heads, -1)
        weights = torch.cat([read, own], 2).softmax(2, dtype=torch.float32).to(read.dtype)
        of_read, of_own = weights[:, :, : read.shape[2]], weights[:, :, read.shape[2] :]
        from_own = torch.bmm(of_own.reshape(rows * heads, 1, -1), own_values).view(rows, heads, size)
        return self._by_candidate(torch.bmm(self._by_prompt(of_read), values)) + from_own

    def _by_prompt(self, part: torch.Tensor) -> torch.Tensor:
        """Return [P * heads, G, K] of [P * G, heads, K]."""
        return part.reshape(-1, self.candidates, *part.shape[1:]).transpose(1, 2).flatten(0, 1)

    def _by_candidate(self, part: torch.Tensor) -> torch.Tensor:
        """Return [P * G, heads, K] of [P * heads, G, K]."""
        return part.view(-1, self.transformer.config.heads, *part.shape[1:]).transpose(1, 2).flatten(0, 1)

    def _seen(self, pattern: Pattern) -> list[Seen]:
        """Return what the states of the candidate's own places look at, one after another."""
        transformer = self.transformer
        with torch.device("cpu"):
            mask = attention_mask(pattern, transformer.text_length, transformer.grids, transformer.config.kernel)
        rows = mask[self.read_length :]
        device = transformer.start_of_image.device
        return [
            Seen(_compact(row[: self.read_length], device), _compact(row[self.read_length :], device)) for row in rows
        ]


def _compact(allowed: torch.Tensor, device: torch.device) -> slice | torch.Tensor:
    """Return the places where bool [T] is True: as a slice, which copies nothing, if they are evenly spaced."""
    places = allowed.nonzero()[:, 0]
    if len(places) == 0:
        return slice(0, 0)
    steps = set(places.diff().tolist())
    if len(steps) > 1:
        return places.to(device)
    return slice(int(places[0]), int(places[-1]) + 1, steps.pop() if steps else 1)
