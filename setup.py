"""The package lsgd_mpi; `bin/setup` installs it with everything it needs, Horovod included."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "lsgd_mpi" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

setup(
    name="lsgd_mpi",
    version=VERSION,
    description="Leader SGD and its relatives: training PyTorch models on MPI ranks that talk rarely",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["lsgd_mpi", "lsgd_mpi.*"]),
    package_data={"lsgd_mpi": ["py.typed"], "lsgd_mpi.presets": ["*.yaml"]},
    # Horovod 0.28.1 does not build from its sdist as it comes: `bin/setup` patches and builds it.
    install_requires=[
        "torch>=2.13,<2.16",
        "torchvision>=0.28,<0.30",
        "mpi4py>=4.1,<5",
        "numpy>=2,<3",
        "matplotlib>=3.9,<4",
        "pyyaml>=6,<7",
        "tqdm>=4.66,<5",
    ],
    extras_require={"digits": ["scikit-learn>=1.5,<2"]},
    entry_points={"console_scripts": ["lsgd-mpi = lsgd_mpi.cli.main:main"]},
)
