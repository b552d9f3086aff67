# shellcheck shell=bash
# What the commands beside this file share; they source it.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
export PATH="$root/.venv/bin:$PATH"
