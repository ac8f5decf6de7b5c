"""Progress is a bar on a terminal, and a line now and then elsewhere; both end and both are escaped."""

import io
import sys
from types import SimpleNamespace

import pytest

from ropewalk.cli import progress as progress_module
from ropewalk.cli.output import say
from ropewalk.cli.progress import answer_line, search_line, show_progress, step_line


def trial(cost=14.0, num_trials=40, num_finalists=0, left=0, best=9.0512):
    return SimpleNamespace(
        best=None if best is None else SimpleNamespace(value=best), num_trials=num_trials, cost=cost,
        budget=27.0, seconds_left=187.0, num_finalists=num_finalists, num_finalists_left=left,
    )  # fmt: skip


def step(number, num_steps=4):
    return SimpleNamespace(step=number, num_steps=num_steps, loss=4.5, seconds=2.0 * number)


def answer(number, num_trials=3):
    return SimpleNamespace(
        answer=SimpleNamespace(length=256), num_answered=number, num_found=1, num_trials=num_trials,
        seconds_left=5.0,
    )  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self):
        return True


def make_terminal(monkeypatch, kind="xterm"):
    """Called by a test itself: between a fixture and its test, stderr changes."""
    stderr = Terminal()
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setattr("sys.stderr", stderr)
    return stderr


@pytest.fixture
def now(monkeypatch):
    """A clock that the test moves."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    return clock


def test_lines_state_values_amounts_and_the_time_left():
    assert all(part in search_line(trial()) for part in ("9.0512", "trial 40", "14.0 of 27", "3:07 min"))
    assert "3 of 9" in search_line(trial(num_finalists=3, left=6))
    assert "9.0512" not in search_line(trial(best=None))
    assert all(part in step_line(step(1)) for part in ("1 of 4", "4.5000", "6.0 s"))
    assert all(part in answer_line(answer(2)) for part in ("256 tokens", "2 of 3", "5.0 s"))


def test_elsewhere_a_line_comes_every_15_seconds_and_the_last_one_at_the_end(capsys, now):
    with show_progress() as progress:
        for number in range(1, 31):
            now.seconds = number
            progress.on_trial(trial(num_trials=number))
        assert len(capsys.readouterr().err.splitlines()) == 2
        progress.on_trial(trial(num_trials=31))
    (last,) = capsys.readouterr().err.splitlines()
    assert "trial 31" in last


def test_nothing_is_printed_twice_or_without_progress(capsys, now):
    with show_progress() as progress:
        now.seconds = 15.0
        progress.on_trial(trial())
    assert len(capsys.readouterr().err.splitlines()) == 1
    with show_progress():
        pass
    assert capsys.readouterr().err == ""


def test_the_last_step_is_printed_and_the_last_answer_is_not(capsys, now):
    with show_progress() as progress:
        for number in range(1, 5):
            progress.on_step(step(number))
        assert "4 of 4" in capsys.readouterr().err
        for number in range(1, 4):
            progress.on_answer(answer(number))
    assert capsys.readouterr().err == ""


def test_a_failure_ends_the_display(capsys, now):
    with pytest.raises(KeyboardInterrupt), show_progress() as progress:
        progress.on_trial(trial())
        raise KeyboardInterrupt
    assert "trial 40" in capsys.readouterr().err


def test_a_terminal_has_a_bar_with_the_lines_of_say_above_it(monkeypatch, capsys):
    terminal = make_terminal(monkeypatch)
    with show_progress() as progress:
        progress.on_trial(trial())
        say("a message")
        print("the result")
        progress.on_step(step(2))
        progress.on_answer(answer(1))
    shown = terminal.getvalue()
    assert all(part in shown for part in ("trial 40", "a message", "2 of 4", "1 of 3", "━"))
    assert "the result" not in shown
    assert capsys.readouterr().out == "the result\n"
    assert sys.stderr is terminal


def test_text_on_a_bar_is_not_markup_and_has_no_control_characters(monkeypatch):
    terminal = make_terminal(monkeypatch)
    monkeypatch.setattr(progress_module, "step_line", lambda _: "[red]\x1b[31m\x07")
    with show_progress() as progress:
        progress.on_step(step(1))
    assert "[red]\\u001b[31m\\u0007" in terminal.getvalue()


def test_a_dumb_terminal_has_lines(monkeypatch):
    terminal = make_terminal(monkeypatch, "dumb")
    with show_progress() as progress:
        progress.on_trial(trial())
    assert terminal.getvalue().count("\n") == 1
    assert "\x1b" not in terminal.getvalue()
