import sys

import pytest
from launching import ROOT

# For runs.py, which reads what a training leaves.
sys.path.insert(0, str(ROOT / "tests" / "cli"))


@pytest.fixture(scope="session")
def slurm():
    """A `cluster.Cluster` that runs; where there is no SLURM and none can be had, the tests are skipped."""
    import cluster
    import debian_slurm

    programs = debian_slurm.find()
    if programs is None:
        pytest.skip(debian_slurm.MISSING)
    started = cluster.Cluster(programs)
    try:
        started.start()
        yield started
    finally:
        started.stop()
    left = started.processes()
    assert not left, left
