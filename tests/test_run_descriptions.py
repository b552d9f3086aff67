import json
import math
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml

from lsgd_mpi.errors import RunDirectoryError
from lsgd_mpi.records import collect_environment, write_config, write_environment
from lsgd_mpi.records.environment import package_commit


class TestDescriptions:
    def test_config_comes_back_in_order_with_plain_values(self, tmp_path):
        options = {
            "lr": 1e-05,
            "algorithm": "lsgd",
            "data": Path("a/b"),
            "nested": {"groups": ((0, 1), (2,))},
        }
        write_config(tmp_path, options)
        back = yaml.safe_load((tmp_path / "config.yaml").read_text())
        assert back == {
            "lr": 1e-05,
            "algorithm": "lsgd",
            "data": "a/b",
            "nested": {"groups": [[0, 1], [2]]},
        }
        assert list(back) == list(options)
        assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]

    def test_names_the_option_it_cannot_write_and_writes_nothing(self, tmp_path):
        with pytest.raises(TypeError, match=r"config\.outer\.inner is a object"):
            write_config(tmp_path, {"outer": {"inner": object()}})
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_directory_is_a_sentence(self, tmp_path):
        with pytest.raises(RunDirectoryError, match=r"cannot write .*environment\.json"):
            write_environment(tmp_path / "nowhere", {})

    def test_refuses_numbers_that_json_has_not(self, tmp_path):
        with pytest.raises(ValueError, match="JSON"):
            write_environment(tmp_path, {"seed": math.nan})
        assert list(tmp_path.iterdir()) == []

    def test_environment_tells_what_the_run_ran_on(self, tmp_path):
        facts = collect_environment(
            hosts=["a", "a", "b"],
            groups=((0, 1), (2,)),
            seed=7,
            mpi_library="MPI 1",
            threads=2,
            command=["x", "y"],
        )
        write_environment(tmp_path, facts)
        back = json.loads((tmp_path / "environment.json").read_text())
        assert back["groups"] == [[0, 1], [2]]
        assert (back["hosts"], back["seed"], back["threads"]) == (["a", "a", "b"], 7, 2)
        assert (back["mpi_library"], back["command"]) == ("MPI 1", ["x", "y"])
        assert back["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
        assert set(back["versions"]) >= {"torch", "torchvision", "mpi4py", "horovod", "numpy", "lsgd_mpi"}
        started = datetime.fromisoformat(back["started_utc"])
        assert abs(datetime.now(timezone.utc) - started) < timedelta(minutes=1)

    def test_versions_are_the_installed_ones_or_none(self, monkeypatch):
        from importlib import metadata

        def version(name):
            if name == "torch":
                return "1.2.3"
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", version)
        versions = collect_environment(hosts=[], groups=[], seed=None)["versions"]
        assert versions["torch"] == "1.2.3"
        assert versions["horovod"] is None


class TestCommit:
    @pytest.fixture
    def checkout(self, tmp_path):
        package = tmp_path / "package"
        package.mkdir()
        (package / "__init__.py").write_text("")
        self.git(tmp_path, "init", "-q")
        self.git(tmp_path, "add", ".")
        self.git(tmp_path, "-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-q", "-m", "one")
        return tmp_path

    def git(self, folder, *arguments):
        return subprocess.check_output(["git", "-C", str(folder), *arguments], text=True).strip()

    def test_is_the_checkouts(self, checkout):
        assert package_commit(checkout / "package") == (self.git(checkout, "rev-parse", "HEAD"), False)

    def test_is_dirty_only_by_files_of_the_package(self, checkout):
        (checkout / "results.csv").write_text("1")
        assert package_commit(checkout / "package")[1] is False
        (checkout / "package" / "new.py").write_text("1")
        assert package_commit(checkout / "package")[1] is True

    def test_is_not_that_of_a_project_around_an_installed_package(self, checkout):
        installed = checkout / ".venv" / "package"
        installed.mkdir(parents=True)
        (installed / "__init__.py").write_text("")
        assert package_commit(installed) == (None, None)

    def test_is_none_without_git(self, checkout, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert package_commit(checkout / "package") == (None, None)

    def test_does_not_follow_git_dir(self, checkout, monkeypatch, tmp_path_factory):
        other = tmp_path_factory.mktemp("other")
        self.git(other, "init", "-q")
        head = self.git(checkout, "rev-parse", "HEAD")
        monkeypatch.setenv("GIT_DIR", str(other / ".git"))
        assert package_commit(checkout / "package")[0] == head
