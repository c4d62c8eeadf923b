"""Long work shows its progress: a bar on a terminal, a line a minute in a log."""

import io
import time

from fvv_lib import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(steps, hidden=False):
    with progress.progress(total=steps, desc="asking", unit=" questions", hidden=hidden) as bar:
        for _ in range(steps):
            time.sleep(0.01)
            bar.update()


def test_a_log_gets_lines_with_counts_and_rate(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0.05)
    run(20)
    lines = capsys.readouterr().err.rstrip().splitlines()
    assert 2 <= len(lines) <= 6
    for line in lines:
        assert line.startswith("asking: ")
        assert " of 20, " in line
        assert " questions/s, " in line
        assert "\r" not in line


def test_short_work_and_hidden_work_leave_nothing_in_a_log(monkeypatch, capsys):
    run(5)
    monkeypatch.setattr(progress, "SECONDS", 0.02)
    run(5, hidden=True)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    run(3)
    assert "\rasking: 100%" in terminal.getvalue()
