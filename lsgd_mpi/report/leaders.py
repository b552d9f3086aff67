"""Who led when: reading ``leaders.csv`` and counting in it.

The statistics follow from ``leader_world_rank`` alone; the recorded ``switched`` and
``previous_leader_world_rank`` are only checked against the leader of their own row, where they can differ
through a defect and nothing else. From row to row they may rightly differ: a run that was resumed may not
know the leader from before, and a part of a file begins in the middle. Counting one column keeps the
numbers consistent: a scope always has one reign more than it has switches.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lsgd_mpi.errors import RunDirectoryError
from lsgd_mpi.records.columns import ENVIRONMENT_FILE, LEADERS_COLUMNS, LEADERS_FILE

Groups = tuple[tuple[int, ...], ...]
"""The world ranks of each group."""


@dataclass(frozen=True)
class LeaderRow:
    """One line of ``leaders.csv``: the election of one group, or of all workers, in one round."""

    round: int
    scope: str
    """``local`` or ``global``."""
    group: int | None
    """The group's index; ``None`` in a global round."""
    step: int
    """Rank 0's own iterations."""
    total_steps: int
    """Iterations of all workers together."""
    elapsed_s: float
    leader_world_rank: int
    leader_loss: float
    previous_leader_world_rank: int | None
    switched: bool


@dataclass(frozen=True)
class Reign:
    """Consecutive rounds of one scope and group under the same leader."""

    leader_world_rank: int
    first_round: int
    last_round: int
    rounds: int
    """Rounds of this scope and group in the reign, however the file numbers them."""


@dataclass(frozen=True)
class RankShare:
    """How often one rank led."""

    world_rank: int
    rounds_led: int
    share_pct: float
    """Of this scope's and group's rounds, in percent."""


@dataclass(frozen=True)
class ScopeStatistics:
    """The leaders of one group's local rounds, or of the global rounds."""

    scope: str
    group: int | None
    rounds: int
    ranks: tuple[RankShare, ...]
    """By world rank; with ranks that never led where the groups are known."""
    switches: int
    """Rounds whose leader is another than the round before had."""
    longest_reign: Reign
    """The first of them, if several are as long."""
    mean_reign_rounds: float
    last_leaders: tuple[int, ...]
    """World ranks of the last rounds' leaders, the newest last."""

    def as_dict(self) -> dict[str, object]:
        """Return the same names and numbers in plain dictionaries, for JSON."""
        return asdict(self)


def read_leaders(run_dir: Path) -> list[LeaderRow]:
    """Read the leaders of a run that is over, was killed, or still goes on.

    A last line without its line break is left out: it is being written.

    Raises:
        RunDirectoryError: ``run_dir`` is not a run directory, or its ``leaders.csv`` has another header or
            a broken line; the message names the line.

    """
    path = run_dir / LEADERS_FILE
    lines = _whole_lines(run_dir, path)
    if not lines:
        return []
    if lines[0] != ",".join(LEADERS_COLUMNS):
        raise RunDirectoryError(
            f"{path} does not begin with the columns of a leader log: {','.join(LEADERS_COLUMNS)}"
        )
    rows = []
    last_round: dict[tuple[str, int | None], int] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            row = _parse(line)
            if row.round <= last_round.get((row.scope, row.group), -1):
                # A round read twice would be counted twice.
                raise ValueError(f"round {row.round} comes after a later one, or for the second time")
        except ValueError as error:
            raise RunDirectoryError(f"{path}, line {number}, is broken: {error}") from error
        last_round[row.scope, row.group] = row.round
        rows.append(row)
    return rows


def read_groups(run_dir: Path) -> Groups | None:
    """Return the groups that ``environment.json`` tells, or ``None`` if it is not there or tells none.

    Raises:
        RunDirectoryError: the file cannot be read, or its groups are not lists of world ranks.

    """
    path = run_dir / ENVIRONMENT_FILE
    try:
        environment = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunDirectoryError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunDirectoryError(f"{path} is not JSON: {error}") from error
    groups = environment.get("groups") if isinstance(environment, dict) else None
    if groups is None:
        return None
    if not (isinstance(groups, list) and all(_are_ranks(group) for group in groups)):
        raise RunDirectoryError(f"groups in {path} are not lists of world ranks")
    return tuple(tuple(group) for group in groups)


def leader_statistics(
    rows: Iterable[LeaderRow], groups: Groups | None = None, last: int = 10
) -> list[ScopeStatistics]:
    """Count leaders, switches and reigns: local rounds by group, then the global ones.

    Args:
        rows: in the order in which they were written.
        groups: the world ranks of each group, so that ranks that never led are listed too.
        last: number of `ScopeStatistics.last_leaders`, at most.

    Returns:
        One value for each scope and group that has rounds.

    Raises:
        ValueError: ``last`` is negative.

    """
    if last < 0:
        raise ValueError(f"last is the number of leaders to list, 0 or more, not {last}")
    scopes: dict[tuple[str, int | None], list[LeaderRow]] = {}
    for row in rows:
        scopes.setdefault((row.scope, row.group), []).append(row)
    order = sorted(scopes, key=lambda scope: (scope[0] == "global", scope[1] or 0))
    return [_scope_statistics(scopes[scope], _members(groups, scope[1]), last) for scope in order]


def reigns(rows: Sequence[LeaderRow]) -> list[Reign]:
    """Return the reigns, oldest first, in the rounds of one scope and group."""
    found = []
    for leader, held in itertools.groupby(rows, key=lambda row: row.leader_world_rank):
        reign = list(held)
        found.append(Reign(leader, reign[0].round, reign[-1].round, len(reign)))
    return found


def _scope_statistics(rows: Sequence[LeaderRow], members: Sequence[int], last: int) -> ScopeStatistics:
    led = Counter(row.leader_world_rank for row in rows)
    found = reigns(rows)
    return ScopeStatistics(
        scope=rows[0].scope,
        group=rows[0].group,
        rounds=len(rows),
        ranks=tuple(
            RankShare(world_rank, led[world_rank], 100 * led[world_rank] / len(rows))
            for world_rank in sorted({*members, *led})
        ),
        switches=len(found) - 1,
        longest_reign=max(found, key=lambda reign: reign.rounds),
        mean_reign_rounds=len(rows) / len(found),
        last_leaders=tuple(row.leader_world_rank for row in rows[max(0, len(rows) - last) :]),
    )


def _members(groups: Groups | None, group: int | None) -> Sequence[int]:
    if groups is None:
        return ()
    if group is None:
        return tuple(itertools.chain.from_iterable(groups))
    return groups[group] if group < len(groups) else ()


def _whole_lines(run_dir: Path, path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if not run_dir.is_dir():
            raise RunDirectoryError(f"there is no run directory {run_dir}") from error
        raise RunDirectoryError(f"{run_dir} is not a run directory: it has no {LEADERS_FILE}") from error
    except OSError as error:
        raise RunDirectoryError(f"cannot read {path}: {error.strerror}") from error
    whole = content[: content.rfind(b"\n") + 1]
    # Bytes that are no UTF-8 make the line they stand in fail, by its number, when it is parsed.
    return whole.decode(errors="replace").split("\n")[:-1]


def _parse(line: str) -> LeaderRow:
    cells = line.split(",")
    if len(cells) != len(LEADERS_COLUMNS):
        raise ValueError(f"it has {len(cells)} cells, not {len(LEADERS_COLUMNS)}")
    named = dict(zip(LEADERS_COLUMNS, cells, strict=True))
    previous = named["previous_leader_world_rank"]
    row = LeaderRow(
        round=_count(named, "round"),
        scope=named["scope"],
        group=_count(named, "group") if named["group"] else None,
        step=_count(named, "step"),
        total_steps=_count(named, "total_steps"),
        elapsed_s=_number(named, "elapsed_s"),
        leader_world_rank=_count(named, "leader_world_rank"),
        leader_loss=_number(named, "leader_loss"),
        previous_leader_world_rank=_count(named, "previous_leader_world_rank") if previous else None,
        switched=named["switched"] == "1",
    )
    _check(row, named["switched"])
    return row


def _check(row: LeaderRow, switched: str) -> None:
    if row.scope not in ("local", "global"):
        raise ValueError(f"scope is local or global, not {row.scope!r}")
    if (row.group is None) != (row.scope == "global"):
        raise ValueError("a local round has a group, a global round has none")
    if switched not in ("0", "1"):
        raise ValueError(f"switched is 0 or 1, not {switched!r}")
    previous = row.previous_leader_world_rank
    if row.switched != (previous is not None and previous != row.leader_world_rank):
        raise ValueError("switched contradicts the leader and the previous leader beside it")


def _count(cells: dict[str, str], column: str) -> int:
    text = cells[column]
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{column} is a whole number, not {text!r}")
    return int(text)


def _number(cells: dict[str, str], column: str) -> float:
    try:
        number = float(cells[column])
    except ValueError:
        raise ValueError(f"{column} is a number, not {cells[column]!r}") from None
    if not math.isfinite(number):
        # Nobody leads with such a loss: the run stops instead.
        raise ValueError(f"{column} is finite, not {cells[column]!r}")
    return number


def _are_ranks(group: object) -> bool:
    return isinstance(group, list) and all(type(rank) is int and rank >= 0 for rank in group)
