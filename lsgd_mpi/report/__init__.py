"""Reading run directories: no MPI, no training."""
