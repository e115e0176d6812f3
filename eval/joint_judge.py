"""Judges trained here: a small classifier and a small CLIP in one network, for any captioned data set.

`scenes` is shipped, trained by `python -m t2ibench.eval.make_scenes_judge`; `in-domain` is trained on a data
set's train split when it is first asked for, and kept. Their scores say how images look to them, and
compare only with scores by the same judge.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from ..baselines.text_transformer import TextTransformer, contrastive_loss, text_fingerprint
from ..datasets.captioned import CaptionedDataset
from ..datasets.tokenizers import WordTokenizer
from ..files import digest_of_file
from .judges import Look, Training
from .resize import bicubic
from .taught import UNREADABLE, foreign, load_taught, notes_of, save_taught, taught

SIZE = 64
"""Images are resized to this side, bicubic and anti-aliased."""
EMBED_DIM = 128
FEATURES = 192
CONTEXT = 48
MAX_WORDS = 4000
IN_DOMAIN_IMAGES = 60_000
"""Images an in-domain judge learns from, over several epochs."""
LABELS_AT_ONCE = 1024
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.02
WARM_UP = 0.05
"""Part of the steps in which the learning rate rises."""
RECIPE = 1
"""Raised when the network or its training changes, so that no judge of an older recipe is taken for a new one."""


class JointNetwork(nn.Module):
    """Image features, class logits and an image embedding from one pass; caption embeddings beside them."""

    def __init__(self, *, classes: int, vocabulary: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            *[Down(before, after) for before, after in ((32, 48), (48, 96), (96, 128))],
            nn.Flatten(), nn.Linear(128 * 16, FEATURES),
        )  # fmt: skip
        self.classify = nn.Linear(FEATURES, classes) if classes else None
        self.embed = nn.Linear(FEATURES, EMBED_DIM)
        self.text = TextTransformer(
            vocabulary=vocabulary, context=CONTEXT, width=96, layers=2, heads=4, embed_dim=EMBED_DIM,
            end=WordTokenizer.end,
        )  # fmt: skip
        self.logit_scale = nn.Parameter(torch.tensor(2.66))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Return features [N, 192], class logits [N, C] or None, embeddings [N, 128] of images uint8 [N, 3, H, W]."""
        features = self.trunk(resize(images))
        seen = F.relu(features)
        return features, self.classify(seen) if self.classify else None, self.embed(seen)


class Down(nn.Module):
    """Residual block that halves the side: two 3x3 convolutions beside a pooled 1x1."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.short = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, after, H / 2, W / 2]."""
        return F.relu(self.layers(x) + self.short(x))


def resize(images: torch.Tensor) -> torch.Tensor:
    """Return images uint8 [N, 3, H, W] as float [N, 3, 64, 64] in [-1, 1]."""
    return (bicubic(images, SIZE, SIZE) / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def trim(tokens: torch.Tensor) -> torch.Tensor:
    """Return tokens int64 [N, T] without the columns that are padding in every row."""
    return tokens[:, : int((tokens != WordTokenizer.padding).any(0).sum())]


class JointJudge:
    """A trained `JointNetwork` with its vocabulary, frozen."""

    BATCH = 64

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        try:
            self.id = f"joint-r{RECIPE}:{digest_of_file(path)[:12]}:bicubic-antialias-{SIZE}"
            notes = notes_of(path)
            self.tokenizer = WordTokenizer(notes["words"], CONTEXT)
            self.class_names = tuple(notes["class_names"])
            self.held_out: Mapping[str, float] = notes["held_out"]
            self.network = JointNetwork(classes=len(self.class_names), vocabulary=self.tokenizer.vocabulary_size)
            load_taught(path, self.network)
        except UNREADABLE as error:
            raise foreign(path, error) from error
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = self.network.logit_scale.device
        self.fingerprint = text_fingerprint(self.network.text.token_embedding.weight)

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> Look:
        """Return features, class probabilities and embeddings of images uint8 [N, 3, H, W]."""
        passes = [self.network(some.to(self.device)) for some in torch.split(images, self.BATCH)]
        features = torch.cat([features for features, _, _ in passes]).cpu()
        embeddings = F.normalize(torch.cat([embeddings for _, _, embeddings in passes]), dim=-1).cpu()
        logits = [logits for _, logits, _ in passes if logits is not None]
        return Look(
            features=features, embeddings=embeddings,
            class_probabilities=torch.cat(logits).softmax(-1).cpu() if logits else None,
        )  # fmt: skip

    @torch.no_grad()
    def caption_embeddings(self, captions: Sequence[str]) -> torch.Tensor:
        """Return float32 [N, 128] of unit length."""
        tokens = self.tokenizer(captions).to(self.device)
        embeddings = torch.cat([self.network.text(trim(some)) for some in torch.split(tokens, self.BATCH)])
        return F.normalize(embeddings, dim=-1).cpu()


def scenes_judge(training: Training) -> JointJudge:
    """Return the shipped judge of `scenes`."""
    return JointJudge("scenes", Path(__file__).parent / "scenes_judge.safetensors")


def in_domain_judge(training: Training) -> JointJudge:
    """Return the judge of the data at hand, trained on its train split unless that was done before."""

    def save(path: Path, train: CaptionedDataset, held_out: CaptionedDataset | None, **how: Any) -> None:
        save_judge(path, [train], held_out, **how)

    return JointJudge("in-domain", taught(training, "in-domain", RECIPE, IN_DOMAIN_IMAGES, save))


def save_judge(
    path: Path,
    train: Sequence[CaptionedDataset],
    held_out: CaptionedDataset | None,
    *,
    images: int,
    progress: Callable[[int, int], None],
) -> None:
    """Train a joint network on the `train` sets for `images` images and write it with its held-out accuracy."""
    captions = (caption for data in train for index in range(len(data)) for caption in data.captions(index))
    tokenizer = WordTokenizer.learn(captions, length=CONTEXT, size=MAX_WORDS)
    torch.manual_seed(0)
    class_names = train[0].class_names
    network = JointNetwork(classes=len(class_names), vocabulary=tokenizer.vocabulary_size)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _fit(network, tokenizer, train, images, progress)

    def trial(written: Path) -> Mapping[str, Any]:
        return {} if held_out is None else {"held_out": held_out_accuracy(JointJudge("draft", written), held_out)}

    save_taught(path, network, {"words": tokenizer.words, "class_names": class_names, "held_out": {}}, trial)


def _fit(
    network: JointNetwork,
    tokenizer: WordTokenizer,
    train: Sequence[CaptionedDataset],
    images: int,
    progress: Callable[[int, int], None],
) -> None:
    """Minimise contrastive loss + cross-entropy of the classes, by AdamW with warm-up and cosine decay."""
    steps = max(1, images // BATCH_SIZE)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, steps, pct_start=WARM_UP, cycle_momentum=False
    )  # fmt: skip
    targets = [class_targets(data) for data in train]
    device = network.logit_scale.device
    network.train()
    for step, (which, at, rng) in enumerate(_batches(train, BATCH_SIZE, steps)):
        batch = train[which].batch(at, rng.random(len(at))).to(device)
        _, logits, embeddings = network(batch.images)
        numbers = {caption: number for number, caption in enumerate(batch.captions)}
        groups = torch.tensor([numbers[caption] for caption in batch.captions], device=device)
        texts = network.text(trim(tokenizer(batch.captions)).to(device))
        loss = contrastive_loss(embeddings, texts, network.logit_scale, groups[:, None] == groups[None])
        if logits is not None:
            loss = loss + F.cross_entropy(logits, torch.from_numpy(targets[which][at]).to(device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress((step + 1) * BATCH_SIZE, steps * BATCH_SIZE)
    network.eval()


def _batches(
    train: Sequence[CaptionedDataset], size: int, steps: int
) -> Iterator[tuple[int, NDArray[np.int64], np.random.Generator]]:
    """Yield for each step the data set (in turn), the images, and the generator that draws their captions."""
    for step in range(steps):
        rng = np.random.default_rng([0, step])
        which = step % len(train)
        count = len(train[which])
        yield which, rng.choice(count, size=min(size, count), replace=False), rng


def class_targets(data: CaptionedDataset) -> NDArray[np.float32]:
    """Return float32 [N, C], rows sum to 1: the image's class, or where there is ground truth all of its objects'.

    A scene of several objects has no one class; its target is spread evenly over the kinds it shows.
    """
    targets = np.zeros((len(data), len(data.class_names)), np.float32)
    if not data.class_names:
        return targets
    numbers = {name: number for number, name in enumerate(data.class_names)}
    for start in range(0, len(data), LABELS_AT_ONCE):
        at = np.arange(start, min(start + LABELS_AT_ONCE, len(data)))
        labels = data.batch(at).labels
        for index in at:
            if scene := data.scene(int(index)):
                kinds = {numbers[f"{thing['colour']} {thing['shape']}"] for thing in scene["objects"]}
                targets[index, list(kinds)] = 1 / len(kinds)
            elif labels is not None:
                targets[index, labels[index - start]] = 1.0
    return targets


def held_out_accuracy(judge: JointJudge, data: CaptionedDataset, candidates: int = 100) -> dict[str, float]:
    """Return what the judge gets right on real images it never saw, as shares.

    `classes`: the k classes it finds most probable are exactly the k shown. `caption_of_100`: an image is
    nearest to its own first caption among that of 99 others with other captions.
    """
    batch = data.batch(np.arange(len(data)))
    looked = judge.look(batch.images)
    accuracy = {}
    if looked.class_probabilities is not None:
        targets = torch.from_numpy(class_targets(data)) > 0
        ranks = looked.class_probabilities.argsort(-1, descending=True).argsort(-1)
        found = (ranks < targets.sum(-1, keepdim=True)) & targets
        accuracy["classes"] = float((found.sum(-1) == targets.sum(-1)).float().mean())
    assert looked.embeddings is not None
    texts = judge.caption_embeddings(batch.captions)
    hits = total = 0
    for start in range(0, len(data) - candidates + 1, candidates):
        block = slice(start, start + candidates)
        similar = looked.embeddings[block] @ texts[block].T
        captions = batch.captions[block]
        nearest = similar.argmax(1).tolist()
        hits += sum(captions[near] == caption for near, caption in zip(nearest, captions, strict=True))
        total += candidates
    if total:
        accuracy["caption_of_100"] = hits / total
    return accuracy
