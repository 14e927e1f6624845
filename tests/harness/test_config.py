"""Precedence with origins, constructor arguments, upstream's run scripts, and mistakes."""

import contextlib
import dataclasses
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import config, options
from sparsevit_plugin.harness.config import Layer, absolute_lr, combine, resolve, save_interval
from sparsevit_plugin.harness.option_table import OPTIONS
from sparsevit_plugin.harness.recipes import Recipe

DATA = ["--data-path", "train", "--test-data-path", "tests.json"]


def build(depth: tuple = (1, 2), img_size=224, dice: float = 0.0, act=len, seed=None):
    """Stand for a model's constructor."""


def put(argv, *lower, verb="train", constructor=build):
    flags = options.parse(verb, ["--model", "Toy", *DATA, "--fit", "pad", *argv])
    if verb == "test":
        flags.ignored.clear()
    return combine(verb, constructor, flags, lower, Recipe())


RECIPE = Layer("recipe r", "r.yaml: {}", {"epochs": 5, "lr": 0.1}, {"dice": 0.5, "depth": [3]})
CARD = Layer("card Toy", "card Toy: {}", {"epochs": 7, "image_size": 64}, {"dice": 1, "depth": [4]})


@pytest.mark.parametrize(
    ("argv", "layers", "name", "value", "origin"),
    [
        (["--epochs", "3"], [RECIPE, CARD], "epochs", 3, "flag"),
        ([], [RECIPE, CARD], "epochs", 5, "recipe r"),
        ([], [CARD], "epochs", 7, "card Toy"),
        ([], [], "epochs", 200, "upstream default"),
        ([], [RECIPE, CARD], "image_size", 64, "card Toy"),
        (["--lr", "none"], [RECIPE], "lr", None, "flag"),
        ([], [], "device", "auto", "plugin default"),
        ([], [], "select", "val", "plugin default"),
        ([], [], "augmentation", "benco", "upstream default"),
        ([], [], "log_dir", "./output_dir", "as output_dir"),
        (["--output_dir", "a"], [], "log_dir", "a", "as output_dir"),
        (["--log_dir", "b"], [], "log_dir", "b", "flag"),
        ([], [], "name", "Toy", "as model"),
    ],
)
def test_precedence_of_options(argv, layers, name, value, origin):
    cfg = put(argv, *layers)
    assert (getattr(cfg, name), cfg.origin[name]) == (value, origin)


@pytest.mark.parametrize(
    ("argv", "layers", "name", "value", "origin"),
    [
        (["--dice", "2"], [RECIPE, CARD], "dice", 2.0, "flag"),
        ([], [RECIPE, CARD], "dice", 0.5, "recipe r"),
        ([], [CARD], "depth", (4,), "card Toy"),
        # The image size reaches the constructor, unless a layer as high names the argument itself.
        ([], [], "img_size", 512, "option image_size (upstream default)"),
        ([], [CARD], "img_size", 64, "option image_size (card Toy)"),
        (["--image_size", "96"], [CARD], "img_size", 96, "option image_size (flag)"),
        (["--img-size", "32"], [CARD], "img_size", 32, "flag"),
        (["--img-size=32", "--image-size=96"], [CARD], "img_size", 32, "flag"),
        # Any other option of upstream's with the constructor's name, as upstream passes it.
        (["--seed", "3"], [], "seed", 3, "option seed (flag)"),
    ],
)
def test_precedence_of_constructor_arguments(argv, layers, name, value, origin):
    cfg = put(argv, *layers)
    assert (cfg.model_arguments[name], cfg.argument_origin[name]) == (value, origin)
    assert set(cfg.model_arguments) | set(cfg.constructor_defaults) == {
        "depth", "img_size", "dice", "act", "seed"
    }  # fmt: skip


def test_an_argument_in_a_recipe_yields_to_the_image_size_of_a_flag():
    recipe = Layer("recipe r", model_arguments={"img_size": 100})
    assert put([], recipe, CARD).model_arguments["img_size"] == 100
    assert put(["--image-size", "96"], recipe, CARD).model_arguments["img_size"] == 96


def test_a_pair_of_sizes_and_the_device():
    def pair(image_size=(224, 224), device="cpu"): ...

    cfg = put([], constructor=pair)
    assert cfg.model_arguments == {"image_size": (512, 512)}  # the device is not known yet
    assert put(["--device", "cuda:1"], constructor=pair).model_arguments["device"] == "cuda:1"


def test_booleans_of_the_constructor_can_be_negated():
    def model(bias=True): ...

    assert put(["--no-bias"], constructor=model).model_arguments == {"bias": False}
    assert put(["--bias", "False"], constructor=model).model_arguments == {"bias": False}


@pytest.mark.parametrize(
    ("argv", "layers", "message"),
    [
        (
            ["--epoch", "3"],
            [],
            'unknown flag --epoch: neither "benco train" nor the model takes it.',
        ),
        (["--epoch", "3"], [], 'Did you mean "--epochs"?'),
        (["--dise", "3"], [], 'Did you mean "--dice"?'),
        (["--no-dice"], [], "unknown flag --no-dice"),
        (
            [],
            [Layer("c", "c.yaml: a.{}", {}, {"dcie": 1})],
            "c.yaml: a.dcie: the model takes no such",
        ),
        ([], [Layer("c", "c.yaml: a.{}", {}, {"dcie": 1})], 'Did you mean "dice"?'),
        ([], [Layer("c", "c.yaml: a.{}", {}, {"dice": "x"})], "c.yaml: a.dice: expected a number"),
        (["--data-path", ""], [], "benco train needs --data-path"),
        (["--select=test", "--test-data-path="], [], "benco train needs --test-data-path"),
    ],
)
def test_mistakes(argv, layers, message):
    with pytest.raises(UserError) as error:
        put(argv, *layers)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_required_arguments_are_named_and_print_config_does_not_insist():
    def model(path, MyModel_size: int, select): ...

    with pytest.raises(UserError) as error:
        put(["--path", "p"], constructor=model)
    assert str(error.value) == (
        "Toy needs --MyModel-size, --select: arguments of its constructor that have no default "
        "(select in the model_arguments of a recipe)"
    )
    assert "not set" in put(["--print-config", "--data-path="], constructor=model).to_text()


def test_fit_must_come_from_somewhere():
    flags = options.parse("train", ["--model", "Toy", *DATA])
    with pytest.raises(UserError, match="--if-resizing, --if-padding"):
        combine("train", build, flags, [], Recipe())


def test_learning_rate_and_interval():
    cfg = put(["--batch-size", "4", "--accum-iter", "2", "--blr", "1e-2"])
    assert cfg.lr is None
    assert absolute_lr(cfg, world=16) == pytest.approx(1e-2 * 4 * 2 * 16 / 256)
    assert absolute_lr(put(["--lr", "0.3"]), world=2) == 0.3
    assert save_interval(put([])) == (None, 600.0)
    assert save_interval(put(["--save-every", "50"])) == (50, None)


def test_the_hash_changes_with_what_changes_results_only():
    base = put([])
    same = ["--output_dir", "x", "--num_workers", "7", "--resume", "auto", "--world_size", "4"]
    assert put(same).hash() == base.hash()
    # A default that is spelt out is the same run.
    assert put(["--dice", "0.0", "--epochs", "200"]).hash() == base.hash()
    others = [put(["--seed", "1"]), put(["--dice", "0.1"]), put(["--select", "last"])]
    assert len({base.hash(), *(cfg.hash() for cfg in others)}) == 4


def test_text_and_dictionary_hold_every_value_with_its_origin():
    cfg = put(["--world_size", "4", "--edge-mask-width", "7"], RECIPE)
    lines = cfg.to_text().splitlines()
    assert re.fullmatch(
        r"edge_mask_width +7 +flag", lines[[x[:9] for x in lines].index("edge_mask")]
    )
    assert any(re.fullmatch(r"lr +0\.1 +recipe r", line) for line in lines)
    assert any(re.fullmatch(r"act +builtins\.len +constructor default", line) for line in lines)
    assert any(line.startswith("--world-size: ") for line in lines)
    content = json.loads(json.dumps(cfg.to_dict()))
    assert content["options"]["edge_mask_width"] == 7
    assert content["origin"]["lr"] == "recipe r"
    assert content["argument_origin"]["dice"] == "recipe r"
    assert set(content["origin"]) == {option.name for option in OPTIONS}
    cfg_test = put([], verb="test")
    assert "epochs" not in cfg_test.to_dict()["options"]


def test_the_typed_attributes_are_the_table():
    kinds = {"str": str, "int": int, "float": float, "bool": bool, "strings": tuple[str, ...]}
    fields = {field.name: field.type for field in dataclasses.fields(config.Config)}
    for option in OPTIONS:
        kind = kinds[option.kind]
        assert fields[option.name] == (kind | None if option.optional else kind), option.name


# --- with the registered models -------------------------------------------------------------------


def test_the_default_recipe_of_sparsevit():
    cfg = resolve("train", ["--model", "SparseViT", "--data-path", "x"])
    assert (cfg.recipe, cfg.origin["recipe"]) == ("sparsevit-default", "card SparseViT")
    assert (cfg.lr, cfg.origin["lr"]) == (2e-4, "recipe sparsevit-default")
    assert (cfg.select, cfg.batch_size, cfg.accum_iter) == ("val", 16, 1)
    assert cfg.model_arguments["pretrained_keep"] == "all"


def test_recipe_none_gives_upstreams_parser_defaults():
    cfg = resolve("train", ["--model", "SparseViT", "--recipe", "none", "--data-path", "x"])
    assert (cfg.lr, cfg.batch_size, cfg.accum_iter, cfg.min_lr) == (None, 1, 16, 0)
    assert cfg.origin["lr"] == cfg.origin["accum_iter"] == "upstream default"
    assert "pretrained_keep" not in cfg.model_arguments


def test_a_recipe_can_name_the_model_and_its_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab_config_model.py").write_text(
        "from __future__ import annotations\n"
        "from IMDLBenCo.registry import MODELS\n"
        "@MODELS.register_module(force=True)\n"
        "def LabConfigModel(width: int | None, scales: list = [1, 2]): ...\n",
        encoding="utf-8",
    )
    recipe = tmp_path / "lab.yaml"
    recipe.write_text(
        "import: [lab_config_model.py]\n"
        "options: {model: LabConfigModel, fit: pad, data_path: d}\n"
        "model_arguments: {width: 3}\n",
        encoding="utf-8",
    )
    cfg = resolve("train", ["--recipe", str(recipe), "--scales", "3,4"])
    assert cfg.model == cfg.name == "LabConfigModel"
    assert cfg.model_arguments == {"width": 3, "scales": [3, 4]}
    assert cfg.recipe == str(recipe)
    # Without the recipe: no card, so upstream's defaults, and the way to fit must be said.
    bare = ["--import", "lab_config_model.py", "--model", "LabConfigModel", "--width", "none"]
    with pytest.raises(UserError, match="no card"):
        resolve("train", [*bare, "--data-path", "d"])
    cfg = resolve("train", [*bare, "--data-path", "d", "--if_padding"])
    assert (cfg.recipe, cfg.origin["recipe"]) == ("none", "LabConfigModel has no card")
    assert cfg.model_arguments["width"] is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "benco train needs --model NAME"),
        (["--modl", "SparseViT"], 'unknown flag --modl, and no --model. Did you mean "--model"?'),
        (["--model", "SparseVit"], 'unknown model "SparseVit". Did you mean "SparseViT"?'),
        (["--model", "SparseViT", "--recipe", "sparsevit-pepo"], "Did you mean"),
        (["--model", "SparseViT", "--s-block3", "1"], 'Did you mean "--s-blocks3"?'),
        (["--model", "MVSSNet", "--recipe", "sparsevit-repo"], "model_arguments.pretrained_keep"),
    ],
)
def test_mistakes_with_registered_models(argv, message):
    with pytest.raises(UserError) as error:
        resolve("train", [*argv, "--data-path", "x", "--fit", "resize"])
    assert message in str(error.value)


def test_a_checkpoint_settles_the_model_it_was_trained_as():
    def recorded(path):
        assert path == "c.safetensors"
        return {
            "options": {"model": "SparseViT", "image_size": 256, "lr": 1},
            "model_arguments": {"s_blocks4": [1], "pretrained_path": "gone.pth"},
        }

    argv = ["--checkpoint", "c.safetensors", "--test-data-path", "x"]
    cfg = resolve("test", argv, recorded=recorded)
    assert (cfg.model, cfg.origin["model"]) == ("SparseViT", "checkpoint")
    assert (cfg.image_size, cfg.model_arguments["img_size"]) == (256, 256)
    assert list(cfg.model_arguments["s_blocks4"]) == [1]
    assert "pretrained_path" not in cfg.model_arguments  # the checkpoint supersedes it
    argv += ["--image-size", "512", "--recipe", "sparsevit-repo"]
    cfg = resolve("test", argv, recorded=recorded)
    assert (cfg.image_size, cfg.origin["image_size"]) == (512, "flag")


def test_a_record_of_a_python_object_does_not_count():
    """A record holds the text of upstream's norm class, which no constructor takes."""

    def recorded(path):
        return {
            "options": {"model": "SparseViT_upstream"},
            "model_arguments": {"norm_layer": "functools.partial(...)", "head_dim": 64},
        }

    argv = ["--checkpoint", "c.safetensors", "--test-data-path", "x"]
    cfg = resolve("test", argv, recorded=recorded)
    assert cfg.model_arguments["head_dim"] == 64
    assert "norm_layer" not in cfg.model_arguments


@pytest.mark.parametrize("recipe", ["default", "repo", "paper", "benco", "demo"])
def test_every_shipped_recipe_fits_its_model(recipe):
    name = "SparseViT_tiny" if recipe == "demo" else "SparseViT"
    cfg = resolve("train", ["--model", name, "--recipe", f"sparsevit-{recipe}", *DATA])
    assert cfg.recipe_file.effective_batch in (16, 64)
    assert not any(origin == "flag" for origin in cfg.argument_origin.values())


@pytest.fixture(scope="module")
def run_scripts(tmp_path_factory):
    """The run scripts that `benco init model_zoo` writes."""
    from IMDLBenCo.cli_funcs import cli_init

    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.chdir(folder)
        cli_init(None, subcommand="model_zoo")
    return folder / "runs"


def arguments_of(script: Path) -> tuple[str, list[str]]:
    """Return the Python file that a run script starts, and the words after it."""
    words = shlex.split(script.read_text(encoding="utf-8").replace("\\\n", " "), comments=True)
    start = next(i for i, word in enumerate(words) if word.endswith(".py"))
    rest = words[start + 1 :]
    end = next((i for i, word in enumerate(rest) if re.match(r"\d>", word)), len(rest))
    return words[start], rest[:end]


def test_upstreams_sparsevit_script_carries_over(run_scripts):
    file, argv = arguments_of(run_scripts / "demo_train_sparse_vit.sh")
    assert file == "train.py"
    overrides = ["--batch_size", "2", "--image_size", "128", "--epochs", "1"]
    cfg = resolve("train", [*argv, *overrides, "--data_path", "d", "--pretrained_path", ""])
    assert (cfg.model, cfg.batch_size, cfg.epochs, cfg.fit) == ("SparseViT", 2, 1, "resize")
    assert (cfg.lr, cfg.min_lr, cfg.accum_iter, cfg.num_workers) == (2e-4, 0, 1, 12)
    assert cfg.find_unused_parameters
    assert (cfg.model_arguments["img_size"], cfg.model_arguments["pretrained_path"]) == (128, "")
    assert [flag for flag, _ in cfg.ignored] == ["--world-size"]


def test_upstreams_other_scripts_are_understood(run_scripts):
    scripts = sorted(run_scripts.glob("demo_*.sh"))
    assert len(scripts) > 30
    models = set()
    for script in scripts:
        file, argv = arguments_of(script)
        if "IML-ViT" in argv:  # a misspelt name in upstream's script
            argv[argv.index("IML-ViT")] = "IML_ViT"
        cfg = resolve("train" if file.endswith("train.py") else "test", argv)
        assert [flag for flag, _ in cfg.ignored] == ["--world-size"], script.name
        models.add(cfg.model)
    assert {"MVSSNet", "Trufor", "Cat_Net", "Mesorch", "segformer", "bayar_resnet"} <= models


@pytest.mark.parametrize("model", ["SparseViT", "SparseViT_small", "SparseViT_upstream"])
def test_every_weights_argument_of_a_card_may_be_none(model):
    argv = ["--model", model, "--weights", "none", "--data-path", "d", "--test-data-path", "t"]
    assert resolve("train", argv).model_arguments["pretrained_path"] is None
