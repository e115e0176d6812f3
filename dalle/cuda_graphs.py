"""Drawing on a GPU with all kernels of a chunk launched at once, as a CUDA graph.

A step of the sampler is some hundred small kernels, which can take longer to launch than to run (NVIDIA 2019, "Getting
Started with CUDA Graphs"). A chunk's shapes are always the same, so one graph holds all its steps: some 60,000 kernels
of `small`, and two million of `paper`, which its own steps keep busy without one.
"""

import torch

from .sampler import Inputs, SamplingConfig, draw
from .transformer import Transformer


class GraphedSampler:
    """`sample_codes` with one transformer, to be kept from call to call: graphs are captured once.

    The first chunk of each shape is drawn as ever, which readies the libraries; with the second its graph is captured,
    and replayed from then on with its inputs overwritten.
    """

    def __init__(self, transformer: Transformer, config: SamplingConfig) -> None:
        self.transformer, self.config = transformer, config
        self.graphs: dict[tuple[torch.Size, int], CapturedChunk | None] = {}

    @torch.inference_mode()
    def __call__(
        self, text: torch.Tensor, uniforms: torch.Tensor, *, null: torch.Tensor, forced: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what `sample_codes` returns."""
        inputs = Inputs.of(text, uniforms, self.config, null, forced)
        shape = (inputs.uniforms.shape, inputs.shared)
        if shape not in self.graphs:
            self.graphs[shape] = None
            return draw(self.transformer, self.config, inputs, inputs.cache(self.transformer))
        graph = self.graphs[shape] or CapturedChunk(self.transformer, self.config, inputs)
        self.graphs[shape] = graph
        return graph.replay(inputs)


class CapturedChunk:
    """The graph of one shape of chunk, with the inputs, the cache and the codes that it reads and writes."""

    def __init__(self, transformer: Transformer, config: SamplingConfig, inputs: Inputs) -> None:
        self.inputs = inputs._replace(
            read=inputs.read.clone(), forced=inputs.forced.clone(), uniforms=inputs.uniforms.clone()
        )
        self.cache = self.inputs.cache(transformer)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.drawn = draw(transformer, config, self.inputs, self.cache)

    def replay(self, inputs: Inputs) -> torch.Tensor:
        """Return the codes of other inputs of the same shapes."""
        self.inputs.overwrite(inputs)
        self.graph.replay()
        return self.drawn.clone()
