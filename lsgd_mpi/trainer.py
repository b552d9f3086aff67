"""Training from options to a run directory: one loop, in the order in which things happen.

It uses nothing that a user's own script could not.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from lsgd_mpi import comm, runtime
from lsgd_mpi.budget import Budget, step_limit
from lsgd_mpi.config import TrainOptions
from lsgd_mpi.data import (
    BatchLoader,
    Dataset,
    Processing,
    load,
    prepare,
    processing_for,
    recalibration_batches,
    test_batches,
)
from lsgd_mpi.errors import NumericalError, UsageError
from lsgd_mpi.evaluate import Evaluation, evaluate, recalibrated
from lsgd_mpi.leaders import Round
from lsgd_mpi.models import build
from lsgd_mpi.optimizer import DistributedOptimizer
from lsgd_mpi.placement import choose_device, use_threads
from lsgd_mpi.progress import Progress
from lsgd_mpi.records import (
    RunRecords,
    claim_run_directory,
    collect_environment,
    default_run_dir,
    write_config,
    write_environment,
)

_log = logging.getLogger("lsgd_mpi")
_EVALUATION_BATCH = 500


def train(options: TrainOptions) -> Path:
    """Train as ``options`` say and return the run directory. Collective; after `lsgd_mpi.init`.

    Everything that can be wrong is found before the run directory is made, on all ranks together. Raises
    the errors of `lsgd_mpi.errors`.
    """
    communicator = runtime.communicator()
    _refuse_useless(options, communicator)
    threads = use_threads(options.threads, communicator)
    device = choose_device(options.device, communicator)
    dataset = _load_dataset(options)
    processing = processing_for(dataset, options.model)
    model = _build_model(options, dataset, processing).to(device)
    loader = comm.together(
        lambda: BatchLoader(
            dataset.train,
            processing,
            batch_size=options.batch_size,
            seed=options.seed,
            rank=communicator.world_rank,
            ranks=communicator.world_size,
            device=device,
        )
    )
    run_dir = _open_run_directory(options, communicator, threads, device)
    with RunRecords(run_dir, communicator.world_rank) as records:
        trainer = Trainer(options, communicator, dataset, processing, model, loader, records, device)
        _introduce(options, communicator, model, loader, run_dir, threads, device)
        trainer.run()
    return run_dir


class Trainer:
    """One rank's training loop and what it writes down."""

    def __init__(
        self,
        options: TrainOptions,
        communicator: comm.Communicator,
        dataset: Dataset,
        processing: Processing,
        model: torch.nn.Module,
        loader: BatchLoader,
        records: RunRecords,
        device: torch.device,
    ) -> None:
        self._options = options
        self._communicator = communicator
        self._dataset = dataset
        self._processing = processing
        self._model = model
        self._loader = loader
        self._records = records
        self._device = device
        self.optimizer = DistributedOptimizer(
            torch.optim.SGD(
                model.parameters(),
                lr=options.lr,
                momentum=options.momentum,
                nesterov=options.nesterov,
                weight_decay=options.weight_decay,
            ),
            model,
            options.algorithm,
            **vars(options.method),
        )
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer,
            milestones=[round(epoch * len(loader)) for epoch in options.lr_milestones],
            gamma=options.lr_decay,
        )
        self._written_rounds = 0

    def run(self) -> None:
        """Train until the budget is spent; evaluate on the way and at the end."""
        options, loader = self._options, self._loader
        budget = Budget(
            self._communicator,
            step_limit(options.steps, options.epochs, options.minutes, len(loader)),
            None if options.minutes is None else 60.0 * options.minutes,
        )
        eval_every = options.eval_every or len(loader)
        # Initialisation drew the same numbers everywhere; from here on dropout is each rank's own.
        torch.manual_seed(options.seed * self._communicator.world_size + self._communicator.world_rank)
        since_row, since_evaluation = Meter(), Meter()
        progress = Progress(budget.steps, shown=self._communicator.world_rank == 0)
        self._communicator.barrier()
        self._started = time.perf_counter()
        self._model.train()
        for step, (data, target, data_s) in enumerate(_endless(loader), start=1):
            before = replace(self._communicator.traffic)
            start = time.perf_counter()
            self.optimizer.zero_grad()
            output = self._model(data)
            loss = torch.nn.functional.cross_entropy(output, target)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step(loss)
            self._schedule.step()
            for meter in (since_row, since_evaluation):
                meter.add(loss, output, target)
            since_row.add_times(data_s, time.perf_counter() - start, before, self._communicator.traffic)
            self._write_rounds()
            if step % options.log_every == 0:
                self._write_row(step, since_row)
                since_row = Meter()
            over = budget.is_over(step, self._elapsed_s())
            if progress.step():
                progress.show(since_evaluation.loss)
            if over or step % eval_every == 0:
                self._evaluate(step, since_evaluation)
                since_evaluation = Meter()
            if over:
                break
        progress.close()
        budget.close()
        self.optimizer.finish()
        self._write_rounds()

    def _evaluate(self, step: int, meter: Meter) -> None:
        communicator, options = self._communicator, self._options
        share: dict[str, Any] = {
            "rank": communicator.world_rank,
            "ranks": communicator.world_size,
            "device": self._device,
        }
        lr = self.optimizer.param_groups[0]["lr"]
        sums = communicator.sum([meter.loss * meter.steps, meter.steps, math.isfinite(meter.loss)])
        train_loss = sums[0] / sums[1]
        if sums[2] == 0:
            error = NumericalError(
                f"no rank has a finite mean training loss at step {step}: training diverged; lower --lr"
            )
            error.agreed = True
            raise error
        calibration = itertools.islice(
            recalibration_batches(
                self._dataset.train, self._processing, batch_size=options.batch_size, **share
            ).epoch(0),
            options.recalibrate,
        )
        test = test_batches(self._dataset.test, self._processing, batch_size=_EVALUATION_BATCH, **share)
        with self.optimizer.evaluated_parameters(), recalibrated(self._model, calibration, communicator):
            result = evaluate(self._model, test, communicator)
        if communicator.world_rank == 0:
            self._write_metrics(step, train_loss, result, lr)

    def _write_metrics(self, step: int, train_loss: float, result: Evaluation, lr: float) -> None:
        epoch = step / len(self._loader)
        traffic = self._communicator.traffic
        self._records.metrics(
            step=step,
            epoch=epoch,
            total_steps=step * self._communicator.world_size,
            elapsed_s=self._elapsed_s(),
            train_loss=train_loss,
            test_loss=result.loss,
            test_error_pct=result.error_pct,
            lr=lr,
            sent_bytes=traffic.sent_bytes,
            comm_s=traffic.comm_s,
        )
        _log.info(
            f"step {step}, epoch {epoch:.2f}, {self._elapsed_s():.1f} s: training loss {train_loss:.4f}, "
            f"test loss {result.loss:.4f}, test error {result.error_pct:.2f} %"
        )

    def _write_row(self, step: int, meter: Meter) -> None:
        self._records.step(
            step=step,
            elapsed_s=self._elapsed_s(),
            loss=meter.loss,
            error_pct=meter.error_pct,
            data_s=meter.data_s,
            compute_s=meter.compute_s,
            comm_s=meter.comm_s,
            wait_s=meter.wait_s,
        )

    def _write_rounds(self) -> None:
        if self._communicator.world_rank != 0:
            return
        rounds = self.optimizer.rounds
        for finished in rounds[self._written_rounds :]:
            self._records.leader(**_leader_row(finished))
        self._written_rounds = len(rounds)

    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._started


@dataclass
class Meter:
    """Sums over some iterations of one rank: loss and error of its mini-batches, and where the time went.

    ``compute_s`` is what is left of the time in an iteration after data, transfers and waiting. Losses stay
    on their device until they are read.
    """

    steps: int = 0
    images: int = 0
    data_s: float = 0.0
    compute_s: float = 0.0
    comm_s: float = 0.0
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        self._loss: torch.Tensor | float = 0.0
        self._wrong: torch.Tensor | float = 0.0

    def add(self, loss: torch.Tensor, output: torch.Tensor, target: torch.Tensor) -> None:
        """Count one mini-batch."""
        self._loss = self._loss + loss.detach()
        self._wrong = self._wrong + (output.detach().argmax(dim=1) != target).sum()
        self.steps += 1
        self.images += len(target)

    def add_times(self, data_s: float, step_s: float, before: comm.Traffic, after: comm.Traffic) -> None:
        """Count the seconds of one iteration, of which some passed in communication."""
        comm_s, wait_s = after.comm_s - before.comm_s, after.wait_s - before.wait_s
        self.data_s += data_s
        self.comm_s += comm_s
        self.wait_s += wait_s
        self.compute_s += step_s - comm_s - wait_s

    @property
    def loss(self) -> float:
        """Mean loss of the mini-batches."""
        return float(self._loss) / self.steps

    @property
    def error_pct(self) -> float:
        """Share of wrong answers, in percent."""
        return 100.0 * float(self._wrong) / self.images


def _endless(loader: BatchLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
    """Batches of epoch after epoch, each with the seconds that making it took."""
    for epoch in itertools.count():
        batches = loader.epoch(epoch)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            yield *batch, time.perf_counter() - start


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
    for sentence in options.method.useless(communicator.topology):
        error = UsageError(sentence)
        error.agreed = True
        raise error


def _load_dataset(options: TrainOptions) -> Dataset:
    # One rank downloads, then each reads.
    comm.on_rank_zero(lambda: prepare(options.dataset, options.data_dir, options.download))
    return comm.together(lambda: load(options.dataset, options.data_dir, limit=options.limit))


def _build_model(options: TrainOptions, dataset: Dataset, processing: Processing) -> torch.nn.Module:
    torch.manual_seed(options.seed)
    height, width = processing.size(dataset.train.height, dataset.train.width)
    return comm.together(
        lambda: build(
            options.model,
            channels=dataset.train.channels,
            height=height,
            width=width,
            classes=dataset.classes,
        )
    )


def _open_run_directory(
    options: TrainOptions, communicator: comm.Communicator, threads: int, device: torch.device
) -> Path:
    topology = communicator.topology

    def claim() -> Path:
        now = datetime.now(timezone.utc)
        path = options.run_dir or default_run_dir(options.algorithm, options.model, options.dataset, now)
        claim_run_directory(path)
        method = options.method.resolved(topology)
        write_config(path, replace(options, run_dir=path, method=method).as_dict())
        environment = collect_environment(
            hosts=topology.hosts,
            groups=topology.groups,
            seed=options.seed,
            mpi_library=str(comm.facts()["mpi_library"]),
            threads=threads,
        )
        write_environment(path, {**environment, "device": str(device), **comm.facts()})
        return path

    return comm.on_rank_zero(claim)


def _introduce(
    options: TrainOptions,
    communicator: comm.Communicator,
    model: torch.nn.Module,
    loader: BatchLoader,
    run_dir: Path,
    threads: int,
    device: torch.device,
) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _log.info(
        f"{options.algorithm}: {communicator.topology.describe()}; {options.model} with {parameters:,} "
        f"parameters on {options.dataset}, {len(loader)} steps an epoch of {options.batch_size} images a rank"
    )
    _log.info(f"{device}, {threads} thread{'s' if threads > 1 else ''} a rank; run directory {run_dir}")
