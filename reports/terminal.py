"""How scores read in a terminal: a line each, with the controls beside them."""

from collections.abc import Iterator, Mapping, Sequence

from .records import Probe, Score


def lines(scores: Sequence[Score], controls: Mapping[str, Sequence[Score]], probes: Sequence[Probe]) -> Iterator[str]:
    """Yield a line for each score and each category of the probes."""
    for score in scores:
        error = "" if score.stderr is None else f" +- {score.stderr:.3g}"
        beside = [f"{name} {other.value:.4g}" for name, others in controls.items() for other in others
                  if other.name == score.name]  # fmt: skip
        about = [f"{'higher' if score.higher_is_better else 'lower'} is better, {score.n:,} images", *beside]
        yield f"{score.name:<28} {score.value:.4g}{error}   ({'; '.join(about)})"
    for probe in probes:
        told = f"n/a: {probe.about}" if probe.value is None else f"{probe.value:.1%} of {probe.n} prompts as asked"
        real = "" if probe.real is None else f" (real images {probe.real:.1%})"
        yield f"{probe.category:<28} {told}{real}"
