import pytest
from runs import SMALL, drive

IMAGES = ("--dataset", "synthetic", "--limit", 64, "--batch-size", 8, "--model", "resnet20", "--threads", 1)
RESNET20 = (*IMAGES, "--steps", 4, "--local-period", 2, "--recalibrate", 2)


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Several trainings, one after the other, on two ranks: their results and their run directories."""
    folder = tmp_path_factory.mktemp("pair")
    words = {
        "seed 0": (*SMALL, "--epochs", 1),
        "seed 1": (*SMALL, "--epochs", 1, "--seed", 1),
        "allreduce": (*SMALL, "--epochs", 2, "--algorithm", "allreduce", "--lr-milestones", 1.5),
        "minutes": (*SMALL, "--minutes", 0.05),
        "average": (*RESNET20, "--bn", "average"),
        "leader": (*RESNET20, "--bn", "leader"),
        "every-step": (*SMALL, "--epochs", 1, "--pull", "every-step", "--groups", 1),
    }
    cases = {name: ["train", *given, "--run-dir", folder / name] for name, given in words.items()}
    return drive(cases, folder, ranks=2), folder
