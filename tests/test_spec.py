"""Settings, budgets, sweeps, plugins and checkpoints: what is accepted, and what is said otherwise."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from t2ibench.errors import UserError
from t2ibench.suite.checkpoint import load_state, load_weights, save_state, save_weights
from t2ibench.suite.plugins import absolute_name, find_dataset, find_judge, find_model, find_preset
from t2ibench.suite.spec import Evaluation, TrainSpec, parse_budget, parse_overrides, resolve_config
from t2ibench.suite.sweep import plan_sweep


@dataclass(frozen=True, kw_only=True)
class Inner:
    widths: tuple[int, int] = (1, 2)
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Config:
    batch_size: int = 8
    objective: Literal["a", "b"] = "a"
    flip: bool = False
    clip: float | None = None
    names: tuple[str, ...] = ()
    steps: tuple[Literal["a", "b"], ...] = ()
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(("setting", "expected"), [
    ("batch_size=16", replace(Config(), batch_size=16)),
    ("objective=b", replace(Config(), objective="b")),
    ("flip=true", replace(Config(), flip=True)),
    ("clip=1", replace(Config(), clip=1.0)),
    ("clip=null", Config()),
    ('names=["x", "y"]', replace(Config(), names=("x", "y"))),
    ("inner.widths=[3, 4]", replace(Config(), inner=Inner(widths=(3, 4)))),
    ("inner.rate=2", replace(Config(), inner=Inner(rate=2.0))),
])  # fmt: skip
def test_settings_fit_their_types(setting: str, expected: Config) -> None:
    assert resolve_config(Config(), parse_overrides([setting])) == expected


@pytest.mark.parametrize(("setting", "line"), [
    ("batchsize=16", "unknown setting 'batchsize': did you mean 'batch_size'?"),
    ("inner.rat=1", "did you mean 'inner.rate'?"),
    ("batch_size=many", "setting batch_size='many': expected int"),
    ("batch_size=true", "expected int"),
    ("batch_size=1.5", "expected int"),
    ("inner.rate=NaN", "expected float"),
    ("inner.rate=Infinity", "expected float"),
    ("flip=1", "setting flip=1: expected true or false"),
    ("objective=c", "unknown value of objective 'c'"),
    ("inner.widths=[1]", "expected [int, int]"),
    ("names=x", "setting names='x': expected a list [...] of str"),
    ("steps=c", 'setting steps=\'c\': expected a list [...] of "a" or "b"'),
    ("inner=3", "setting inner=3: expected its fields one by one, inner.FIELD"),
    ("inner.widths=[1, true]", "expected int"),
    ("batch_size.x=1", "has no fields inside"),
    ("batch_size", "expected field=value"),
    ("=3", "expected field=value"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_said(setting: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_config(Config(), parse_overrides([setting]))
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "images"), [("0", 0), ("200k", 200_000), ("1.5M", 1_500_000), (" 12 k", 12_000)])
def test_budgets(text: str, images: int) -> None:
    assert parse_budget(text) == images


@pytest.mark.parametrize("text", ["", "-1", "1e6", "many", "1g", "nan"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="expected a number of training images"):
        parse_budget(text)


def spec(**changes: object) -> TrainSpec:
    base = TrainSpec(model="m", code="", preset="p", config={"a": 1, "b": [1, 2]}, dataset="d", image_size=32,
                     data={"train": "x"}, seed=0, budget=10, precision="float32")  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [
    {"model": "n"}, {"code": "1"}, {"preset": "q"}, {"config": {"a": 2}}, {"dataset": "e"}, {"image_size": 64},
    {"data": {"train": "y"}}, {"seed": 1}, {"budget": 11}, {"precision": "bfloat16"}, {"version": 2},
])  # fmt: skip
def test_every_field_is_in_the_folder_name(change: dict[str, object]) -> None:
    assert set(asdict(spec())) == {"model", "code", "preset", "config", "dataset", "image_size", "data", "seed",
                                   "budget", "precision", "version"}  # fmt: skip
    assert spec(**change).folder_name != spec().folder_name
    assert spec().folder_name == spec(config={"b": [1, 2], "a": 1}).folder_name


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_sweep_is_a_grid(tmp_path: Path) -> None:
    path = write(tmp_path / "s.toml", """
        models = ["text-dcgan"]
        presets = ["tiny", "tiny-gan-cls"]
        seeds = [0, 1, 2]
        budget = "5k"
        [evaluation]
        images = 300
        [set]
        batch_size = 32
        [model.text-dcgan.set]
        mismatch_weight = [0.25, 0.5]
        """)  # fmt: skip
    cells = plan_sweep(path, tmp_path)
    assert len(cells) == 2 * 3 * 2 and all(cell.request.budget == 5000 for cell in cells)
    assert cells[0].evaluation == Evaluation(images=300, judges=("scenes", "reader"))
    assert Evaluation.of("scenes-100k") == Evaluation.of("scenes") != Evaluation.of("emoji")
    assert cells[0].request.settings == {"batch_size": 32, "mismatch_weight": 0.25}
    assert len({(c.request.preset, c.request.seed, c.request.settings["mismatch_weight"]) for c in cells}) == 12


def test_nested_settings_may_be_quoted_or_not(tmp_path: Path) -> None:
    settings = []
    for name in ('"track.gradient_penalty"', "track.gradient_penalty"):
        path = write(tmp_path / "s.toml", f"""
            models = ["df-gan"]
            [set]
            {name} = ["r1", "none"]
            [model.df-gan.set]
            text_encoder.damsm.gamma1 = 5.0
            """)  # fmt: skip
        settings.append([cell.request.settings for cell in plan_sweep(path, tmp_path)])
    assert settings[0] == settings[1] == [
        {"track.gradient_penalty": kind, "text_encoder.damsm.gamma1": 5.0} for kind in ("r1", "none")]


def test_a_model_may_have_presets_and_a_budget_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "s.toml", """
        models = ["aligndraw", "df-gan"]
        presets = ["tiny", "tiny-stabilised"]
        budget = "5k"
        [set]
        image_size = 64
        [model.aligndraw]
        presets = ["tiny"]
        budget = "7k"
        [model.aligndraw.set]
        batch_size = [8, 16]
        """)  # fmt: skip
    asked = [cell.request for cell in plan_sweep(path, tmp_path)]
    assert [(request.model, request.preset, request.budget) for request in asked] == [
        ("aligndraw", "tiny", 7000), ("aligndraw", "tiny", 7000), ("df-gan", "tiny", 5000),
        ("df-gan", "tiny-stabilised", 5000)]  # fmt: skip
    assert [request.settings.get("batch_size") for request in asked] == [8, 16, None, None]
    assert all(request.settings["image_size"] == 64 for request in asked)


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GANS = ("text-dcgan", "stackgan-v1", "stackgan-v2", "attngan", "df-gan")


@pytest.mark.parametrize(("name", "budgets"), [
    ("scenes-32px", {("aligndraw", "tiny"): 100_000} | {
        (gan, preset): 200_000 if gan == "text-dcgan" else 100_000
        for gan in GANS for preset in ("tiny", "tiny-stabilised")}),
    ("scenes-32px-longer", {("stackgan-v1", "tiny-stabilised"): 500_000, ("stackgan-v2", "tiny-stabilised"): 300_000}),
    ("emoji-64px", {("aligndraw", "tiny"): 30_000} | {(gan, "tiny-stabilised"): 30_000 for gan in GANS}),
    ("scenes-32px-untrained", {(model, "tiny"): 0 for model in ("aligndraw", *GANS, "dalle")}),
])  # fmt: skip
def test_the_sweeps_of_the_readme_ask_for_its_rows(
    tmp_path: Path, name: str, budgets: dict[tuple[str, str], int]
) -> None:
    asked = [cell.request for cell in plan_sweep(BENCHMARKS / f"{name}.toml", tmp_path)]
    assert {(request.model, request.preset): request.budget for request in asked} == budgets
    assert sorted(request.seed for request in asked) == sorted([0, 1, 2] * len(budgets))


@pytest.mark.parametrize(("text", "line"), [
    ('models = ["text-dcgn"]', "did you mean 'text-dcgan'?"),
    ('model = 3', "expected a table"),
    ('models = [3]', "expected a list of names"),
    ('models = []', "expected a list of names"),
    ('models = ["text-dcgan"]\nseeds = ["0"]', "expected a list of whole numbers"),
    ('models = ["text-dcgan"]\nsede = [0]', "did you mean 'seeds'?"),
    ('models = ["text-dcgan"]\npresets = ["tiney"]', "did you mean 'tiny'?"),
    ('models = ["text-dcgan"]\n[model.text-dcgan.set]\nbatchsize = 1', "did you mean 'batch_size'?"),
    ('models = ["text-dcgan"]\n[model.attngan.set]\nx = 1', "unknown model under [model]"),
    ('models = ["text-dcgan"]\n[evaluation]\nimagse = 1', "did you mean 'images'?"),
    ('models = ["text-dcgan"]\n[set]\nimage_sze = 1', "did you mean 'image_size'?"),
    ('models = ["text-dcgan"]\n[model.text-dcgan]\nbudgte = 1', "[model.text-dcgan] unknown field 'budgte'"),
    ('models = ["text-dcgan"]\n[model.text-dcgan]\npresets = "tiny"', "presets = 'tiny': expected a list"),
    ('models = ["text-dcgan"]\n[model.text-dcgan]\npresets = []', "[model.text-dcgan] presets = []: expected a list"),
    ('models = ["text-dcgan"]\n[model.text-dcgan]\nbudget = "much"', "[model.text-dcgan] budget 'much'"),
    ('models = ["text-dcgan"]\n[model.text-dcgan]\nseeds = [0]', "[model.text-dcgan] seeds: holds for all models"),
    ('models = ["text-dcgan"]\n[model.text-dcgan]', "[model.text-dcgan]: expected a table with presets, budget, set"),
    ('models = ["text-dcgan"]\n[model]\ntext-dcgan = 3', "[model.text-dcgan]: expected a table"),
    ('models = ["text-dcgan"]\npresets = []\n[model.text-dcgan]\npresets = ["tiny"]', "presets = []: expected a list"),
    ('models = ["text-dcgan"]\nset = 3', "expected a table"),
    ('models = ["text-dcgan"]\nroot = 3', "expected text"),
    ('models = ["text-dcgan"]\nbudget = []', "expected a number or text"),
    ('models = ', "not valid TOML"),
])  # fmt: skip
def test_a_wrong_sweep_is_said_before_anything_runs(tmp_path: Path, text: str, line: str) -> None:
    path = write(tmp_path / "s.toml", text)
    with pytest.raises(UserError) as caught:
        plan_sweep(path, tmp_path)
    assert line in str(caught.value) and str(path) in str(caught.value)


def test_unknown_names_suggest_the_nearest() -> None:
    for find, name, near in ((find_model, "text-dcgann", "text-dcgan"), (find_dataset, "scense", "scenes"),
                             (find_judge, "inceptoin", "inception")):  # fmt: skip
        with pytest.raises(UserError, match=f"did you mean '{near}'"):
            find(name)
    with pytest.raises(UserError, match="did you mean 'paper'"):
        find_preset(find_model("text-dcgan"), "papper")


def test_a_model_from_a_file(tmp_path: Path) -> None:
    methods = "".join(f"    def {name}(self): pass\n" for name in ("networks", "stages", "sample"))
    path = write(tmp_path / "mine.py", f"class Mine:\n{methods}PRESETS = {{'tiny': 1}}\n")
    found = find_model(f"{path}:Mine")
    assert (found.name, found.presets) == ("Mine", {"tiny": 1}) and found.make().__class__.__name__ == "Mine"
    assert absolute_name("text-dcgan") == "text-dcgan" and absolute_name("m:A") == "m:A"
    assert absolute_name("mine.py:Mine") == f"{Path.cwd()}/mine.py:Mine"
    write(path, f"class Mine:\n{methods}PRESETS = {{'tiny': 2}}\n")
    assert find_model(f"{path}:Mine").code != found.code != "" == find_model("text-dcgan").code
    for target, line in ((f"{path}:Yours", "has no attribute 'Yours'"), ("no_such:Model", "no module named"),
                         (f"{tmp_path}/none.py:Model", "no such file")):  # fmt: skip
        with pytest.raises(UserError, match=line):
            find_model(target)
    half = write(tmp_path / "half.py", "class Half: pass\nPRESETS = {'tiny': 1}\n")
    broken = write(tmp_path / "broken.py", "class Broken\n")
    parent = write(tmp_path / "parent.py", "from .interface import Stage\n")
    for target, line in ((f"{half}:Half", r"has no method networks\(\)"), (f"{broken}:X", "SyntaxError"),
                         (f"{parent}:X", "ImportError"), (f"{half}", "half.py:ATTRIBUTE")):  # fmt: skip
        with pytest.raises(UserError, match=line):
            find_model(target)
    bare = write(tmp_path / "bare.py", "class Bare: pass\n")
    with pytest.raises(UserError, match="has no PRESETS"):
        find_model(f"{bare}:Bare")


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
tensors = st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(lambda row: torch.tensor(row))
states = st.dictionaries(
    st.text(max_size=5) | st.integers(), st.recursive(scalars | tensors, lambda s: st.lists(s, max_size=3)), max_size=4
)  # fmt: skip


@given(states)
@settings(deadline=None, max_examples=50)
def test_a_state_comes_back_as_it_went(tmp_path_factory: pytest.TempPathFactory, state: dict[object, object]) -> None:
    path = tmp_path_factory.mktemp("state") / "s"
    save_state(path, state)  # type: ignore[arg-type]
    assert same(load_state(path), state)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def test_an_optimiser_comes_back(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    optimiser = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    save_state(tmp_path / "o", {"optimiser": optimiser.state_dict()})
    again = torch.optim.Adam(layer.parameters())
    again.load_state_dict(load_state(tmp_path / "o")["optimiser"])
    assert torch.equal(again.state_dict()["state"][0]["exp_avg"], optimiser.state_dict()["state"][0]["exp_avg"])


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    save_weights(path, {"net": nn.Linear(2, 3)})
    other = nn.Linear(2, 3)
    load_weights(path, {"net": other})
    with pytest.raises(UserError, match="not the weights of this model"):
        load_weights(path, {"net": nn.Linear(3, 3)})
    path.write_bytes(path.read_bytes()[:40])
    for load in (lambda: load_weights(path, {"net": other}), lambda: load_state(path)):
        with pytest.raises(UserError, match=str(path)):
            load()
    with pytest.raises(TypeError, match="a state holds"):
        save_state(path, {"x": object()})


def test_settings_that_are_valid_only_together_are_put_in_together() -> None:
    preset = find_preset(find_model("attngan"), "tiny")
    for order in (1, -1):
        settings = dict([("text_encoder.kind", "clip"), ("damsm_weight", "0")][::order])
        assert resolve_config(preset, settings).text_encoder.kind == "clip"
