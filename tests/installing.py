"""Real installers on local stand-ins: every requirement is a small wheel, its code a link.

A stand-in has the name and version of a distribution of the test environment and nothing in it;
torch's adds a folder of links to that environment's libraries to the search path. So pip and uv
resolve and install as ever, and what they install really trains, without gigabytes of downloads.
IMDLBenCo's stand-in holds its real files and its script `benco`.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from sparsevit_plugin.versions import installed_version, requirements

OPENCV_FILES = re.compile(r"(cv2|opencv)", re.IGNORECASE)
_OWN_FILES = re.compile(r"(IMDLBenCo|sparsevit|__editable__|_+pycache|.*\.pth$)", re.IGNORECASE)


def plain_environment(**more: object) -> dict[str, str]:
    """Return the environment without what configures pip, uv and Python, and with `more`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "UV_", "PYTHON", "VIRTUAL_ENV"))
    }
    return {**kept, **{name: str(value) for name, value in more.items()}}


def uv_program() -> str:
    """Return uv of the test environment."""
    return shutil.which("uv", path=sysconfig.get_path("scripts")) or "uv"


def link_libraries(folder: Path, without: re.Pattern[str] | None = None) -> Path:
    """Make a folder of links to the test environment's libraries, this package and IMDLBenCo not.

    Args:
        folder: Where.
        without: Beginnings of other names that are left out.
    """
    folder.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not (_OWN_FILES.match(path.name) or (without and without.match(path.name))):
            (folder / path.name).symlink_to(path)
    return folder


def write_wheel(house: Path, name: str, version: str, files: dict[str, str | bytes]) -> Path:
    """Write a wheel of pure Python; `files` may hold `entry_points.txt` for its metadata."""
    stem = f"{re.sub(r'[-_.]+', '_', name)}-{version}"
    info = f"{stem}.dist-info"
    content = {
        **{(f"{info}/{key}" if key == "entry_points.txt" else key): files[key] for key in files},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = house / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in content.items():
            archive.writestr(key, value)
        record = "".join(f"{key},,\n" for key in (*content, f"{info}/RECORD"))
        archive.writestr(f"{info}/RECORD", record)
    return path


def upstream_files() -> dict[str, str | bytes]:
    """Return the files of the installed IMDLBenCo, and its scripts."""
    distribution = importlib.metadata.distribution("IMDLBenCo")
    files: dict[str, str | bytes] = {
        str(file): Path(str(file.locate())).read_bytes()
        for file in distribution.files or []
        if file.parts[0] == "IMDLBenCo" and file.suffix != ".pyc"
    }
    return {**files, "entry_points.txt": distribution.read_text("entry_points.txt") or ""}


def make_house(folder: Path, plugin: Path, *, without: re.Pattern[str] | None = None) -> Path:
    """Make a folder of wheels that an installer finds all that the plugin needs in.

    Args:
        folder: Where; it must not exist.
        plugin: The plugin's own wheel.
        without: Distributions and libraries that are left out.
    """
    house = folder / "house"
    house.mkdir(parents=True)
    shutil.copy(plugin, house)
    libraries = link_libraries(folder / "libraries", without)
    for name in requirements():
        if without and without.match(name):
            continue
        files: dict[str, str | bytes] = {}
        if name == "torch":
            files = {"libraries_of_the_tests.pth": f"{libraries}\n"}
        elif name == "IMDLBenCo":
            files = upstream_files()
        write_wheel(house, name, installed_version(name), files)
    return house


class Environment:
    """A virtual environment whose `pip` is that of the test environment."""

    def __init__(self, folder: Path, **more: object) -> None:
        self.scripts = folder / "bin"
        self.python = self.scripts / "python"
        self.variables = plain_environment(**more)
        self.run(sys.executable, "-m", "venv", "--without-pip", folder)
        pip = self.scripts / "pip"
        pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {self.python} "$@"\n')
        pip.chmod(0o755)

    def run(self, *words: object, code: int = 0, shell: bool = False) -> str:
        """Run a command with this environment's scripts first on PATH; return what it said."""
        path = f"{self.scripts}{os.pathsep}{os.environ['PATH']}"
        command = words[0] if shell else [str(word) for word in words]
        done = subprocess.run(
            command,
            env={**self.variables, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
            shell=shell,
        )
        assert done.returncode == code, f"{command}\n{done.stdout}"
        return done.stdout
