import contextlib
import io
import logging

import pytest
import torch

from lsgd_mpi import progress
from lsgd_mpi.comm import Traffic
from lsgd_mpi.meter import Meter, Reading
from lsgd_mpi.progress import ConsoleHandler, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


class TestMeter:
    def test_is_the_mean_over_batches_for_the_loss_and_over_images_for_the_error(self):
        meter = Meter()
        right, wrong = [0.0, 1.0], [1.0, 0.0]
        meter.add(torch.tensor(2.0, requires_grad=True), torch.tensor([right, wrong]), torch.tensor([1, 1]))
        meter.add(torch.tensor(5.0), torch.tensor([right]), torch.tensor([1]))
        assert (meter.steps, meter.images) == (2, 3)
        assert meter.loss == 3.5
        reading = Reading(meter)
        meter.add(torch.tensor(9.0), torch.tensor([right]), torch.tensor([0]))
        assert reading.is_here
        assert (reading.loss, reading.error_pct) == (3.5, pytest.approx(100 / 3))

    def test_remembers_no_graph(self):
        weight = torch.ones(1, requires_grad=True)
        meter = Meter()
        meter.add((weight * 2).sum(), torch.zeros(1, 2), torch.tensor([0]))
        assert not meter._loss.requires_grad

    def test_computing_is_what_is_left_of_an_iteration(self):
        meter = Meter()
        meter.add_times(0.25, 1.0, Traffic(0, 0, 10.0, 20.0), Traffic(0, 0, 10.125, 20.5))
        meter.add_times(0.25, 1.0, Traffic(0, 0, 10.125, 20.5), Traffic(0, 0, 10.125, 20.5))
        assert (meter.data_s, meter.comm_s, meter.wait_s, meter.compute_s) == (0.5, 0.125, 0.5, 1.375)

    def test_a_loss_that_is_not_finite_stays_so(self):
        meter = Meter()
        for loss in (1.0, float("nan"), 1.0):
            meter.add(torch.tensor(loss), torch.zeros(1, 2), torch.tensor([0]))
        assert meter.loss != meter.loss


class TestLines:
    def test_one_every_ten_seconds_with_rate_and_loss(self, capsys, clock):
        shown = Progress(40, shown=True)
        due = []
        for step in range(1, 31):
            clock[0] += 0.5
            due.append(shown.reached(step))
            if due[-1]:
                shown.show(0.25)
        shown.close()
        assert due == [step in (20,) for step in range(1, 31)]
        captured = capsys.readouterr()
        assert captured.out == "step 20 of 40, 2.0 steps/s, loss 0.2500\n"
        assert captured.err == ""

    def test_an_open_end_has_no_total(self, capsys, clock):
        shown = Progress(float("inf"), shown=True)
        clock[0] += 10
        assert shown.reached(1)
        shown.show(1.5)
        assert capsys.readouterr().out == "step 1, 0.1 steps/s, loss 1.5000\n"

    def test_other_ranks_are_silent(self, capsys, clock):
        hidden = Progress(40, shown=False)
        clock[0] += 100
        assert not hidden.reached(1)
        hidden.close()
        assert capsys.readouterr() == ("", "")


class TestBar:
    def test_counts_steps_and_shows_the_loss(self):
        terminal = Terminal()
        with contextlib.redirect_stderr(terminal):
            shown = Progress(3, shown=True)
            for step in (1, 1, 3):
                shown.reached(step)
                shown.show(0.125)
            shown.close()
        assert "3/3" in terminal.getvalue()
        assert "loss=0.1250" in terminal.getvalue()

    def test_other_ranks_have_none(self):
        terminal = Terminal()
        with contextlib.redirect_stderr(terminal):
            hidden = Progress(3, shown=False)
            hidden.reached(1)
            hidden.close()
        assert terminal.getvalue() == ""


def test_warnings_go_to_stderr_and_the_rest_to_stdout(capsys):
    handler = ConsoleHandler(logging.INFO)
    for level, text in ((logging.INFO, "as planned"), (logging.WARNING, "look out")):
        handler.handle(logging.LogRecord("lsgd_mpi", level, "", 0, text, (), None))
    assert capsys.readouterr() == ("as planned\n", "warning: look out\n")
