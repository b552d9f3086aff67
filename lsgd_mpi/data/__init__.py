"""Data sets in memory, and each rank's batches of them."""

from __future__ import annotations

from lsgd_mpi.data.datasets import DATASETS, WITHOUT_FILES, load, prepare
from lsgd_mpi.data.generated import Synthetic
from lsgd_mpi.data.images import Dataset, Images
from lsgd_mpi.data.loader import BatchLoader, recalibration_batches, test_batches
from lsgd_mpi.data.processing import Processing, processing_for

__all__ = [
    "DATASETS",
    "WITHOUT_FILES",
    "BatchLoader",
    "Dataset",
    "Images",
    "Processing",
    "Synthetic",
    "load",
    "prepare",
    "processing_for",
    "recalibration_batches",
    "test_batches",
]
