"""Tokenizers: what the numbers mean, BPE beside the library's, dropout from a seed, and what is kept with a run."""

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers
from torch import nn

from t2ibench.baselines.char_cnn_rnn import CharCNNRNNConfig
from t2ibench.baselines.interface import Stage, Tokenizes, optimiser_step
from t2ibench.baselines.text_dcgan import TextDCGAN, TextDCGANConfig
from t2ibench.baselines.text_encoders import TextEncoderConfig
from t2ibench.datasets.bpe import SPECIALS, WORD, BPETokenizer, words_of
from t2ibench.datasets.captioned import Batch, CaptionedDataset
from t2ibench.datasets.store import Store
from t2ibench.datasets.tokenizers import CharacterTokenizer, Tokenizer, WordTokenizer, tokenizer_from_json
from t2ibench.errors import UserError
from t2ibench.files import digest_of, digest_of_file, read_json
from t2ibench.suite.checkpoint import load_tokenizers, save_tokenizers
from t2ibench.suite.training import train

RARE = "L'ÉTÉ naïve 🦊👩‍🦰 狐狸在跳 हिन्दी 12345 -- ok!"
CAPTIONS = ["a red fox on a red box", "the RED foxes jump", "a box of foxes, red & blue", "naïve été – ÉTÉ, naïve",
            "狐狸在跳", "two 🦊🦊 and 2024 boxes", RARE, RARE]  # fmt: skip
BPE = BPETokenizer.learn(CAPTIONS, length=40, size=320)
RNG = random.Random(0)
TANGLED = BPETokenizer.learn(["".join(RNG.choices("abcd", k=9)) for _ in range(500)], length=300, size=400)
"""Every merge stands in another's way."""
WORDS = WordTokenizer.learn(CAPTIONS, length=6, size=10)

any_text = st.text(st.characters(codec="utf-8"), max_size=40)


@pytest.mark.parametrize("tokenizer", [CharacterTokenizer(9), WORDS, BPE])
def test_a_tokenizer_is_the_same_after_json(tokenizer: Tokenizer) -> None:
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())), "there")
    assert type(again) is type(tokenizer) and again.to_json() == tokenizer.to_json()
    assert (again.vocabulary_size, again.length) == (tokenizer.vocabulary_size, tokenizer.length)
    assert torch.equal(again(CAPTIONS), tokenizer(CAPTIONS)) and again(CAPTIONS).dtype == torch.int64
    for caption in [*CAPTIONS, "", "x" * 50]:
        [row] = tokenizer([caption]).tolist()
        cut = tokenizer.count(caption) > tokenizer.length
        assert cut or sum(number != 0 for number in row) <= tokenizer.count(caption)
        assert len(row) == tokenizer.length and max(row) < tokenizer.vocabulary_size


@given(st.lists(any_text, max_size=5), st.integers(0, 20))
@settings(deadline=None, max_examples=40)
def test_words_learned_from_any_text_can_be_read_back(captions: list[str], size: int) -> None:
    learned = WordTokenizer.learn(captions, length=5, size=size)
    assert tokenizer_from_json(learned.to_json(), "there").to_json() == learned.to_json()


def test_how_many_numbers_a_prompt_takes() -> None:
    assert CharacterTokenizer(3).count("fox ") == 4
    assert WORDS.count("a red, red zebra") == 6
    assert WORDS(["a red, red zebra"])[0, -1] == WORDS.end
    long = "fox " * 40
    assert BPE.count(long) == 1 + 40 * (BPE.count("fox") - 1) > BPE.length
    assert BPE.count("") == WORDS.count("") == 1
    [row] = BPE([long]).tolist()
    assert row[-1] == BPE.end and 0 not in row and BPE.decode(row).startswith("fox fox")


MERGE = {"kind": "bpe", "length": 5, "merges": ["r e", "re d"]}
WORD_LIST = {"kind": "word", "length": 5, "words": ["red"]}


@pytest.mark.parametrize(("document", "line"), [
    (None, "of kind character, word, bpe; got None"),
    ([], "got None"),
    ({"kind": "pickle"}, "got 'pickle'"),
    ({"kind": ["word"]}, r"got \['word'\]"),
    ({"kind": "character"}, r"expected the keys \['kind', 'length'\], got \['kind'\]"),
    ({"kind": "character", "length": 5, "__reduce__": "os.system"}, "expected the keys"),
    ({"kind": "character", "length": 10**12}, "`length` must be from 1 to 65536, got 1000000000000"),
    ({"kind": "character", "length": True}, "got True"),
    ({"kind": "character", "length": 5.0}, r"got 5\.0"),
    ({"kind": "character", "length": 0}, "got 0"),
    ({**WORD_LIST, "words": "red"}, "`words` must be a list, got str"),
    ({**WORD_LIST, "words": ["red", "red"]}, "word 1 must be one lower-case word, once; got 'red'"),
    ({**WORD_LIST, "words": ["Red"]}, "word 0 .* got 'Red'"),
    ({**WORD_LIST, "words": ["red fox"]}, "word 0 .* got 'red fox'"),
    ({**WORD_LIST, "words": [""]}, "word 0 .* got ''"),
    ({**WORD_LIST, "words": ["a\nb" * 1000]}, r"word 0 .* got 'a\\nb.*\.\.\."),
    ({**WORD_LIST, "words": [None]}, "word 0 .* got None"),
    ({**MERGE, "merges": {"r": "e"}}, "`merges` must be a list, got dict"),
    ({**MERGE, "merges": [["r", "e"]]}, r"merge 0 must join two pieces made before it, got \['r', 'e'\]"),
    ({**MERGE, "merges": ["re d", "r e"]}, "merge 0 must join two pieces made before it, got 're d'"),
    ({**MERGE, "merges": ["r e", "r e"]}, "merge 1 is there twice"),
    ({**MERGE, "merges": ["r"]}, "merge 0 must join"),
    ({**MERGE, "merges": ["r e d"]}, "merge 0 must join"),
    ({**MERGE, "merges": [" r"]}, "merge 0 must join"),
    ({**MERGE, "merges": ["狐 r"]}, "merge 0 must join"),
    ({**MERGE, "merges": [7]}, "merge 0 must join"),
    ({**MERGE, "merges": [f"{'a' * 2**n} {'a' * 2**n}" for n in range(10)]}, "merge 7 is longer than a word"),
])  # fmt: skip
def test_what_no_tokenizer_wrote_is_one_line(document: Any, line: str) -> None:
    with pytest.raises(UserError, match=f"^there: .*{line}") as caught:
        tokenizer_from_json(document, "there")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
)


@given(st.sampled_from([MERGE, WORD_LIST]), st.sampled_from(["kind", "length", "words", "merges"]), JSON)
@settings(deadline=None, max_examples=80)
def test_any_json_is_a_tokenizer_or_one_line(document: dict[str, Any], key: str, value: Any) -> None:
    try:
        tokenizer = tokenizer_from_json({**document, key: value}, "there")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert tokenizer(["a red fox"]).shape == (1, tokenizer.length)


# BPE


def library_pieces(tokenizer: BPETokenizer, caption: str) -> list[str]:
    """Return the pieces that the library's own encoder makes of a caption."""
    numbers = {piece: number for number, piece in enumerate(tokenizer.pieces[SPECIALS:])}
    merges = [(left, right) for left, right in (merge.split(" ") for merge in tokenizer.merges)]
    library = Library(models.BPE(vocab=numbers, merges=merges))
    library.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("\n", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ])  # fmt: skip
    pieces: list[str] = library.encode("\n".join(words_of(caption))).tokens
    return pieces


known_words = st.sampled_from("a red fox boxes naïve été 🦊 👩‍🦰 狐狸在跳 跳跳 हिन्दी 20 , foxes!".split())


@given(any_text | st.lists(known_words, max_size=15).map(" ".join) | st.text("abcd ", max_size=40))
@settings(deadline=None, max_examples=120)
def test_pieces_are_those_of_the_library(caption: str) -> None:
    """Without dropout, and with so little that nothing is ever dropped."""
    for tokenizer in (BPETokenizer(BPE.merges, 300), TANGLED):
        [row] = tokenizer([caption]).tolist()
        assert [tokenizer.pieces[n] for n in row if n >= SPECIALS] == library_pieces(tokenizer, caption)
        assert tokenizer([caption], dropout=1e-300, seed=0)[0].tolist() == row
        assert tokenizer.count(caption) == row.index(tokenizer.end) + 1


@given(any_text, st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.integers(-(2**70), 2**70))
@settings(deadline=None, max_examples=80)
def test_text_survives_any_dropout(caption: str, dropout: float, seed: int) -> None:
    tokenizer = BPETokenizer(BPE.merges, 300)
    [row] = tokenizer([caption], dropout=dropout, seed=seed).tolist()
    words = words_of(caption)
    assert tokenizer.decode(row) == "".join(words).removeprefix(" ")
    assert "".join(words).split() == "".join(words).strip().split(" ") or not words
    if dropout == 1.0:
        assert sum(number != 0 for number in row) == len("".join(words).encode()) + 1


def test_words_lose_nothing_but_case_and_doubled_spaces() -> None:
    words = words_of("  L'ÉTÉ\u3000\t123456 Cafe\u0301--\ud800🦊x ")
    assert words == [" l", "'", "été", " 123", "456", " café", "--?", "🦊x"]
    assert all(len(word.encode()) <= 129 for word in words_of("🦊" * 500 + "!" * 500 + "9" * 500))
    assert BPE.decode(BPE(["  A   Red\nFOX "])[0].tolist()) == "a red fox"
    assert not WORD.sub("", "".join(map(chr, range(0x110000)))).strip()


def test_nothing_in_a_caption_is_a_special_number() -> None:
    for text in ("<pad>", "[END]", "<|endoftext|>", "</s>", "\x00\x01"):
        [row] = BPE([text]).tolist()
        numbers = row[: BPE.count(text)]
        assert numbers.count(BPE.end) == 1 and 0 not in numbers and BPE.decode(row) == text.lower()


def test_the_order_of_captions_changes_no_merge() -> None:
    rng = random.Random(0)
    captions = ["".join(rng.choices("abcde fg", k=30)) for _ in range(200)]
    learned = BPETokenizer.learn(captions, length=9, size=500)
    assert learned.vocabulary_size == 500 and learned.merges != BPE.merges
    for _ in range(3):
        rng.shuffle(captions)
        assert BPETokenizer.learn(iter(captions), length=9, size=500).merges == learned.merges


def test_pieces_are_common_in_the_captions_and_as_many_as_asked() -> None:
    assert BPE.vocabulary_size == len(BPE.pieces) == len(set(BPE.pieces)) + 1 == 320
    assert {"Ġred", "Ġfox"} < set(BPE.pieces)
    assert BPETokenizer.learn([], length=5, size=258).vocabulary_size == 258
    assert BPETokenizer.learn(["abc def"], length=5, size=300).merges == ()
    with pytest.raises(UserError, match="a vocabulary of 257; expected at least 258"):
        BPETokenizer.learn([], length=5, size=257)


def test_dropout_is_a_function_of_seed_row_and_caption() -> None:
    first = BPE(CAPTIONS, dropout=0.3, seed=7)
    copied = copy.deepcopy(BPE)
    assert not copied._states and torch.equal(copied(CAPTIONS, dropout=0.3, seed=7), first)
    others = [*CAPTIONS[:2], "something else", *CAPTIONS[3:5]]
    assert torch.equal(BPE(others, dropout=0.3, seed=7)[[0, 1, 3, 4]], first[[0, 1, 3, 4]])
    assert not torch.equal(BPE(CAPTIONS, dropout=0.3, seed=8), first)
    assert len({tuple(row) for row in BPE(["a red fox"] * 20, dropout=0.3, seed=0).tolist()}) > 5
    assert torch.equal(BPE(CAPTIONS, dropout=0.0, seed=7), BPE(CAPTIONS))
    for dropout, seed in ((1.5, 0), (-0.1, 0), (0.1, None), (float("nan"), 0)):
        with pytest.raises(ValueError, match="expected dropout from 0 to 1, with a seed"):
            BPE(CAPTIONS, dropout=dropout, seed=seed)


def test_memory_of_words_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = BPE(CAPTIONS * 5, dropout=0.5, seed=1)
    monkeypatch.setattr("t2ibench.datasets.bpe.STATES_KEPT", 3)
    tokenizer = copy.deepcopy(BPE)
    assert torch.equal(tokenizer(CAPTIONS * 5, dropout=0.5, seed=1), expected)
    assert 1 <= len(tokenizer._states) <= 3


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_merges_are_dropped_as_often_as_the_paper_says(p: float) -> None:
    """The most urgent merge that is not dropped is done, and none when all are (arXiv:1910.13267, algorithm 1)."""
    tokenizer = BPETokenizer(["a b", "b c", "ab c"], 9)
    rows = tokenizer(["xabc"] * 20_000, dropout=p, seed=0).tolist()
    found = Counter("|".join(tokenizer.pieces[number] for number in row[2 : row.index(tokenizer.end)]) for row in rows)
    expected = {"abc": (1 - p) ** 2, "ab|c": (1 - p) * p, "a|bc": p * (1 - p), "a|b|c": p**2}
    assert set(found) == set(expected)
    for pieces, share in expected.items():
        assert found[pieces] / 20_000 == pytest.approx(share, abs=4 * (share * (1 - share) / 20_000) ** 0.5)


# Kept with the run


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    image_size: int = 32


class ToyModel:
    """Draws the grey that it learned of the caption's first known word; its vocabulary comes from the data."""

    learned = 0
    fail = False

    def __init__(self, config: ToyConfig = ToyConfig()) -> None:
        self.config = config
        torch.manual_seed(0)
        self.tokenizers: dict[str, Tokenizer] = {}
        self.greys = nn.Embedding(600, 1)

    def networks(self) -> Mapping[str, nn.Module]:
        return {"greys": self.greys}

    def stages(self, data: CaptionedDataset) -> Sequence[Stage]:
        if "words" not in self.tokenizers:
            type(self).learned += 1
            captions = (caption for index in range(len(data)) for caption in data.captions(index))
            self.tokenizers["words"] = BPETokenizer.learn(captions, length=4, size=600)
        return [ToyStage(self)]

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        greys = self.greys(self.tokenizers["words"](captions)[:, 0]).sigmoid() * 255
        side = self.config.image_size
        return greys.to(torch.uint8)[:, :, None, None].expand(-1, 3, side, side).contiguous()


class ToyStage:
    name, share, batch_size, draws, ema_kimg = "greys", 1.0, 10, False, 0.0
    averaged: Mapping[str, nn.Module] = {}

    def __init__(self, model: ToyModel) -> None:
        self.model, self.optimiser, self.steps = model, torch.optim.SGD(model.greys.parameters(), 1.0), 0

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        tokenizer = self.model.tokenizers["words"]
        assert isinstance(tokenizer, BPETokenizer)
        tokens = tokenizer(batch.captions, dropout=0.1, seed=int(torch.randint(2**63 - 1, ())))
        loss = (self.model.greys(tokens).mean(1) - batch.images.float().mean((1, 2, 3))[:, None] / 255).square().mean()
        optimiser_step(self.optimiser, loss)
        self.steps += 1
        return {"loss": float("nan") if self.model.fail and self.steps == 8 else loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        return {"greys": self.model.greys.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.greys.load_state_dict(state["greys"])


def test_a_run_goes_on_with_the_tokenizer_it_began_with(world: Store, tmp_path: Path) -> None:
    ToyModel.learned = 0
    cut = ToyModel()
    cut.fail = True
    with pytest.raises(UserError, match="loss is not finite"):
        train(cut, world, tmp_path / "cut", budget=120, seed=0, checkpoint_seconds=0)
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    written = digest_of_file(tmp_path / "cut" / "tokenizers.json")
    train(ToyModel(), world, tmp_path / "cut", budget=120, seed=0)
    assert ToyModel.learned == 1 and digest_of_file(tmp_path / "cut" / "tokenizers.json") == written
    train(ToyModel(), world, tmp_path / "whole", budget=120, seed=0)
    assert ToyModel.learned == 2
    for name in ("weights.safetensors", "tokenizers.json"):
        assert digest_of_file(tmp_path / "cut" / name) == digest_of_file(tmp_path / "whole" / name)


def test_a_learned_vocabulary_is_there_when_a_finished_run_draws(tmp_path: Path) -> None:
    """A model file of the user's, trained and opened again by the names it has on the command line."""
    from PIL import Image

    from t2ibench.suite.trained import Request, load_model, open_run, reopen_run, train_run

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(12):
        Image.new("RGB", (32, 32), (20 * number,) * 3).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"a field of grey {number}\nsomething grey")
    file = tmp_path / "toy.py"
    file.write_text(Path(__file__).read_text() + '\n\nPRESETS = {"tiny": ToyConfig()}\n')
    opened = open_run(Request(model=f"{file}:ToyModel", data="imagefolder", root=pictures, budget=120, runs=tmp_path))
    train_run(opened)
    kept = BPETokenizer(read_json(opened.folder / "tokenizers.json")["tokenizers"]["words"]["merges"], 4)
    model = load_model(reopen_run(opened.folder))
    assert type(model).learned == 0, "not by this instance: the file is imported anew"
    expected = int(model.greys.weight[kept.pieces.index("Ġgrey")].sigmoid() * 255)
    assert model.sample(["grey field"], seeds=[0])[0, 0, 0, 0] == expected
    (opened.folder / "tokenizers.json").unlink()
    with pytest.raises(UserError, match=r"tokenizers\.json: no such file"):
        load_model(reopen_run(opened.folder))


def text_dcgan(characters: int = 201) -> TextDCGAN:
    text = CharCNNRNNConfig(channels=(8, 8, 8), recurrent_width=8, text_dim=8, image_width=4, characters=characters)
    return TextDCGAN(TextDCGANConfig(image_size=16, generator_width=4, discriminator_width=4,
                                     text_encoder=TextEncoderConfig(char_cnn_rnn=text)))  # fmt: skip


def test_text_dcgan_leaves_its_characters_with_the_run(tmp_path: Path) -> None:
    path = tmp_path / "tokenizers.json"
    model = text_dcgan()
    assert isinstance(model, Tokenizes)
    save_tokenizers(path, model)
    assert read_json(path)["tokenizers"] == {"characters": {"kind": "character", "length": 201}}
    load_tokenizers(path, text_dcgan())
    with pytest.raises(UserError, match=r"tokenizers\.json: its 'characters' is not this model's tokenizer"):
        load_tokenizers(path, text_dcgan(characters=100))


def swapped(kept: dict[str, Any]) -> Any:
    words = kept["tokenizers"]["words"]["words"]
    words[0], words[1] = words[1], words[0]
    return kept


def signed(kept: dict[str, Any], **words: Any) -> Any:
    """Change the tokenizer and sign the change."""
    kept["tokenizers"]["words"] |= words
    return {**kept, "digest": digest_of(json.dumps(kept["tokenizers"], sort_keys=True))}


@pytest.mark.parametrize(("tamper", "line"), [
    (swapped, "altered since the training began; put the original back, or train again"),
    (lambda kept: {**kept, "digest": None}, "altered since"),
    (lambda kept: {"tokenizers": kept["tokenizers"]}, "altered since"),
    (lambda kept: {**kept, "tokenizers": {}}, "altered since"),
    (lambda kept: {**kept, "tokenizers": []}, "expected the tokenizers of a run"),
    (lambda kept: [kept], "expected the tokenizers of a run"),
    (lambda kept: signed(kept, length=-1), "'words': `length` must be from 1"),
    (lambda kept: signed(kept, kind="eval"), "'words': expected a tokenizer of kind"),
    (lambda kept: {**kept, "tokenizers": {"a\nb" * 99: 1}}, r"'a\\nb.*: expected a tokenizer of kind"),
    (lambda kept: {**kept, "tokenizers": {"words": {**WORD_LIST, "words": ["\ud800"]}}}, "altered since"),
    (lambda kept: {**kept, "tokenizers": {"\udfff": WORD_LIST}}, "altered since"),
])  # fmt: skip
def test_tampered_tokenizers_are_one_line(
    tamper: Callable[[dict[str, Any]], Any], line: str, tmp_path: Path
) -> None:
    path, model = tmp_path / "tokenizers.json", ToyModel()
    model.tokenizers["words"] = WORDS
    save_tokenizers(path, model)
    load_tokenizers(path, ToyModel())
    path.write_text(json.dumps(tamper(read_json(path))))
    fresh = ToyModel()
    with pytest.raises(UserError, match=rf"tokenizers\.json: {line}") as caught:
        load_tokenizers(path, fresh)
    assert "\n" not in str(caught.value) and not fresh.tokenizers


@pytest.mark.parametrize("text", ["", "{", "\x00", '{"tokenizers": NaN}', "[" * 5, "1" * 5000])
def test_what_is_no_json_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizers.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"tokenizers\.json: (not readable as JSON|expected the tokenizers)"):
        load_tokenizers(path, ToyModel())
