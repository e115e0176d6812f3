"""What real images score: held-out ones as if a model had drawn them, against the test split.

    python benchmarks/floor.py scenes 32
    python benchmarks/floor.py emoji 64

No model need do better than this. R-precision and CLIP score are of the images' own captions.
"""

import sys

import numpy as np

from t2ibench.eval.harness import evaluate
from t2ibench.suite.plugins import find_dataset
from t2ibench.suite.run import default_evaluation, open_judges, prepared
from t2ibench.suite.training import silent


def main(name: str, size: int, images: int = 2000) -> None:
    """Print the scores of up to `images` captioned images of the split `val`."""
    source = find_dataset(name)(None)
    real, test = prepared(source, "val", size), prepared(source, "test", size)
    at = np.array([index for index in range(len(real)) if real.captions(index)][:images])
    batch = real.batch(at)
    judges = open_judges(default_evaluation(name).judges, source, size, silent)
    for score in evaluate(batch.images, batch.captions, test, judges).scores:
        print(f"{score.name:<24} {score.value:.4g}   ({score.n:,} images)")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
