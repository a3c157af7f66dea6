"""What is delivered: the distribution, and that it works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

# a network may be slow
wheel = [pytest.mark.wheel, pytest.mark.timeout(900)]


class Distribution(NamedTuple):
    """What was built: the names are those of the files in it."""

    wheel: Path
    from_checkout: set[str]
    from_sdist: set[str]
    sdist: set[str]


def run(
    command: Sequence[str | Path], *, folder: Path = Path("/"), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing of this checkout in its environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CONVERGE"))}
    environment.update(variables)
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """A wheel made from the checkout, and one made from a source distribution of it."""
    folder = tmp_path_factory.mktemp("distribution")
    # a copy, as building leaves files in the folder that a later build would take up
    source = folder / "source"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=unwanted)
    run([sys.executable, "-m", "build", "--outdir", folder / "sdist", source])
    shutil.rmtree(source / "converge.egg-info", ignore_errors=True)
    shutil.rmtree(source / "build", ignore_errors=True)
    run([sys.executable, "-m", "build", "--wheel", "--outdir", folder / "wheel", source])
    (direct,) = (folder / "wheel").glob("*.whl")
    (indirect,) = (folder / "sdist").glob("*.whl")
    (archive,) = (folder / "sdist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        sdist = {name.partition("/")[2] for name in tar.getnames()}
    return Distribution(indirect, names(direct), names(indirect), sdist)


def names(wheel: Path) -> set[str]:
    """The names of a wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(distribution: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a new environment with the wheel and what it requires."""
    environment = tmp_path_factory.mktemp("installed")
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", distribution.wheel])
    return python.parent


class TestCheckout:
    """The folder ``alembic`` and the library of the same name."""

    def test_alembic_is_not_a_package(self) -> None:
        # with an __init__.py it would be found before the library
        assert (ROOT / "alembic" / "env.py").is_file()
        assert not (ROOT / "alembic" / "__init__.py").exists()

    def test_migrations_are_a_link_to_it(self) -> None:
        link = ROOT / "converge" / "migrations"
        assert link.is_symlink()
        assert os.readlink(link) == "../alembic"

    @pytest.mark.parametrize("folder", [ROOT, Path("/")], ids=["here", "elsewhere"])
    def test_the_library_is_found(self, folder: Path) -> None:
        program = "import alembic.command; print(alembic.command.__file__)"
        found = run([sys.executable, "-c", program], folder=folder).stdout.strip()
        assert ROOT / "alembic" not in Path(found).parents

    @pytest.mark.parametrize("folder", [ROOT, Path("/")], ids=["here", "elsewhere"])
    def test_migrations_are_found(self, folder: Path) -> None:
        program = "import converge.migrations as m; print(list(m.__path__)[0])"
        found = Path(run([sys.executable, "-c", program], folder=folder).stdout.strip())
        assert (found / "env.py").is_file()


class TestDistribution:
    """What is in it."""

    pytestmark = wheel

    def test_has_the_migrations_and_types(self, distribution: Distribution) -> None:
        needed = {"converge/py.typed", "converge/migrations/script.py.mako"}
        needed |= {
            f"converge/migrations/{file.relative_to(ROOT / 'alembic')}"
            for file in (ROOT / "alembic").rglob("*.py")
        }
        assert needed <= distribution.from_checkout
        assert any("/versions/" in name for name in needed)

    def test_has_every_module(self, distribution: Distribution) -> None:
        modules = {str(file.relative_to(ROOT)) for file in (ROOT / "converge").rglob("*.py")}
        assert modules <= distribution.from_checkout

    def test_has_nothing_else(self, distribution: Distribution) -> None:
        tops = {name.partition("/")[0] for name in distribution.from_checkout}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"converge"}
        assert not {name for name in distribution.from_checkout if "__pycache__" in name}

    def test_source_distribution_makes_the_same_wheel(self, distribution: Distribution) -> None:
        assert distribution.from_sdist == distribution.from_checkout

    def test_source_distribution_has_the_tests(self, distribution: Distribution) -> None:
        assert {"tests/conftest.py", "tests/run.py", "tox.ini", "LICENSE"} <= distribution.sdist


class TestInstalled:
    """In a new environment, from the root folder."""

    pytestmark = wheel

    def test_version(self, installed: Path) -> None:
        assert "0.1.0" in run([installed / "converge", "--version"]).stdout

    def test_upgrade(self, installed: Path, tmp_path: Path) -> None:
        database = tmp_path / "some.db"
        url = f"sqlite:///{database}"
        run([installed / "converge", "db", "upgrade"], CONVERGE_DB=url)
        run([installed / "converge", "db", "check"], CONVERGE_DB=url)
        connection = sqlite3.connect(database)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        connection.close()
        assert {"converge_stack", "converge_sync_point", "converge_alembic_version"} <= tables

    def test_resource_types(self, installed: Path) -> None:
        program = """
from importlib.metadata import entry_points
for entry in entry_points(group="converge.resource_types"):
    entry.load()
    print(entry.name)
"""
        found = run([installed / "python", "-c", program]).stdout.split()
        assert sorted(found) == ["command", "file", "none", "signal", "stack", "value"]

    def test_requirements_fit_together(self, installed: Path) -> None:
        run([installed / "python", "-m", "pip", "check"])
