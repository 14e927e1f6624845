"""The command: verbs, exit codes, one-line errors, and a start that imports no torch."""

import importlib
import subprocess
import sys
import types

import pytest

from sparsevit_plugin.cli.main import VERBS, main
from sparsevit_plugin.errors import UserError


def start(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as if the `benco` script had been started with `words`."""
    setup = f"import sys; sys.argv = {['benco', *words]!r}\n"
    command = [sys.executable, "-c", setup + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def fake_verb(monkeypatch: pytest.MonkeyPatch):
    """`fake_verb(run)`: let `benco table` call `run(args)`."""

    def install(run) -> None:
        module = types.ModuleType("sparsevit_plugin.cli.table")
        module.add_arguments = lambda parser: (
            parser.add_argument("--score-at", choices=("model", "image")),
            parser.add_argument("--metric"),
        )
        module.run = run
        monkeypatch.setitem(sys.modules, "sparsevit_plugin.cli.table", module)

    return install


@pytest.mark.parametrize(
    "words",
    [
        *(["--help"], ["-v"], ["data", "--help"], ["trian"]),
        *(["table", "--help"], ["test", "--help"], ["train", "--help"]),
    ],
)
def test_the_start_imports_nothing_heavy(words):
    code = (
        "from sparsevit_plugin.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'IMDLBenCo', 'pandas', 'pydantic', 'numpy', 'cv2', 'rich', 'yaml'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    assert start(code, *words).stdout.splitlines()[-1] == "HEAVY []"


def test_a_run_imports_nothing_that_it_does_not_use():
    code = (
        "import sparsevit_plugin.cli.test, sparsevit_plugin.harness.testing\n"
        "unused = {'jpeglib', 'openvino', 'nncf', 'onnxruntime', 'onnx', 'tensorboard'}\n"
        "print('UNUSED', sorted(unused & set(sys.modules)))\n"
    )
    assert start(code, "test").stdout.splitlines()[-1] == "UNUSED []"


def test_help_names_every_verb_and_gives_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name}" in text and verb.summary in text for name, verb in VERBS.items())
    assert "benco demo --out runs/demo" in text
    assert max(map(len, text.splitlines())) <= 100


def test_every_verb_has_its_module():
    modules = [
        part.module for verb in VERBS.values() for part in (verb.parts or {"": verb}).values()
    ]
    for name in modules:
        module = importlib.import_module(f"sparsevit_plugin.cli.{name}")
        assert callable(module.run)


@pytest.mark.parametrize("words", [[], ["data"]])
def test_without_a_verb_the_help_is_shown(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    assert "verbs:" in capsys.readouterr().out


def test_version_names_both_packages(capsys):
    assert main(["-v"]) == 0
    assert capsys.readouterr().out == "sparsevit-plugin 0.1.0\nIMDLBenCo 0.1.45\n"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["trian"], 'unknown verb "benco trian". Did you mean "train"?'),
        (["data", "chek"], 'unknown verb "benco data chek". Did you mean "check"?'),
        (["--hlep"], 'unknown option "--hlep". Did you mean "--help"?'),
        (
            ["table", "--score_att", "image"],
            'unknown option "--score-att". Did you mean "--score-at"?',
        ),
        (
            ["table", "--score-at", "imgae"],
            '"imgae" is not one of model, image. Did you mean "image"?',
        ),
        (
            ["table", "--metric"],
            'argument --metric: expected one argument. See "benco table --help".',
        ),
        (["table", "extra"], 'unexpected argument "extra". See "benco table --help".'),
    ],
)
def test_misspelt_words_get_one_line_with_a_suggestion(capsys, fake_verb, words, wanted):
    fake_verb(lambda args: 0)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("benco: error: ")
    assert wanted in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--score-at", "--score_at"])
@pytest.mark.parametrize("joined", [False, True])
def test_options_take_hyphens_and_underscores(fake_verb, flag, joined):
    seen = []
    fake_verb(lambda args: seen.append(args) or 0)
    words = [f"{flag}=image"] if joined else [flag, "image"]
    assert main(["table", *words, "--metric", "pixel_f1"]) == 0
    assert (seen[0].score_at, seen[0].metric) == ("image", "pixel_f1")


def test_exit_codes(capsys, fake_verb):
    def bad_input(args):
        raise UserError("no such folder: x")

    def interrupt(args):
        raise KeyboardInterrupt

    fake_verb(lambda args: 1)
    assert main(["table"]) == 1
    fake_verb(bad_input)
    assert main(["table"]) == 2
    assert capsys.readouterr().err == "benco: error: no such folder: x\n"
    fake_verb(interrupt)
    assert main(["table"]) == 130


def test_a_programming_error_keeps_its_traceback(fake_verb):
    def fail(args):
        raise ZeroDivisionError

    fake_verb(fail)
    with pytest.raises(ZeroDivisionError):
        main(["table"])


def test_a_reader_that_leaves_is_no_error():
    child = subprocess.Popen(
        [sys.executable, "-m", "sparsevit_plugin", "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child.stdout.close()
    assert child.wait(timeout=60) == 141
    assert child.stderr.read() == b""
    child.stderr.close()


@pytest.mark.parametrize("verb", ["train", "test"])
def test_train_and_test_read_their_own_words(monkeypatch, verb):
    seen = []
    module = types.ModuleType(f"sparsevit_plugin.cli.{verb}")
    module.run = lambda argv: seen.append(argv) or 0
    monkeypatch.setitem(sys.modules, f"sparsevit_plugin.cli.{verb}", module)
    monkeypatch.setattr(f"sparsevit_plugin.cli.{verb}", module, raising=False)
    assert main([verb, "--data_path", "x", "--help"]) == 0
    assert seen == [["--data_path", "x", "--help"]]
