"""The laws of the methods, on real ranks: every case of ``laws``, for 1 to 4 ranks in every layout of groups.

Starting ranks costs seconds and a case milliseconds, so that all cases of a size share one job.
"""

import functools
import json
import tempfile
from pathlib import Path

import launching
import laws  # noqa: F401
import pytest
from harness import CASES, LAYOUTS, WITHOUT_GROUPS

HERE = Path(__file__).resolve().parent

#: A job ends when a case does not, and the rest gets another; this many are enough to see what is wrong.
MOST_JOBS = 4

# The first test of a size waits for all of its cases.
pytestmark = pytest.mark.timeout(240)


def ids_of(size):
    return [
        (layout, name)
        for layout in LAYOUTS[size]
        for name in CASES
        if name not in WITHOUT_GROUPS or layout == LAYOUTS[size][-1]
    ]


@functools.cache
def outcomes(size):
    """By (layout, case): None, or what went wrong."""
    found = {}
    for _ in range(MOST_JOBS):
        todo = [each for each in ids_of(size) if each not in found]
        if not todo:
            break
        found |= run_job(size, todo)
    return found


def run_job(size, todo):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "todo.json").write_text(json.dumps(todo))
        try:
            finished = launching.run_ranks(size, [HERE / "run_cases.py", folder], timeout_s=120)
            printed = finished.printed
        except launching.TookTooLongError as error:
            printed = str(error)
        ranks = [read_results(folder / f"rank-{rank}.jsonl") for rank in range(size)]
    found = {}
    for each in todo:
        states = [rank.get(each) for rank in ranks]
        if all(state is not None and state["state"] == "ended" for state in states):
            errors = [
                f"on world rank {rank}:\n{state['error']}"
                for rank, state in enumerate(states)
                if state["error"]
            ]
            found[each] = "\n".join(errors) or None
        else:
            # The job ended in this case: the next one starts behind it.
            errors = [state["error"] for state in states if state and state.get("error")]
            found[each] = "\n".join(["the job ended in this case", *errors, printed])
            break
    return found


def read_results(path):
    if not path.exists():
        return {}
    # A killed rank may leave half a line.
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    records = [json.loads(line) for line in lines]
    return {(record["layout"], record["case"]): record for record in records}


@pytest.mark.parametrize(
    ("size", "layout", "name"),
    [(size, layout, name) for size in LAYOUTS for layout, name in ids_of(size)],
    ids=lambda value: str(value),
)
def test_law(size, layout, name):
    error = outcomes(size).get((layout, name), f"not run: {MOST_JOBS} jobs ended before it")
    if error:
        pytest.fail(error, pytrace=False)
