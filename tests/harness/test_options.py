"""Command lines of train and test: upstream's flags, spellings, types and mistakes."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import options
from sparsevit_plugin.harness.option_table import BY_NAME, IGNORED, OPTIONS, VERBS

UPSTREAM_SCRIPTS = ("train.py", "test.py", "test_robust.py")


def upstream_flags(script: str) -> dict[str, dict[str, object]]:
    """Read upstream's `add_argument` calls from its source, without running it."""
    spec = importlib.util.find_spec("IMDLBenCo")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "training_scripts" / script).read_text(encoding="utf-8")
    flags = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            (name,) = (ast.literal_eval(arg) for arg in node.args)
            flags[name] = {
                k.arg: ast.literal_eval(k.value) if k.arg != "type" else ast.unparse(k.value)
                for k in node.keywords
            }
    return flags


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("script", UPSTREAM_SCRIPTS)
def test_every_flag_of_upstream_is_accepted(script, verb):
    flags = upstream_flags(script)
    assert len(flags) > 15
    for flag, facts in flags.items():
        takes_value = "action" not in facts
        value = {"int": "3", "float": "0.5"}.get(str(facts.get("type")), "cpu")
        argv = [flag, value] if takes_value else [flag]
        parsed = options.parse(verb, [*argv, "--model", "SparseViT"])
        assert not parsed.other, f"{flag} is taken for a model argument"
        assert parsed.values["model"] in ("SparseViT", "cpu")


@pytest.mark.parametrize("script", UPSTREAM_SCRIPTS)
def test_defaults_are_upstreams_unless_the_table_says_why(script):
    by_flag = {form: o for o in OPTIONS for form in (o.name, *o.upstream)}
    switches = {form for o in OPTIONS for form, _ in o.switches}
    for flag, facts in upstream_flags(script).items():
        name = flag.removeprefix("--")
        if name in {o.name for o in IGNORED} | switches or facts.get("action") == "store_false":
            continue
        option = by_flag[name]
        default = facts.get("default", False if "action" in facts else None)
        if name == "pin_mem":
            default = True  # set afterwards, by set_defaults
        same = option.default == default or (option.default == "" and default is None)
        assert same or option.deviation, f"{flag}: {option.default!r} is not {default!r}"


def test_ignored_flags_swallow_their_values_and_say_why():
    argv = ["--world_size", "4", "--local-rank=1", "--dist_on_itp", "--dist_url", "tcp://a:1"]
    argv += ["--epochs", "3"]
    parsed = options.parse("train", argv)
    assert parsed.values == {"epochs": 3}
    flags = [flag for flag, _ in parsed.ignored]
    assert flags == ["--world-size", "--local-rank", "--dist-on-itp", "--dist-url"]
    assert all(reason for _, reason in parsed.ignored)


def test_upstreams_flags_of_the_other_script_are_ignored_and_our_own_refused():
    assert options.parse("test", ["--epochs", "5"]).ignored == [
        ("--epochs", "it has a meaning in train only")
    ]
    with pytest.raises(UserError, match='--select belongs to "benco train", not to "benco test"'):
        options.parse("test", ["--select", "val"])


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--if_resizing"], {"fit": "resize"}),
        (["--if-padding"], {"fit": "pad"}),
        (["--if_resizing", "--fit", "resize"], {"fit": "resize"}),
        (["--if_not_amp"], {"precision": "32"}),
        (["--no_pin_mem"], {"pin_mem": False}),
        (["--pin-mem=false"], {"pin_mem": False}),
        (["--compile"], {"compile": True}),
        (["--compile", "--no-compile"], {"compile": False}),
        (["--compile", "no", "--seed", "1"], {"compile": False, "seed": 1}),
        (["--no_model_eval"], {"no_model_eval": True}),
        (["--test_data_json", "a.json"], {"test_data_path": "a.json"}),
        (["--lr", "2e-4"], {"lr": 2e-4}),
        (["--lr", "none"], {"lr": None}),
        (["--resume", ""], {"resume": ""}),
        (["--epochs", "1", "--epochs", "2"], {"epochs": 2}),
        (["--import", "a.py", "--import=b.c"], {"imports": ("a.py", "b.c")}),
        (["--output_dir=runs/a=b"], {"output_dir": "runs/a=b"}),
        (["--device", "cuda:1"], {"device": "cuda:1"}),
    ],
)
def test_values(argv, expected):
    assert options.parse("train", argv).values == expected


def test_checkpoint_path_is_an_alias():
    assert options.parse("test", ["--checkpoint_path", "a/"]).values == {"checkpoint": "a/"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_spelling_does_not_matter(data):
    option = data.draw(st.sampled_from([o for o in OPTIONS if o.kind in ("int", "float")]))
    least = max(1, int(option.minimum or 1))
    whole = st.integers(least, least + 98)
    value = data.draw(whole if option.kind == "int" else st.just(0.5))
    forms = [option.name, option.name.replace("_", "-")]
    mixed = "".join(data.draw(st.sampled_from("_-")) if c == "_" else c for c in option.name)
    verb = option.verbs[0]
    for form in (*forms, mixed):
        spaced = options.parse(verb, [f"--{form}", str(value)])
        joined = options.parse(verb, [f"--{form}={value}"])
        assert spaced.values == joined.values == {option.name: value}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs"], "--epochs needs a value"),
        (["--epochs", "--lr", "1"], "--epochs needs a value"),
        (["--epochs", "ten"], "--epochs: expected a whole number, got 'ten'"),
        (["--epochs", "2.5"], "expected a whole number"),
        (["--epochs", "0"], "below the least allowed, 1"),
        (["--val-fraction", "1"], "above the greatest allowed"),
        (["--lr", "nan"], "expected a finite number"),
        (["--lr", "-1"], "below the least allowed"),
        (["--select", "vall"], 'not one of val, last, test. Did you mean "val"?'),
        (["--fit", "rezise"], 'Did you mean "resize"?'),
        (["--device", "gpu"], "not auto, cpu, cuda, cuda:N or mps"),
        (["--save-every", "10h"], "a number of steps such as 500"),
        (["--compile=maybe"], "expected true or false"),
        (["--if_resizing=1"], "--if-resizing takes no value"),
        (["--if_padding", "--if_resizing"], "--if-padding and --if-resizing contradict each other"),
        (["--if_not_amp", "--precision", "bf16-mixed"], "contradict each other"),
        (["SparseViT"], "every value follows a flag"),
        (["--lr", "1", "2"], "unexpected '2'"),
    ],
)
def test_mistakes(argv, message):
    with pytest.raises(UserError) as error:
        options.parse("train", argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_flags_of_the_model_are_kept_as_written():
    parsed = options.parse(
        "train", ["--s-blocks3", "[8,4]", "--flag", "--lr", "1", "--x=", "--n", "-1"]
    )
    assert parsed.other == {"s_blocks3": ["[8,4]"], "flag": [], "x": [""], "n": ["-1"]}


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_option_of_the_verb_with_hyphens(verb):
    text = options.help_text(verb)
    words = text.replace(",", " ").split()
    for option in OPTIONS:
        assert (f"--{option.flag}" in words) == (verb in option.verbs), option.name
    assert "--data_path" not in text
    assert options.parse(verb, ["--help"]).help


def test_every_option_is_documented_and_has_a_legal_default():
    assert len(BY_NAME) == len(OPTIONS)
    for option in OPTIONS:
        assert option.help.endswith((".", ")."))
        if option.default is not None and option.default not in ("", ()):
            assert options.convert(option, option.default, option.name) == option.default


def test_help_needs_nothing_but_the_standard_library():
    code = (
        "import sys; sys.argv[0] = 'benco';"
        "from sparsevit_plugin.harness import options; options.help_text('train');"
        "print(sorted({'torch', 'IMDLBenCo', 'yaml', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
