"""What pip, uv and uv's tools install works, and `benco env` names and mends what they break."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sparsevit_plugin.cli.env import called_package
from sparsevit_plugin.versions import installed_version
from tests.installing import OPENCV_FILES, Environment, make_house, plain_environment, uv_program
from tests.test_package import wheel  # noqa: F401 - a fixture

pytestmark = pytest.mark.system

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
TRAIN = (
    *("train", "--model", "SparseViT_tiny", "--recipe", "none", "--image-size", "32"),
    *("--if-resizing", "--device", "cpu", "--num-workers", "0", "--batch-size", "4"),
    *("--epochs", "1", "--select", "last"),
)
TIMES = 3
NO_INDEX = re.compile(
    r"No matching distribution|Could not find a version|Max retries|Connection|resolve", re.I
)


@pytest.fixture(scope="module")
def house(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    return make_house(tmp_path_factory.mktemp("stand-ins") / "all", wheel)


def by_pip(folder: Path, house: Path) -> Environment:
    made = Environment(folder, PIP_CONFIG_FILE="/dev/null")
    made.run("pip", "install", "--no-index", "--find-links", house, "sparsevit-plugin")
    return made


def by_uv(folder: Path, house: Path) -> Environment:
    made = Environment(folder, UV_CACHE_DIR=folder / "cache", UV_NO_CONFIG=1)
    words = ("pip", "install", "--python", made.python, "--no-index", "--find-links", house)
    made.run(uv_program(), *words, "sparsevit-plugin")
    return made


def as_a_tool(folder: Path, house: Path) -> Environment:
    """uv's tools have an environment of their own, and links to their scripts in one folder."""
    places = {"UV_TOOL_DIR": folder / "tools", "UV_TOOL_BIN_DIR": folder / "bin"}
    made = Environment.__new__(Environment)
    made.scripts = folder / "bin"
    made.variables = plain_environment(UV_CACHE_DIR=folder / "cache", UV_NO_CONFIG=1, **places)
    words = ("tool", "install", "--python", sys.executable, "--no-index", "--find-links", house)
    made.run(uv_program(), *words, "sparsevit-plugin")
    return made


@pytest.mark.parametrize("number", range(TIMES))
@pytest.mark.parametrize("install", [by_pip, by_uv, as_a_tool])
def test_a_fresh_install_trains(
    tmp_path: Path,
    house: Path,
    make_set: Callable[..., Path],
    install: Callable[[Path, Path], Environment],
    number: int,
):
    made = install(tmp_path / "environment", house)
    photos = make_set(tmp_path / "set", count=4)
    words = (*TRAIN, "--data-path", photos, "--output-dir")
    # One install of each kind trains; of the others the resolved settings are enough.
    goes_on = () if number == 0 else ("--print-config",)
    made.run("sparsevit", *words, tmp_path / "by sparsevit", *goes_on)

    owner = called_package(made.scripts / "benco")
    if owner != "sparsevit_plugin":
        assert install is not by_pip  # it installs what the plugin requires first
        assert owner == "IMDLBenCo"
        assert "&& sparsevit env --fix" in README
        made.run("sparsevit", "env", "--fix")
    made.run("benco", *words, tmp_path / "by benco", *goes_on)
    if not goes_on:
        files = [tmp_path / f"by {name}/last.safetensors" for name in ("sparsevit", "benco")]
        assert files[0].read_bytes() == files[1].read_bytes()


def install_real(made: Environment, *words: str) -> str:
    """Install from the package index, or skip the test where there is none."""
    made.variables = plain_environment()
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    made.variables.update(settings)
    try:
        return made.run("pip", "install", "--quiet", *words)
    except AssertionError as error:
        if NO_INDEX.search(str(error)):
            pytest.skip(f"no package index can be reached: {str(error).splitlines()[-1]}")
        raise


def problems(made: Environment) -> list[str]:
    said = made.run("sparsevit", "env").splitlines()
    return [line.removeprefix("! ") for line in said if line.startswith("! ")]


@pytest.fixture
def with_real_opencv(
    tmp_path: Path,
    wheel: Path,  # noqa: F811
) -> Environment:
    house = make_house(tmp_path / "stand-ins", wheel, without=OPENCV_FILES)
    made = Environment(tmp_path / "environment", PIP_CONFIG_FILE="/dev/null")
    words = ("--no-deps", "--no-index", *house.glob("*.whl"))
    made.run("pip", "install", "--quiet", *words)
    headless = f"opencv-python-headless=={installed_version('opencv-python-headless')}"
    install_real(made, "--no-deps", headless)
    assert problems(made) == []
    return made


def mend(made: Environment, problem: str) -> None:
    """Type in the command that a problem names."""
    command = problem[problem.index("pip uninstall") :]
    made.run(command, shell=True)


def test_a_second_opencv_is_named_and_the_mend_works(with_real_opencv: Environment):
    made = with_real_opencv
    version = installed_version("opencv-python-headless")
    install_real(made, "--no-deps", f"opencv-python=={version}")
    (problem,) = [one for one in problems(made) if "share the folder cv2" in one]
    assert problem.startswith("opencv-python-headless, opencv-python installed")
    mend(made, problem)
    assert problems(made) == []
    made.run(made.python, "-c", "import cv2; cv2.imread")


def test_a_removed_second_opencv_breaks_cv2_and_that_is_named(
    with_real_opencv: Environment, tmp_path: Path
):
    made = with_real_opencv
    version = installed_version("opencv-python-headless")
    install_real(made, "--no-deps", f"opencv-python=={version}")
    made.run("pip", "uninstall", "--quiet", "-y", "opencv-python")
    found = problems(made)
    assert any(one.startswith("import cv2 fails: ") for one in found), found
    said = made.run("sparsevit", "models", code=2)
    assert said.splitlines()[-1].endswith("sparsevit env says what is broken, and the mend")
    assert "Traceback" not in said
    (problem,) = [one for one in found if "share the folder cv2" in one]
    mend(made, problem)
    assert problems(made) == []
    assert "SparseViT" in made.run("sparsevit", "models")


def test_imdlbenco_installed_again_takes_benco_and_env_mends_it(tmp_path: Path, house: Path):
    made = by_pip(tmp_path / "environment", house)
    assert problems(made) == []
    version = installed_version("IMDLBenCo")
    install_real(made, "--no-deps", "--force-reinstall", "--no-cache-dir", f"IMDLBenCo=={version}")
    script = made.scripts / "benco"
    assert called_package(script) == "IMDLBenCo"
    assert problems(made) == [f"{script} (calls IMDLBenCo): python -m sparsevit_plugin env --fix"]
    said = made.run("sparsevit", "env", "--fix")
    assert f"{script} called IMDLBenCo and is the plugin's now" in said
    assert made.run("benco", "--version").startswith("sparsevit-plugin ")
    assert problems(made) == []

    made.run("pip", "uninstall", "--quiet", "-y", "IMDLBenCo")
    assert not script.exists()
    assert any("IMDLBenCo" in one and "pip install" in one for one in problems(made))
