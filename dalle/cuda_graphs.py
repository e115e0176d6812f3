"""Drawing on a GPU with all kernels of a chunk launched at once, as a CUDA graph.

A step of the sampler is some hundred small kernels, which take longer to launch than to run (NVIDIA 2019, "Getting
Started with CUDA Graphs"). A chunk's shapes and places in memory are always the same, so the graph holds all its steps.
"""

import torch

from .sampler import Inputs, SamplingConfig, draw
from .transformer import Transformer


class RecordedSampler:
    """`sample_codes` with one transformer, whose weights must stay as and where they are.

    The first chunk of each shape is drawn as ever, which readies the libraries; the second is recorded, and replayed
    from then on with its inputs overwritten.
    """

    def __init__(self, transformer: Transformer, config: SamplingConfig, null: torch.Tensor) -> None:
        self.transformer, self.config, self.null = transformer, config, null
        self.recorded: dict[tuple[int | torch.Size, ...], Recorded | None] = {}

    @torch.inference_mode()
    def __call__(
        self, text: torch.Tensor, uniforms: torch.Tensor, *, forced: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what `sample_codes` returns."""
        inputs = Inputs.of(text, uniforms, self.config, self.null, forced)
        key = (inputs.uniforms.shape, inputs.leading)
        if key not in self.recorded:
            self.recorded[key] = None
            return draw(self.transformer, self.config, inputs, inputs.cache(self.transformer))
        recorded = self.recorded[key] or Recorded(self.transformer, self.config, inputs)
        self.recorded[key] = recorded
        return recorded(inputs)


class Recorded:
    """The graph of one shape of chunk, with the inputs, the cache and the codes that it reads and writes."""

    def __init__(self, transformer: Transformer, config: SamplingConfig, inputs: Inputs) -> None:
        self.inputs = Inputs(inputs.read.clone(), inputs.kept.clone(), inputs.uniforms.clone(), inputs.leading)
        self.cache = self.inputs.cache(transformer)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.drawn = draw(transformer, config, self.inputs, self.cache)

    def __call__(self, inputs: Inputs) -> torch.Tensor:
        """Replay it with other inputs of the same shapes."""
        self.inputs.read.copy_(inputs.read)
        self.inputs.kept.copy_(inputs.kept)
        self.inputs.uniforms.copy_(inputs.uniforms)
        self.graph.replay()
        return self.drawn.clone()
