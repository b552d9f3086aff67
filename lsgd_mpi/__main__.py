"""``python -m lsgd_mpi``: the command line without its script."""

import sys

from lsgd_mpi.cli.main import main

sys.exit(main())
