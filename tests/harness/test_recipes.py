"""Recipes: the shipped ones say what they claim; a mistake in one names the file and the key."""

import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.recipes import load_recipe, shipped_recipes


def write(folder, text, name="mine.yaml"):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_and_state_where_their_numbers_come_from(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    if name != "none":
        assert recipe.title
        assert recipe.sources
        assert recipe.effective_batch


def test_the_default_is_the_repositorys_optimiser_with_all_weights_and_a_hold_out():
    default, repo = load_recipe("sparsevit-default"), load_recipe("sparsevit-repo")
    expected = {"lr": 2e-4, "min_lr": 5e-7, "weight_decay": 0.05, "warmup_epochs": 4, "epochs": 200}
    for recipe in (default, repo):
        assert expected.items() <= recipe.options.items()
        assert recipe.options["batch_size"] == recipe.effective_batch == 16
    differing = {k for k in default.options if default.options[k] != repo.options[k]}
    assert differing == {"select"}
    assert (default.options["select"], repo.options["select"]) == ("val", "test")
    assert default.model_arguments == {"pretrained_keep": "all"}
    assert repo.model_arguments == {"pretrained_keep": "upstream"}


def test_a_recipe_by_path(tmp_path):
    (tmp_path / "model.py").touch()
    (tmp_path / "list.yaml").touch()
    text = """
        title: ours
        import: [model.py, package.module]
        augmentation: list.yaml
        options: {lr: 2e-4, fit: pad, precision: 32, edge_mask_width: null}
        model_arguments: {depth: [1, 2]}
    """
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.name == "mine"
    assert recipe.imports == (str(tmp_path / "model.py"), "package.module")
    assert recipe.options == {
        "lr": 2e-4,
        "fit": "pad",
        "precision": "32",
        "edge_mask_width": None,
        "augmentation": str(tmp_path / "list.yaml"),
    }
    assert recipe.model_arguments == {"depth": [1, 2]}
    assert len(recipe.to_dict()["sha256"]) == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optoins: {}", 'unknown key "optoins". Did you mean "options"?'),
        ("options: {batchsize: 3}", 'unknown option "batchsize" under options. Did you mean'),
        ("options: {epochs: many}", "options.epochs: expected a whole number, got 'many'"),
        ("options: {epochs: true}", "options.epochs: expected a whole number"),
        ("options: {lr: [1]}", "options.lr: expected a number"),
        ("options: {select: vall}", 'Did you mean "val"?'),
        ("options: {data_path: [a]}", "options.data_path: expected text"),
        (
            "options: {recipe: x}",
            "options.recipe cannot be set in a recipe; it is the flag --recipe",
        ),
        ("options: [1]", "options: expected names and values"),
        ("options: {epochs: 1, epochs: 2}", '"epochs" is given twice'),
        ("augmentation: a\noptions: {augmentation: b}", "augmentation is given twice"),
        ("sources: 3", "sources: expected a list of texts"),
        ("effective_batch: 1.5", "effective_batch: expected a whole number"),
        ("title: [a", "line"),
        ("- a", "expected names and values, got list"),
        ("title: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert str(error.value).startswith(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_names_are_answered_with_a_suggestion_and_the_list():
    with pytest.raises(UserError, match=r'Did you mean "sparsevit-default"\?.*sparsevit-repo') as e:
        load_recipe("sparsevit-defalt")
    assert "none" in str(e.value)
    with pytest.raises(UserError, match="no such file"):
        load_recipe("nowhere/mine.yaml")
