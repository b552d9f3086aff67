"""The project's folder and what is installed into its .venv."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from console import CommandError, child_environment, output_of, run_logged, say
from options import Options

UV = "uv>=0.5,<1"


@dataclass(frozen=True)
class Tree:
    """The places in the project's folder."""

    root: Path

    @property
    def venv(self) -> Path:
        """The environment."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.venv / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """Written last: what a finished set-up made."""
        return self.venv / "setup.json"

    @property
    def unfinished(self) -> Path:
        """There while packages are being installed; if it is there at the start, some may be halves."""
        return self.venv / "setup-unfinished"

    @property
    def log(self) -> Path:
        """The output of what set-up runs."""
        return self.venv / "setup.log"

    def requirements(self, options: Options) -> list[Path]:
        """The requirements files that these options call for."""
        names = ["requirements.txt", "requirements-build.txt"]
        names += [] if options.system_mpi else ["requirements-mpi.txt"]
        names += ["requirements-dev.txt"] if options.dev else []
        return [self.root / "install" / name for name in names]


class Packages:
    """Installs packages into .venv, with uv where it can, else with pip."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.uv: Path | None = tree.venv / "bin" / "uv"
        if not self.uv.exists() and not self._pip_succeeds("install", "-q", UV):
            say("uv could not be installed: going on with pip, which takes some minutes longer")
            self.uv = None

    def install(self, *arguments: str | Path) -> None:
        """Install what pip's ``install`` understands."""
        if self.uv is not None:
            command = [self.uv, "pip", "install", "--python", self.tree.python, *arguments]
            try:
                run_logged(command, self.tree.log, self._environment() | self._index_for_uv())
                return
            except CommandError:
                say("uv could not install the packages: going on with pip, which takes some minutes longer")
                self.uv = None
        run_logged([self.tree.python, "-m", "pip", "install", *arguments], self.tree.log, self._environment())

    def install_with_pip(self, *arguments: str | Path) -> None:
        """Install with options that only pip has."""
        run_logged([self.tree.python, "-m", "pip", "install", *arguments], self.tree.log, self._environment())

    def _environment(self) -> dict[str, str]:
        return child_environment(self.tree.venv / "bin")

    def _pip_succeeds(self, *arguments: str) -> bool:
        try:
            run_logged([self.tree.python, "-m", "pip", *arguments], self.tree.log, self._environment())
        except CommandError:
            return False
        return True

    def _index_for_uv(self) -> dict[str, str]:
        """Uv reads none of pip's configuration: hand it the index that a site has chosen for pip."""
        if any(name in os.environ for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")):
            return {}
        told = output_of([self.tree.python, "-m", "pip", "config", "list"], self._environment()) or ""
        found = [line.partition("=")[2].strip("'\"") for line in told.splitlines() if ".index-url=" in line]
        return {"UV_DEFAULT_INDEX": found[-1]} if found else {}


def installed_versions(tree: Tree) -> dict[str, str]:
    """The version of each package in .venv, without importing any; nothing where .venv does not work."""
    program = (
        "import importlib.metadata as m, json;"
        "found = {d.metadata['Name'].lower().replace('-', '_'): d.version for d in m.distributions()};"
        "print(json.dumps(found))"
    )
    told = output_of([tree.python, "-c", program], child_environment())
    return dict(json.loads(told)) if told else {}
