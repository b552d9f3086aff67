# shellcheck shell=bash
# What the commands beside this file share; they source it.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
export PATH="$root/.venv/bin:$PATH"

# More ranks than cores are allowed and give way to each other while they wait: without mpi_yield_when_idle a
# broadcast takes twenty times as long. Horovod's threads need all cores, so ranks are not bound. `^ucx` silences
# a warning of Open MPI 5 about one-sided windows.
# shellcheck disable=SC2034  # used by the scripts that source this file
mpirun_options=(--oversubscribe --bind-to none --mca osc '^ucx' --mca mpi_yield_when_idle 1)

# Open MPI asks root twice; in a container everybody is root.
if [[ $(id -u) -eq 0 ]]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
