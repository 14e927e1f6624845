"""The built wheel works in a clean environment, and declares what it imports."""

import ast
import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("sparsevit_plugin", "registry", "benchmark_configs", "setup.cfg", "pyproject.toml")
DOCUMENTS = ("README.md", "LICENSE")
# Distributions whose import name is another.
IMPORT_NAMES = {
    "grad-cam": "pytorch_grad_cam",
    "huggingface-hub": "huggingface_hub",
    "lightning-fabric": "lightning_fabric",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
USED_WITHOUT_IMPORT = {
    "requests": "imported by IMDLBenCo, which does not declare it",
    "torchvision": "imported by IMDLBenCo, which does not declare it",
    "onnxscript": "imported by torch.onnx",
    "tensorboard": "imported by torch.utils.tensorboard",
    "sklearn": "its photographs are read as files",
}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def run(*command: object, **options) -> str:
    words = [str(word) for word in command]
    answer = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=300, **options
    )
    assert answer.returncode == 0, f"{words}\n{answer.stdout}\n{answer.stderr}"
    return answer.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that nothing left in the checkout can enter it."""
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in (*SOURCES, *DOCUMENTS):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    words = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", *words, folder / "source")
    (built,) = folder.glob("*.whl")
    return built


class CleanEnvironment:
    """A virtual environment that has the wheel, and sees the test environment's libraries."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.python = folder / "bin" / "python"
        self.empty = folder / "empty"
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.empty.mkdir()
        site = next((folder / "lib").glob("python*")) / "site-packages"
        # The .pth files of a folder that a .pth file adds are not read: the test environment's
        # editable install of this package stays invisible.
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.install(wheel)
        self.site = site

    def install(self, wheel: Path) -> None:
        words = ("install", "--quiet", "--no-deps", "--no-index", wheel)
        run(sys.executable, "-m", "pip", "--python", self.python, *words)

    def start(self, script: str, *words: object) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment["PATH"] = f"{self.python.parent}{os.pathsep}{environment['PATH']}"
        return run(self.python.parent / script, *words, cwd=self.empty, env=environment)


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    return CleanEnvironment(tmp_path_factory.mktemp("clean"), wheel)


def test_the_wheel_holds_cards_recipes_types_and_licence(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert "sparsevit_plugin/py.typed" in names
    assert "sparsevit_plugin/registry/models/SparseViT.yaml" in names
    assert "sparsevit_plugin/benchmark_configs/recipes/sparsevit-default.yaml" in names
    assert any(name.endswith("/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sparsevit_plugin"}


def test_the_wheel_holds_every_module_and_data_file(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    places = {
        "sparsevit_plugin": "",
        "registry": "sparsevit_plugin/",
        "benchmark_configs": "sparsevit_plugin/",
    }
    wanted = {
        f"{prefix}{path.relative_to(ROOT).as_posix()}"
        for folder, prefix in places.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".html", ".css")
    }
    assert wanted - names == set()


def test_both_scripts_and_the_module_start_from_an_empty_folder(clean: CleanEnvironment):
    answers = {clean.start(name, "--help") for name in ("benco", "sparsevit")}
    answers.add(clean.start("python", "-m", "sparsevit_plugin", "--help"))
    assert len(answers) == 1
    assert "benco demo" in answers.pop()


def test_models_cards_and_recipes_come_from_the_wheel(clean: CleanEnvironment):
    code = """
        import sparsevit_plugin
        from IMDLBenCo.registry import MODELS
        from sparsevit_plugin.cards import card_names, load_model_card
        from sparsevit_plugin.harness.recipes import load_recipe, shipped_recipes
        from sparsevit_plugin.registration import broken_plugins

        print(sparsevit_plugin.__file__)
        print(MODELS.get("SparseViT").__module__)
        assert all(load_model_card(name) for name in card_names()) and "SparseViT" in card_names()
        assert all(load_recipe(name) for name in shipped_recipes())
        assert not broken_plugins(), broken_plugins()
    """
    file, module = clean.start("python", "-c", textwrap.dedent(code)).split()
    assert Path(file).is_relative_to(clean.site)
    assert module == "sparsevit_plugin.model.sparsevit"
    assert "SparseViT_upstream" in clean.start("sparsevit", "models")


def make_rival(folder: Path) -> Path:
    """Write the wheel of a package that owns a script named `benco`, as IMDLBenCo does."""
    info = "rival-1.0.dist-info"
    files = {
        "rival.py": "def main():\n    print('rival')\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nbenco = rival:main\n",
    }
    path = folder / "rival-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        lines = [f"{name},,\n" for name in (*files, f"{info}/RECORD")]
        archive.writestr(f"{info}/RECORD", "".join(lines))
    return path


def test_env_fix_takes_benco_back_after_uv_gave_it_to_another(
    clean: CleanEnvironment, tmp_path: Path
):
    rival = make_rival(tmp_path)
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    run(uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", clean.python, rival)
    assert clean.start("benco") == "rival\n"
    said = clean.start("python", "-m", "sparsevit_plugin", "env", "--fix")
    assert "called rival and is the plugin's now" in said
    assert clean.start("benco", "--version").startswith("sparsevit-plugin ")


def imported_packages() -> dict[str, Path]:
    """Return the top-level name of every absolute import in the package, and a file that has it."""
    found: dict[str, Path] = {}
    for path in (ROOT / "sparsevit_plugin").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            found.update({name.split(".")[0]: path for name in names})
    return found


def declared() -> set[str]:
    """Return the import names of what setup.cfg requires, and of its extras for users."""
    parts = setup_cfg()
    extras = parts["options.extras_require"]
    of_extras = [extras[name] for name in ("app", "openvino", "onnxruntime", "slurm")]
    lines = "\n".join([parts["options"]["install_requires"], *of_extras]).split("\n")
    names = {line.split(">")[0].split("=")[0].split("<")[0].strip() for line in lines} - {""}
    return {IMPORT_NAMES.get(name, name) for name in names}


def test_every_import_is_declared():
    own = set(sys.stdlib_module_names) | {"sparsevit_plugin"}
    missing = {name: str(path) for name, path in imported_packages().items() if name not in own}
    assert {name: path for name, path in missing.items() if name not in declared()} == {}


def test_every_requirement_is_imported():
    assert declared() - set(imported_packages()) - set(USED_WITHOUT_IMPORT) == set()


def test_every_package_folder_is_in_setup_cfg():
    packages = set(setup_cfg()["options"]["packages"].split())
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in ("sparsevit_plugin", "registry", "benchmark_configs")
        for path in (ROOT / name).rglob("__init__.py")
    }
    prefix = "sparsevit_plugin."
    assert packages == {
        name if name.startswith("sparsevit_plugin") else prefix + name for name in folders
    }


@pytest.mark.system
@pytest.mark.parametrize("extra", [[], ["--extra", "app"]])
@pytest.mark.parametrize("version", ["3.10", "3.12"])
def test_the_requirements_resolve(version: str, extra: list[str]):
    """A resolver finds versions of everything for this Python; nothing is installed or run."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    words = ["pip", "compile", "--quiet", "--no-header", "--python-version", version]
    answer = subprocess.run(
        [uv, *words, *extra, "setup.cfg"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    unreachable = ("error sending request", "Failed to fetch", "Could not connect", "dns error")
    if answer.returncode and any(sign in answer.stderr for sign in unreachable):
        pytest.skip(f"no package index can be reached: {answer.stderr.strip().splitlines()[-1]}")
    assert answer.returncode == 0, answer.stderr
    assert "imdlbenco==0.1.45" in answer.stdout.lower()
    assert "\ntorch==" in answer.stdout
