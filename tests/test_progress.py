"""The progress display: a bar on a terminal, only notes elsewhere, honest speeds."""

import io

import pytest

from emojax.training.progress import Speed, TrainingProgress, clock_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_file_gets_the_notes_and_nothing_else() -> None:
    log = io.StringIO()
    with TrainingProgress(10, stream=log) as progress:
        for step in range(1, 11):
            progress.update(step, 24, loss=0.5)
        progress.note("step 10: ccc [valence] 0.61")
    assert log.getvalue() == "step 10: ccc [valence] 0.61\n"


def test_a_terminal_sees_speed_time_left_and_scalars() -> None:
    screen, times = Terminal(), iter(range(100))
    with TrainingProgress(
        10, stream=screen, clock=lambda: float(next(times)), start_step=2
    ) as progress:
        for step in range(3, 7):
            progress.update(step, 24, loss=0.5)
        progress.update(7, 24, ccc=0.625)
        progress.note("a line [that] stays")
    text = screen.getvalue()
    assert "7/10" in text
    assert "24 windows/s  0:03 left  loss 0.500  ccc 0.625" in text.replace("\n", " ")
    assert "a line [that] stays" in text


def test_an_exception_stops_the_bar_and_passes() -> None:
    screen = Terminal()
    with pytest.raises(ZeroDivisionError), TrainingProgress(10, stream=screen):
        _ = 1 // 0
    assert "\x1b[?25h" in screen.getvalue()  # The cursor is shown again.


def test_compilation_does_not_count_as_slow_training() -> None:
    speed = Speed()
    assert speed.windows_per_second is None
    assert speed.seconds_left(10) is None
    speed.add(60.0, 1, 12)  # The first step took a minute to compile.
    assert speed.windows_per_second is None
    speed.add(60.5, 2, 12)
    speed.add(61.0, 3, 12)
    assert speed.windows_per_second == pytest.approx(24.0)
    assert speed.seconds_left(10) == pytest.approx(5.0)


def test_the_speed_follows_a_change_and_a_still_clock_is_no_division_by_zero() -> None:
    speed = Speed()
    for step in range(100):
        speed.add(float(step), step, 10)
    for step in range(100, 200):
        speed.add(100.0 + (step - 100) * 0.1, step, 10)
    assert speed.windows_per_second == pytest.approx(100.0)
    still = Speed()
    still.add(1.0, 1, 10)
    still.add(1.0, 2, 10)
    assert still.windows_per_second is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-:--"), (0.4, "0:00"), (61.0, "1:01"), (3599.6, "1:00:00"), (7384.0, "2:03:04")],
)
def test_clock_text(seconds: float | None, text: str) -> None:
    assert clock_text(seconds) == text
