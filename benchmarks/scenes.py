"""Print how fast scenes are drawn: `python benchmarks/scenes.py [number of scenes]`."""

import sys
import time

from t2ibench.datasets.scenes import Scenes, render


def main(number: int) -> None:
    """Time the renderer alone, and whole chunks (graphs, captions and pixels), on one thread."""
    source = Scenes(sizes={"train": number})
    for image_size in (32, 64, 128):
        start = time.perf_counter()
        drawn = 0.0
        for chunk in source.chunks("train", image_size):
            before = time.perf_counter()
            render(chunk.scenes, image_size)
            drawn += time.perf_counter() - before
        whole = time.perf_counter() - start - drawn
        rates = f"{number / drawn:8,.0f} images/s drawn, {number / whole:8,.0f} with graphs and captions"
        print(f"{image_size:4} px: {rates}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4096)
