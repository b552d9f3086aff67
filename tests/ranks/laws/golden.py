"""Fifty steps of every method, whose ends stand in golden/trajectories.json (see write_golden.py)."""

import json
from pathlib import Path

from descent import Descent, assert_path, methods
from harness import case_without_groups

FILE = Path(__file__).resolve().parents[1] / "golden" / "trajectories.json"

STEPS = 50
#: Elements that are kept: the first and the last of the weight, and one of the bias.
KEPT = (0, 14, 16)


def ends(ranks):
    """By method: kept elements of world rank 0's parameters and of what is evaluated."""
    found = {}
    for description, (name, make, options) in methods(ranks).items():
        worker = Descent(ranks, name, make, equal_start=True, **options)
        worker.run(STEPS)
        kept = [[float(each[place]) for place in KEPT] for each in (worker.values, worker.evaluated())]
        found[description] = ranks.gather(kept)[0]
    return found


@case_without_groups
def fifty_steps_end_where_they_ended_when_they_were_written_down(ranks):
    golden = json.loads(FILE.read_text(encoding="utf-8"))[str(ranks.size)]
    found = ends(ranks)
    assert set(found) == set(golden)
    for description, end in found.items():
        assert_path(end, golden[description])
