"""The command line as a user meets it: every verb once, and every mistake in one line with exit code 2."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from t2ibench.dalle.model import TINY as DALLE_TINY
from t2ibench.files import read_json, write_json
from t2ibench.suite.describe import describe, scaled
from t2ibench.suite.spec import resolve_config

TINY = ["--set", "generator_width=8", "--set", "discriminator_width=8",
        "--set", "text_encoder.char_cnn_rnn.channels=[8,8,8]", "--set", "text_encoder.char_cnn_rnn.recurrent_width=16",
        "--set", "text_encoder.char_cnn_rnn.image_width=8"]  # fmt: skip

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return an imagefolder of 240 coloured squares whose captions say their colour and shade."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng, lines = np.random.default_rng(0), []
    for number in range(240):
        shade, channel = int(rng.integers(100, 255)), number % 3
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[8:24, 8:24, channel] = shade
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        text = f"a {('red', 'green', 'blue')[channel]} square of shade {shade} number {number}"
        lines.append(json.dumps({"file_name": f"{number:03d}.png", "text": [text, text.upper()]}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder


def first_run(call: Call, runs: Path) -> dict[str, Any]:
    code, out, _ = call("run", "text-dcgan", "--budget", "640", "--samples", "200", "--judges", "scenes", "--no-probes",
                         "--runs", runs, "--json", *TINY)  # fmt: skip
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_sweep_says_that_runs_collapsed(call: Call, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(
        'models = ["text-dcgan"]\nseeds = [0, 1]\nbudget = 0\n[evaluation]\njudges = ["scenes"]\n'
        "images = 40\ntrain_images = 200\nprobes = false\n"
        "[set]\ngenerator_width = 8\ndiscriminator_width = 8\n"
    )
    code, out, err = call("sweep", "run", tmp_path / "sweep.toml", "--runs", tmp_path / "runs")
    assert code == 0, err
    said = [line.split(": ", 1)[1] for line in err.splitlines() if line.startswith("note: ")]
    assert sum(note.startswith("judge scenes") for note in said) == 1, "a note of all runs is said once"
    assert any(note.startswith("mode collapse") for note in said)
    for folder in out.split():
        record = json.loads((Path(folder) / "record.json").read_text())
        assert record["scores"]["diversity@scenes"]["value"] < 0.1
        assert any(note.startswith("mode collapse") for note in record["notes"])


def test_run_score_sample_and_report(call: Call, tmp_path: Path) -> None:
    found = first_run(call, tmp_path / "runs")
    folder = Path(found["run"])
    assert set(found["scores"]) == {f"{name}@scenes" for name in (
        "fid", "kid", "is", "precision", "recall", "density", "coverage", "cmmd", "clip_score", "r_precision",
        "diversity", "copied")}  # fmt: skip
    assert set(found["controls"]) == {"real", "shuffled", "untrained"}
    fid = "fid@scenes"
    assert found["controls"]["real"][fid]["value"] < found["scores"][fid]["value"] / 5
    assert found["scores"]["fid@scenes"]["higher_is_better"] is False and found["scores"]["fid@scenes"]["n"] == 200
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert first_run(call, tmp_path / "runs") == found, "the same command again has nothing to do"
    assert before == {path: path.stat().st_mtime_ns for path in before}

    code, out, _ = call("score", folder, "--samples", "200", "--judges", "scenes", "--no-probes", "--json")
    assert (code, json.loads(out)) == (0, found)

    kept = safetensors.torch.load_file(folder / "weights.safetensors")
    darker = {name: tensor * 0.9 if tensor.is_floating_point() else tensor for name, tensor in kept.items()}
    safetensors.torch.save_file(darker, folder / "weights.safetensors")
    code, out, _ = call("score", folder, "--samples", "200", "--judges", "scenes", "--no-probes", "--json")
    assert code == 0 and json.loads(out)["scores"][fid] != found["scores"][fid], "other weights have other scores"
    safetensors.torch.save_file(kept, folder / "weights.safetensors")

    code, out, _ = call("sample", folder, "a red circle", "a blue star", "--n", "3", "--out", tmp_path / "s", "--json")
    assert code == 0 and json.loads(out)["images"] == 6
    rows = [json.loads(line) for line in (tmp_path / "s" / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["a red circle"] * 3 + ["a blue star"] * 3
    assert Image.open(tmp_path / "s" / rows[5]["file_name"]).size == (32, 32)
    own = tmp_path / "s" / "mine.png"
    own.write_bytes((tmp_path / "s" / "0005.png").read_bytes())
    assert call("sample", folder, "a ring", "--n", "2", "--out", tmp_path / "s")[0] == 0
    left = {file.name for file in (tmp_path / "s").iterdir()}
    assert left == {"0000.png", "0001.png", "grid.png", "mine.png", "metadata.jsonl"}
    (tmp_path / "s" / "metadata.jsonl").write_text('{"file_name": "0001.png", "text": "of mine"}\n')
    assert call("sample", folder, "a ring", "--n", "1", "--out", tmp_path / "s")[0] == 0
    assert (tmp_path / "s" / "0001.png").exists(), "another's metadata, another's images"

    moved = folder.rename(tmp_path / "moved")
    assert call("sample", moved, "a ring", "--n", "1", "--out", tmp_path / "m")[0] == 0
    assert (tmp_path / "m" / "0000.png").read_bytes() == (tmp_path / "s" / "0000.png").read_bytes()
    document = json.loads((moved / "run.json").read_text())
    (moved / "run.json").write_text(json.dumps(document | {"spec": document["spec"] | {"data": {"train": "other"}}}))
    code, _, err = call("sample", moved, "a ring", "--out", tmp_path / "m")
    assert code == 2 and f"made of another state of the data than is here now; a new run is {folder.name}" in err
    (moved / "run.json").write_text(json.dumps(document | {"spec": ["seed"]}))
    code, _, err = call("sample", moved, "a ring", "--out", tmp_path / "m")
    assert code == 2 and "run.json: not written by this version" in err
    (moved / "run.json").write_text(json.dumps(document))
    (moved / "weights.safetensors").rename(tmp_path / "weights")
    code, _, err = call("sample", moved, "a ring", "--out", tmp_path / "m")
    assert code == 2 and "weights.safetensors: is missing; remove the folder and train anew" in err
    (tmp_path / "weights").rename(moved / "weights.safetensors")
    moved.rename(folder)

    (folder / "training.json").rename(tmp_path / "training.json")
    code, out, _ = call("score", folder, "--samples", "200", "--judges", "scenes", "--no-probes", "--json")
    assert code == 2 and "not trained to the end; begin it again by the same command" in json.loads(out)["error"]
    code, out, _ = call("score", folder, "--judges", "nobody", "--json")
    assert code == 2 and "not trained to the end" in json.loads(out)["error"], "said before the judges are opened"
    (tmp_path / "training.json").rename(folder / "training.json")

    code, out, _ = call("report", "--runs", tmp_path / "runs", "--out", tmp_path / "report", "--json")
    assert code == 0 and "| FID@scenes ↓ |" in Path(json.loads(out)["markdown"]).read_text()
    assert "@scenes" in Path(json.loads(out)["page"]).read_text()


def test_a_folder_of_images_is_scored(call: Call, pictures: Path, tmp_path: Path) -> None:
    code, out, err = call("score", "--images", pictures, "--data", "scenes", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["run"] is None and found["scores"]["fid@scenes"]["n"] == 240


def test_data_prepare_and_check(call: Call, pictures: Path) -> None:
    code, out, _ = call("data", "prepare", "imagefolder", "--root", pictures, "--size", "32", "--json")
    prepared = json.loads(out)
    assert code == 0 and sum(split["images"] for split in prepared.values()) == 240
    code, out, _ = call("data", "check", "imagefolder", "--root", pictures, "--size", "32", "--json")
    report = json.loads(out)
    assert set(report["splits"]) == set(prepared)
    assert code == (1 if report["leaks"] else 0)


def test_list_and_describe_keep_their_json(call: Call) -> None:
    code, out, _ = call("list", "--json")
    listed = json.loads(out)
    assert code == 0 and set(listed) == {"models", "datasets", "judges", "metrics"}
    assert {"name", "paper", "presets"} == set(listed["models"][0])
    code, out, _ = call("describe", "text-dcgan", "--preset", "paper", "--json")
    described = json.loads(out)
    assert set(described) == {"model", "preset", "stages", "parameters", "flops_per_image", "config"}
    assert described["config"]["image_size"] == 64 and described["config"]["track"]["penalty_every"] == 1
    assert described["stages"] == ["text_encoder", "gan"] and described["flops_per_image"] > 1e9
    code, out, _ = call("doctor", "--json")
    usable = {finding["what"]: finding["usable"] for finding in json.loads(out)["findings"]}
    assert code == 0 and usable["judge scenes"] and not usable["judge inception"]


def test_describe_names_every_setting_as_set_takes_it() -> None:
    described = describe("dalle", "paper", {})
    settings = dict(line.lstrip().split(" = ") for line in described.lines() if " = " in line)
    assert settings["tokenizer.dvae.codec.blocks"] == "2" and settings["prior.adam_betas"] == "(0.9, 0.96)"
    other = resolve_config(DALLE_TINY, {name: text for name, text in settings.items() if text.isdecimal()})
    assert other.transformer.layers == 64 and other.clip.image_width == 768
    assert "  drawing one image: 33.0 TFLOPs" in described.lines()


@pytest.mark.parametrize(("count", "text"), [(0, "0.0 "), (999, "999.0 "), (1000, "1.0 k"), (29_200_000, "29.2 M"),
                                             (4 * 10**19, "40000.0 P")])  # fmt: skip
def test_counts_are_scaled(count: int, text: str) -> None:
    assert scaled(count) == text


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the flags of the processor stand nowhere else")
def test_doctor_finds_bfloat16_where_the_processor_or_the_gpu_has_it(call: Call) -> None:
    _, out, _ = call("doctor", "--json")
    usable = {finding["what"]: finding["usable"] for finding in json.loads(out)["findings"]}
    assert usable["bfloat16"] == ("bf16" in Path("/proc/cpuinfo").read_text() or torch.cuda.is_available())


MISTAKES = [
    (["describe", "text-dcgam"], "unknown model 'text-dcgam': did you mean 'text-dcgan'?"),
    (["describe", "text-dcgan", "--preset", "tiney"], "did you mean 'tiny'?"),
    (["describe", "text-dcgan", "--set", "batchsize=3"], "did you mean 'batch_size'?"),
    (["run", "text-dcgan", "--data", "sceens"], "unknown data set 'sceens': did you mean 'scenes'?"),
    (["run", "text-dcgan", "--budget", "lots"], "budget 'lots': expected a number of training images"),
    (["run", "text-dcgan", "--root", "x"], "--root"),
    (["run", "text-dcgan", "--data", "imagefolder"], "--root"),
    (["run", "text-dcgan", "--judges", "scnes"], "unknown judge 'scnes': did you mean 'scenes'?"),
    (["run", "text-dcgan", "--judges", "inception"], "pt_inception-2015-12-05"),
    (["train", "text-dcgan", "--device", "cuda:99"], "--device cuda:99: not usable here"),
    (["train", "text-dcgan", "--device", "tpu"], "--device tpu: expected cpu or cuda"),
    (["train", "text-dcgan", "--set", "image_size=48"], "image_size=48: expected a power of two"),
    (["train", "text-dcgan", "--set", "batch_size=1"], "expected 2 pairs or more"),
    (["run", "text-dcgan", "--split", "tset"], "scenes has no split 'tset'"),
    (["describe", ":x"], "expected module:attribute"),
    (["score", "nowhere", "--data", "scenes"], "and --size go with --images"),
    (["score", "--images", "nowhere"], "give --data NAME"),
    (["train", "text-dcgan", "--precision", "float8"], "unknown precision 'float8'"),
    (["score"], "give either the folder of a run, or --images"),
    (["score", "nowhere"], "nowhere: not the folder of a run"),
    (["score", "--images", "nowhere", "--data", "scenes"], "nowhere"),
    (["report", "--runs", "nowhere"], "no finished runs there"),
    (["sample", "nowhere", "a star"], "not the folder of a run"),
    (["sweep", "run", "nowhere.toml"], "nowhere.toml: no such sweep file"),
    (["list", "modles"], "did you mean 'models'?"),
    (["data", "check", "emojis"], "did you mean 'emoji'?"),
    (["describe"], "Missing argument"),
    (["run", "text-dcgan", "--samples", "many"], "valid int"),
    (["fly"], "No such command 'fly'"),
]


@pytest.mark.parametrize(("arguments", "line"), MISTAKES)
def test_mistakes_are_one_line_and_exit_2(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    said = [text for text in err.splitlines() if text.startswith("error: ")]
    assert code == 2 and out == "" and len(said) == 1 and line in said[0]
    code, out, _ = call(*arguments, "--json")
    assert code == 2 and line in json.loads(out)["error"]


def test_a_record_of_another_version_is_said(call: Call, tmp_path: Path) -> None:
    folder = Path(first_run(call, tmp_path)["run"])
    write_json(folder / "record.json", read_json(folder / "record.json") | {"schema": 99})
    code, _, err = call("report", folder)
    assert code == 2 and "record.json: written with record schema 99" in err
    assert "`t2ibench score` writes it anew" in err
    code, _, err = call("score", folder, "--samples", "200", "--judges", "scenes", "--no-probes")
    assert code == 0 and read_json(folder / "record.json")["schema"] == 2, err
    write_json(folder / "run.json", {"spec": {}})
    code, _, err = call("sample", folder, "a star")
    assert code == 2 and "run.json: not written by this version" in err


def test_a_run_that_another_process_holds_is_said(call: Call, tmp_path: Path) -> None:
    from t2ibench.suite.trained import locked

    folder = Path(first_run(call, tmp_path)["run"])
    (folder / "training.json").unlink()
    with locked(folder):
        code, _, err = call("run", "text-dcgan", "--budget", "640", "--runs", tmp_path, *TINY)
    assert code == 2 and "another process is working on this run" in err


def test_help_and_list_do_not_import_torch() -> None:
    for arguments in (["--help"], ["list"], ["list", "--json"], ["run", "--help"]):
        program = f"import sys; sys.argv = ['t2ibench', *{arguments}]; from t2ibench.cli import main\n" \
                  "try: main()\nexcept SystemExit: pass\n" \
                  "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'PIL', 'torchmetrics'} & set(sys.modules)\n" \
                  "sys.exit(f'imported {heavy}' if heavy else 0)"  # fmt: skip
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
        assert done.returncode == 0, done.stderr


def test_an_interrupt_ends_in_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("t2ibench.suite.doctor.doctor", interrupted)
    code, out, err = call("doctor")
    assert (code, out, err) == (130, "", "interrupted; the same command goes on where it was cut off\n")
