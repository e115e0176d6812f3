"""The lines of progress where there is no terminal: what is left is told of the work at hand."""

import pytest

from t2ibench.suite import progress


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.strip() for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_is_that_of_the_images_done_here(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    bars = progress.Bars()
    bars("train gan", 500, 1000)
    clock[0] += 20
    bars("train gan", 600, 1000, "loss 1")
    assert lines(capsys) == ["train gan: 600 of 1,000 images, 80 s left  loss 1"]


def test_the_same_work_begun_again_has_a_time_of_its_own(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bars = progress.Bars()
    bars("draw", 0, 100)
    clock[0] += 500
    bars("draw", 100, 100)
    bars("draw", 0, 100)
    clock[0] += 20
    bars("draw", 50, 100)
    assert lines(capsys) == ["draw: 100 of 100 images, 0 s left", "draw: 50 of 100 images, 20 s left"]


def test_a_line_comes_every_fifteen_seconds_and_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bars = progress.Bars()
    for done in range(0, 101, 10):
        bars("draw", done, 100)
        clock[0] += 4
    assert [line.split()[1] for line in lines(capsys)] == ["40", "80", "100"]
