"""Write golden/trajectories.json anew: python tests/ranks/write_golden.py, for changes that mean to move it.

It starts itself on one to four ranks, in their last layout of groups, with FILE as argument.
"""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def start():
    """Start the ranks and put together what they wrote."""
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
    import launching
    from harness import LAYOUTS

    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in LAYOUTS:
            part = Path(folder, f"{size}.json")
            finished = launching.run_ranks(size, [__file__, part])
            assert finished.returncode == 0, finished.printed
            golden[str(size)] = json.loads(part.read_text(encoding="utf-8"))
    # One method a line, so that a difference shows which.
    sizes = [
        f'"{size}": {{\n' + ",\n".join(f'"{name}": {json.dumps(end)}' for name, end in found.items()) + "\n}"
        for size, found in golden.items()
    ]
    text = "{\n" + ",\n".join(sizes) + "\n}\n"
    Path(HERE, "golden", "trajectories.json").write_text(text, encoding="utf-8")


def on_ranks(part):
    """On one rank: train by every method."""
    from harness import LAYOUTS, Ranks
    from laws.golden import ends
    from mpi4py import MPI

    import lsgd_mpi
    from lsgd_mpi.groups import parse_groups

    world = MPI.COMM_WORLD.Dup()
    lsgd_mpi.init(parse_groups(LAYOUTS[world.Get_size()][-1]))
    found = ends(Ranks(world, lsgd_mpi.topology().groups))
    if lsgd_mpi.rank() == 0:
        part.write_text(json.dumps(found), encoding="utf-8")
    lsgd_mpi.shutdown()


if __name__ == "__main__":
    on_ranks(Path(sys.argv[1])) if len(sys.argv) > 1 else start()
