"""How often Horovod's threads look for work: seldom only where that costs the training and delays little."""

import pytest

from lsgd_mpi.cycle import OFTEN_MS, RARELY_MS, cycle_time_ms


@pytest.mark.parametrize(
    ("nodes", "one_sided", "on_gpus", "expected_ms"),
    [
        (1, False, False, OFTEN_MS),
        (2, False, False, RARELY_MS),
        (2, True, False, OFTEN_MS),
        (2, False, True, OFTEN_MS),
    ],
)
def test_seldom_between_nodes_that_compute_on_cpus_and_keep_step(nodes, one_sided, on_gpus, expected_ms):
    assert cycle_time_ms(nodes, one_sided=one_sided, on_gpus=on_gpus) == expected_ms
