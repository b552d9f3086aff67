"""Training from options to a run directory: one loop, in the order in which things happen.

It uses nothing that a user's own script could not.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import torch

from lsgd_mpi import comm, runtime
from lsgd_mpi.algorithms import find_algorithm
from lsgd_mpi.budget import Budget, step_limit
from lsgd_mpi.config import DEFAULT_LR_DECAY, TrainOptions
from lsgd_mpi.data import BatchLoader
from lsgd_mpi.errors import NumericalError, UsageError
from lsgd_mpi.evaluate import Evaluation, evaluate, recalibrated
from lsgd_mpi.leaders import Round
from lsgd_mpi.meter import Meter, Reading
from lsgd_mpi.optimizer import DistributedOptimizer
from lsgd_mpi.progress import Progress
from lsgd_mpi.records import (
    RunRecords,
    claim_run_directory,
    collect_environment,
    default_run_dir,
    write_config,
    write_environment,
)
from lsgd_mpi.task import Task, make_task

_log = logging.getLogger("lsgd_mpi")

_EVALUATION = "evaluation"


def train(options: TrainOptions) -> Path:
    """Train as ``options`` say and return the run directory. Collective; after `lsgd_mpi.init`.

    Everything that can be wrong is found before the run directory is made, on all ranks together. Raises
    the errors of `lsgd_mpi.errors`.
    """
    communicator = runtime.communicator()
    _refuse_useless(options, communicator)
    task = make_task(options, communicator)
    comm.together(lambda: find_algorithm(options.algorithm, options.clock).check_optimizer(task.optimizer))
    run_dir = _open_run_directory(options, communicator, task)
    with comm.together(lambda: RunRecords(run_dir, communicator.world_rank)) as records:
        _introduce(options, communicator, task, run_dir)
        try:
            Trainer(options, communicator, task, records).run()
        except BaseException as error:
            # For the rank's own log; what the user reads is said once, where the job ends.
            _log.error(f"{type(error).__name__}: {error}", extra={"for_file_only": True})
            raise
    return run_dir


class Trainer:
    """One rank's training loop and what it writes down."""

    def __init__(
        self, options: TrainOptions, communicator: comm.Communicator, task: Task, records: RunRecords
    ) -> None:
        self._options = options
        self._communicator = communicator
        self._task = task
        self._records = records
        self.optimizer = DistributedOptimizer(
            task.optimizer, task.model, options.algorithm, clock=options.clock, **vars(options.method)
        )
        self._slowness = dict(options.slow_rank).get(communicator.world_rank, 1.0)
        self._step_of_last_round = 0
        if not self.optimizer.trains:
            # torch looks for a call of step(), which such a rank never makes.
            warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler", category=UserWarning)
        # Without a milestone a scheduler would set nothing, but write the same rates at every step.
        self._schedule = None
        if options.lr_milestones:
            self._schedule = torch.optim.lr_scheduler.MultiStepLR(
                self.optimizer,
                milestones=[round(epoch * len(task.training)) for epoch in options.lr_milestones],
                gamma=options.lr_decay or DEFAULT_LR_DECAY,
            )
        self._written_rounds = 0
        #: Rows of the rank's table whose loss is still on its way from the device.
        self._rows: deque[tuple[Reading, dict[str, float]]] = deque()
        #: That of the last row.
        self._loss: float | None = None

    def run(self) -> None:
        """Train until the budget is spent; evaluate on the way and at the end."""
        options, model, loader = self._options, self._task.model, self._task.training
        clock = self.optimizer.clock
        budget = Budget(
            self._communicator,
            clock,
            step_limit(options.steps, options.epochs, options.minutes, len(loader)),
            None if options.minutes is None else 60.0 * options.minutes,
        )
        clock.meetings.every(_EVALUATION, options.eval_every or len(loader))
        # Initialisation drew the same numbers everywhere; from here on dropout is each rank's own.
        torch.manual_seed(options.seed * self._communicator.world_size + self._communicator.world_rank)
        since_row, since_evaluation = Meter(), Meter()
        progress = Progress(budget.steps, shown=self._communicator.world_rank == 0)
        self._communicator.barrier()
        model.train()
        for batch in self._batches():
            before, start = replace(self._communicator.traffic), time.perf_counter()
            if batch is None:
                self.optimizer.attend()
            else:
                self._iterate(batch, (since_row, since_evaluation))
                self._be_slow(batch.made_in_s, start, before)
                spent_s = time.perf_counter() - start
                since_row.add_times(batch.made_in_s, spent_s, before, self._communicator.traffic)
            over = budget.is_over(self._elapsed_s(), self._communicator.traffic.wait_s)
            if over:
                self.optimizer.finish()
            self._write_rounds(before)
            if batch is not None and clock.step % options.log_every == 0:
                self._begin_row(since_row)
                since_row = Meter()
            self._write_rows(wait=over)
            if progress.reached(clock.position):
                progress.show(self._loss)
            if over or _EVALUATION in clock.due:
                self._evaluate(since_evaluation)
                since_evaluation = Meter()
            if over:
                break
            while self._schedule is not None and self._schedule.last_epoch < clock.position:
                self._schedule.step()
        progress.close()
        budget.close()

    def _batches(self) -> Iterator[_Batch | None]:
        """Batches of epoch after epoch; without end None on a rank that does not train."""
        if not self.optimizer.trains:
            return itertools.repeat(None)
        return _endless(self._task.training)

    def _iterate(self, batch: _Batch, meters: Iterable[Meter]) -> None:
        self.optimizer.zero_grad()
        output = self._task.model(batch.data)
        loss = torch.nn.functional.cross_entropy(output, batch.target)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(loss)
        for meter in meters:
            meter.add(loss, output, batch.target)

    def _be_slow(self, data_s: float, start: float, before: comm.Traffic) -> None:
        """Sleep for as long as the iteration would have taken longer on a rank slowed down on purpose."""
        if self._slowness > 1.0:
            spent_s = data_s + time.perf_counter() - start - self._communicator.traffic.since(before)
            time.sleep((self._slowness - 1.0) * spent_s)

    def _evaluate(self, meter: Meter) -> None:
        communicator, task, step = self._communicator, self._task, self.optimizer.clock.step
        finite = meter.steps > 0 and math.isfinite(meter.loss)
        sums = communicator.sum([meter.loss_sum, meter.steps, finite])
        train_loss = sums[0] / sums[1]
        if sums[2] == 0:
            error = NumericalError(
                f"no rank has a finite mean training loss at step {step}: training diverged; lower --lr"
            )
            error.agreed = True
            raise error
        calibration = task.recalibration_batches(self._options.recalibrate)
        with self.optimizer.evaluated_parameters(), recalibrated(task.model, calibration, communicator):
            result = evaluate(task.model, task.test_batches(), communicator)
        if communicator.world_rank == 0 and not math.isfinite(result.loss):
            _log.warning(
                f"the test loss at step {step} is not finite; {sums[2]:.0f} of "
                f"{self.optimizer.clock.workers} ranks that train have a finite training loss: lower --lr"
            )
        if communicator.world_rank == 0:
            self._write_metrics(train_loss, result)

    def _write_metrics(self, train_loss: float, result: Evaluation) -> None:
        clock = self.optimizer.clock
        epoch = clock.position / len(self._task.training)
        traffic = self._communicator.traffic
        self._records.metrics(
            step=clock.step,
            epoch=epoch,
            total_steps=clock.total_steps,
            elapsed_s=self._elapsed_s(),
            train_loss=train_loss,
            test_loss=result.loss,
            test_error_pct=result.error_pct,
            lr=self.optimizer.param_groups[0]["lr"],
            sent_bytes=traffic.sent_bytes,
            comm_s=traffic.comm_s,
            rounds=traffic.rounds,
            evaluated=self.optimizer.evaluated,
        )
        _log.info(
            f"step {clock.step}, epoch {epoch:.2f}, {self._elapsed_s():.1f} s: "
            f"training loss {train_loss:.4f}, test loss {result.loss:.4f}, "
            f"test error {result.error_pct:.2f} %"
        )

    def _begin_row(self, meter: Meter) -> None:
        times = {name: getattr(meter, name) for name in ("data_s", "compute_s", "comm_s", "wait_s")}
        row = {"step": self.optimizer.clock.step, "elapsed_s": self._elapsed_s(), **times}
        self._rows.append((Reading(meter), row))

    def _write_rows(self, wait: bool) -> None:
        """Those whose loss has come; all, if this may ``wait`` for the device."""
        while self._rows and (wait or self._rows[0][0].is_here):
            reading, row = self._rows.popleft()
            self._loss = reading.loss
            self._records.step(loss=reading.loss, error_pct=reading.error_pct, **row)

    def _write_rounds(self, before: comm.Traffic) -> None:
        clock, traffic = self.optimizer.clock, self._communicator.traffic
        if traffic.rounds > before.rounds:
            self._records.round(
                round=traffic.rounds,
                step=clock.step,
                total_steps=clock.total_steps,
                elapsed_s=self._elapsed_s(),
                iterations=clock.step - self._step_of_last_round,
                comm_s=traffic.comm_s - before.comm_s,
                wait_s=traffic.wait_s - before.wait_s,
                staleness=self.optimizer.staleness,
            )
            self._step_of_last_round = clock.step
        self._write_leaders()

    def _write_leaders(self) -> None:
        if self._communicator.world_rank != 0:
            return
        rounds = self.optimizer.rounds
        for finished in rounds[self._written_rounds :]:
            self._records.leader(**_leader_row(finished))
        self._written_rounds = len(rounds)

    def _elapsed_s(self) -> float:
        return self.optimizer.elapsed_s


class _Batch(NamedTuple):
    data: torch.Tensor
    target: torch.Tensor
    made_in_s: float


def _endless(loader: BatchLoader) -> Iterator[_Batch]:
    """Batches of epoch after epoch, each with the seconds that making it took."""
    for epoch in itertools.count():
        batches = loader.epoch(epoch)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            yield _Batch(*batch, time.perf_counter() - start)


def _leader_row(finished: Round) -> dict[str, int | float | str | bool | None]:
    return {
        "round": finished.number,
        "scope": finished.scope,
        "group": finished.group,
        "step": finished.step,
        "total_steps": finished.total_steps,
        "elapsed_s": finished.elapsed_s,
        "leader_world_rank": finished.leader.world_rank,
        "leader_loss": finished.leader.loss,
        "previous_leader_world_rank": finished.previous_world_rank,
        "switched": finished.switched,
    }


def _refuse_useless(options: TrainOptions, communicator: comm.Communicator) -> None:
    topology = communicator.topology
    method = comm.together(lambda: options.method.resolved(topology))
    sentences = options.method.useless(topology)
    for world_rank, factor in options.slow_rank:
        given = f"--slow-rank {world_rank}={factor:g}"
        if world_rank >= communicator.world_size:
            sentences.append(f"{given}: the world ranks are 0 to {communicator.world_size - 1}")
        elif world_rank not in method.trainers(topology):
            sentences.append(f"{given}: this rank does not train with {options.algorithm}")
    for sentence in sentences:
        error = UsageError(sentence)
        error.agreed = True
        raise error


def _open_run_directory(options: TrainOptions, communicator: comm.Communicator, task: Task) -> Path:
    topology = communicator.topology

    def claim() -> Path:
        path = options.run_dir or _unused_run_dir(options)
        claim_run_directory(path)
        method = options.method.resolved(topology)
        write_config(path, replace(options, run_dir=path, method=method).as_dict())
        environment = collect_environment(
            hosts=topology.hosts,
            groups=topology.groups,
            seed=options.seed,
            mpi_library=str(comm.facts()["mpi_library"]),
            threads=task.threads,
        )
        write_environment(path, {**environment, "device": str(task.device), **comm.facts()})
        return path

    return comm.on_rank_zero(claim)


def _unused_run_dir(options: TrainOptions) -> Path:
    # Names count seconds: of two runs that start within one, the later waits for the next.
    while True:
        path = default_run_dir(options.algorithm, options.model, options.dataset, datetime.now(timezone.utc))
        if not path.exists():
            return path
        time.sleep(0.1)


def _introduce(options: TrainOptions, communicator: comm.Communicator, task: Task, run_dir: Path) -> None:
    parameters = sum(parameter.numel() for parameter in task.model.parameters())
    _log.info(
        f"{options.algorithm}: {communicator.topology.describe()}; {options.model} with {parameters:,} "
        f"parameters on {options.dataset}, {len(task.training)} steps an epoch of {options.batch_size} "
        "images a rank"
    )
    threads = f"{task.threads} thread{'s' if task.threads > 1 else ''} a rank"
    _log.info(f"{task.device}, {threads}; run directory {run_dir}")
