"""Under mpirun: run the cases that FOLDER/todo.json names, each rank writing its results as it goes.

Usage: run_cases.py FOLDER. A case that ends with an exception on one rank while the others wait for it ends
the job, and what is left to do is for the next job: see test_laws.py.
"""

import faulthandler
import json
import sys
import time
import traceback
from pathlib import Path

import laws  # noqa: F401
from harness import CASES, Ranks
from mpi4py import MPI

import lsgd_mpi
from lsgd_mpi.groups import parse_groups

#: A case takes milliseconds. Rather much, for a machine that is busy with something else.
CASE_S = 30
#: How long a rank that failed waits for the others.
AGREE_S = 10


def main(folder):
    world = MPI.COMM_WORLD.Dup()
    todo = json.loads((folder / "todo.json").read_text())
    with (folder / f"rank-{world.Get_rank()}.jsonl").open("a", buffering=1) as results:
        current, groups = None, None
        for layout, name in todo:
            if layout != current:
                lsgd_mpi.shutdown()
                current, groups = layout, parse_groups(layout)
                print(f"groups {layout}", flush=True)
            faulthandler.dump_traceback_later(CASE_S, exit=True)
            results.write(json.dumps({"layout": layout, "case": name, "state": "started"}) + "\n")
            start = time.perf_counter()
            error = attempt(CASES[name], world, groups)
            seconds = round(time.perf_counter() - start, 3)
            record = {"layout": layout, "case": name, "state": "ended", "error": error, "seconds": seconds}
            results.write(json.dumps(record) + "\n")
            if anybody_failed(world, error):
                lsgd_mpi.shutdown()
            faulthandler.cancel_dump_traceback_later()
    lsgd_mpi.shutdown()


def attempt(function, world, groups):
    """What the case has to complain about on this rank, if anything."""
    try:
        lsgd_mpi.init(groups)
        function(Ranks(world, lsgd_mpi.topology().groups))
    except Exception:
        return traceback.format_exc()
    return None


def anybody_failed(world, error):
    """Wait until all ranks have ended the case; end the job if they do not come."""
    failures = bytearray([error is not None])
    request = world.Iallreduce(MPI.IN_PLACE, [failures, MPI.UNSIGNED_CHAR], op=MPI.MAX)
    deadline = time.monotonic() + AGREE_S
    while not request.Test():
        if error is not None and time.monotonic() > deadline:
            MPI.COMM_WORLD.Abort(1)
        time.sleep(0.0002)
    return bool(failures[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
