"""`benco env`: what is installed, on what machine, and whose `benco` the shell finds.

IMDLBenCo and this plugin both install a script named `benco`, and an installer that writes them in
no fixed order leaves either. `benco env` says which it is; `benco env --fix` makes it the plugin's.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import stat
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import atomic_path
from sparsevit_plugin.registration import broken_plugins, register_all
from sparsevit_plugin.upstream import UPSTREAM, untested_version
from sparsevit_plugin.versions import DISTRIBUTION, git_commit, installed_version, requirements

_PACKAGE = "sparsevit_plugin"
OPENCV = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)
_OPTIONAL = {
    "OpenVINO": "openvino",
    "NNCF": "nncf",
    "ONNX Runtime": "onnxruntime",
    "DeepSpeed": "deepspeed",
    "Bitsandbytes": "bitsandbytes",
    "vLLM": "vllm",
}
# Kernels cut a longer first line, and none of them takes a space in it.
_LONGEST_SHEBANG = 127


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benco env`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--fix",
        action="store_true",
        help='rewrite the "benco" script of this Python environment as the plugin\'s',
    )


def run(args: argparse.Namespace) -> int:
    """Print the facts, or mend the script.

    Raises:
        UserError: When the script cannot be written.
    """
    if args.fix:
        print(fix_script(script_folder()))
        return 0
    facts = gather()
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    problems = facts.pop("problems")
    for title, value in facts.items():
        print(_as_text(title, value))
    for problem in problems:
        print(f"! {problem}")
    return 0


def gather() -> dict[str, Any]:
    """Return everything that `benco env` prints, under the titles that it prints.

    It answers in a broken environment too: what cannot be imported is among the problems.
    """
    failures = {name: why for name in ("torch", "cv2", "IMDLBenCo") if (why := import_error(name))}
    script = find_script("benco")
    opencv = installed_opencv()
    broken = {} if "IMDLBenCo" in failures else _broken_plugins()
    commits = {name: git_commit(name) for name in ("sparsevit_plugin", "IMDLBenCo")}
    return {
        DISTRIBUTION: installed_version(DISTRIBUTION),
        "IMDLBenCo": installed_version("imdlbenco"),
        "Platform": platform.platform(),
        "Python": f"{platform.python_version()} ({sys.executable})",
        "PyTorch": installed_version("torch"),
        "Torchvision": installed_version("torchvision"),
        "TIMM": installed_version("timm"),
        "Albumentations": installed_version("albumentations"),
        "CPU": cpu_facts(),
        "GPU": [] if "torch" in failures else gpu_facts(),
        "Kernels on the CPU": {} if "torch" in failures else kernel_facts(),
        "OpenCV": opencv,
        "Libraries": {name: installed_version(name) for name in sorted(requirements())},
        "Optional": {title: installed_version(name) for title, name in _OPTIONAL.items()},
        "Git commit": {name: commit for name, commit in commits.items() if commit},
        "benco on PATH": script.describe() if script else "none",
        "problems": _problems(script, opencv, failures, broken),
    }


def _broken_plugins() -> dict[str, str]:
    try:
        register_all()
    except UserError as error:
        return {UPSTREAM: str(error)}
    return broken_plugins()


@dataclass(frozen=True)
class Script:
    """A console script.

    Attributes:
        path: Where it is.
        package: The package whose function it calls; empty when that cannot be read.
    """

    path: Path
    package: str

    def describe(self) -> str:
        """Return the path and the package in words."""
        return f"{self.path} (calls {self.package or 'something unknown'})"


def find_script(name: str) -> Script | None:
    """Return the script that a shell runs for `name`, None when there is none."""
    found = shutil.which(name)
    return Script(Path(found), called_package(Path(found))) if found else None


def called_package(script: Path) -> str:
    """Return the package whose function a console script calls, "" when that cannot be read.

    Installers write a few lines of Python that import the function; on Windows these lie in a zip
    archive at the end of a program.
    """
    try:
        if zipfile.is_zipfile(script):
            with zipfile.ZipFile(script) as archive:
                text = archive.read("__main__.py").decode()
        else:
            text = script.read_text(encoding="utf-8")
    except (OSError, KeyError, UnicodeDecodeError):
        return ""
    found = re.search(r"^from\s+(\w+)[\w.]*\s+import\s", text, flags=re.MULTILINE)
    return found.group(1) if found else ""


def script_folder() -> Path:
    """Return where this environment's installer put the plugin's scripts."""
    # A checkout's own metadata, which has no list of scripts, may come before the installer's.
    for distribution in importlib.metadata.distributions(name=DISTRIBUTION):
        for file in distribution.files or []:
            if file.name in ("sparsevit", "sparsevit.exe"):
                return Path(str(file.locate())).resolve().parent
    return Path(sysconfig.get_path("scripts"))


def fix_script(folder: Path) -> str:
    """Make the `benco` of one environment the plugin's, whole or not at all.

    Args:
        folder: The environment's folder of scripts.

    Returns:
        One line that says what was done.

    Raises:
        UserError: When the folder cannot be written, or the system starts scripts another way.
    """
    if sys.platform == "win32":
        raise UserError(
            "on Windows the script is a program that an installer must write: "
            f"python -m pip install --force-reinstall --no-deps {DISTRIBUTION}"
        )
    target = folder / "benco"
    owner = called_package(target)
    if owner == _PACKAGE and _runs_this_python(target):
        return f"{target} is the plugin's already; nothing to do.{_shadow_note(target)}"
    before = (
        f"called {owner}" if owner else "called nothing known" if target.exists() else "was missing"
    )
    _write_script(target)
    return f"{target} {before} and is the plugin's now.{_shadow_note(target)}"


def _write_script(target: Path) -> None:
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o755
    with atomic_path(target) as temporary:
        temporary.write_text(script_text(sys.executable), encoding="utf-8")
        temporary.chmod(mode)


def script_text(python: str) -> str:
    """Return the console script that starts the plugin's command with the interpreter `python`."""
    shebang = f"#!{python}"
    if len(shebang) > _LONGEST_SHEBANG or " " in python:
        # A shell runs the second line; Python reads the second and third as one string.
        shebang = f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''"
    return (
        f"{shebang}\nimport sys\n\nfrom {_PACKAGE}.cli.main import main\n\n"
        'if __name__ == "__main__":\n    sys.exit(main())\n'
    )


def _runs_this_python(script: Path) -> bool:
    """Return whether a script starts an interpreter of this environment."""
    first_lines = script.read_text(encoding="utf-8").split("\nimport", maxsplit=1)[0]
    return str(Path(sys.executable).parent) + os.sep in first_lines


def _shadow_note(target: Path) -> str:
    """Say so when the shell finds another `benco` first."""
    found = shutil.which("benco")
    if found is None:
        return f" {target.parent} is not on PATH: activate the environment, or use the full path."
    if Path(found).resolve() != target.resolve():
        return f" The shell finds {found} first: activate the environment, or use the full path."
    return ""


def cpu_facts() -> dict[str, int]:
    """Return the number of processors, those that this process may use, and PyTorch's threads."""
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    facts = {"processors": total, "usable": usable}
    if "torch" in sys.modules:
        facts["PyTorch threads"] = sys.modules["torch"].get_num_threads()
    return facts


def gpu_facts() -> list[str]:
    """Return name and memory of every GPU that PyTorch can use."""
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return [f"{device.name}, {device.total_memory / 2**30:.2f} GB" for device in devices]
    if torch.backends.mps.is_available():
        return ["Apple GPU (mps)"]
    return []


def kernel_facts() -> dict[str, str]:
    """Return what computes on the CPU, by purpose, and the measurement that chose it."""
    from sparsevit_plugin.model.probe import FORMATS, PURPOSES, probed

    facts = {}
    for purpose in PURPOSES:
        for number_format in FORMATS:
            found = probed(purpose, number_format)
            facts[f"{purpose} in {number_format}"] = (
                f"{found.kernels().matmul} ({found.reason()}; attention by matrix products up to "
                f"{found.attention} tokens a group)"
            )
    return facts


def installed_opencv() -> dict[str, str]:
    """Return the OpenCV distributions that are installed; more than one share the folder `cv2`."""
    found = {name: installed_version(name) for name in OPENCV}
    return {name: version for name, version in found.items() if version != "not installed"}


def import_error(module: str) -> str:
    """Return why a module cannot be imported, "" when it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a compiled module raises what it likes
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _problems(
    script: Script | None,
    opencv: dict[str, str],
    failures: dict[str, str],
    broken: dict[str, str],
) -> list[str]:
    """Return what is wrong, with the command that mends it where there is one."""
    found = [f"import {name} fails: {reason}" for name, reason in failures.items()]
    found += [f"plugin {name} is broken: {reason}" for name, reason in broken.items()]
    found += [difference] if (difference := untested_version()) else []
    if len(opencv) > 1 or "cv2" in failures:
        installed = ", ".join(opencv) or "no OpenCV"
        wanted = requirements()["opencv-python-headless"]
        found.append(
            f"{installed} installed; they share the folder cv2, so keep the headless one: "
            f"pip uninstall -y {' '.join(OPENCV)} && pip install '{wanted}'"
        )
    if script is None:
        found.append(
            'no "benco" on PATH: activate the environment, or use python -m sparsevit_plugin'
        )
    elif script.package != _PACKAGE:
        found.append(f"{script.describe()}: python -m sparsevit_plugin env --fix")
    return found


def _as_text(title: str, value: object) -> str:
    """Return one fact as lines of text."""
    if isinstance(value, dict):
        value = [f"{key} {entry}" for key, entry in value.items()]
    if isinstance(value, list):
        value = ", ".join(value) or "none"
    return f"- {title}: {value}"
