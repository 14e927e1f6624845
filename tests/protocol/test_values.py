"""Values of recipes and protocols: their sources, and how two cards differ."""

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparsevit_plugin.cards.provenance import UNSOURCED, problem, sources
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.recipes import NO_RECIPE, load_recipe, shipped_recipes
from sparsevit_plugin.protocol.schema import load_protocol, protocol_names
from sparsevit_plugin.protocol.values import differences, load_card, values_of

RECIPES = [name for name in shipped_recipes() if name != NO_RECIPE]


def script_flags(name: str) -> dict[str, str]:
    """Return the flags of one of IMDLBenCo's run scripts; those without a value are `true`."""
    package = find_spec("IMDLBenCo")
    assert package is not None
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "statics" / "model_zoo"
    text = (folder / name).read_text().replace("\\\n", " ")
    words = shlex.split(re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE), comments=True)
    flags: dict[str, str] = {}
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            key, joined, value = word[2:].partition("=")
            flags[key] = value if joined else "true" if after.startswith("--") else after
    return flags


def script_value(flags: dict[str, str], name: str) -> str | None:
    if name == "fit":
        chosen = {"if_resizing": "resize", "if_padding": "pad"}
        return next((fit for flag, fit in chosen.items() if flag in flags), None)
    if name == "effective_batch":
        sizes = (flags[key] for key in ("nproc_per_node", "batch_size", "accum_iter"))
        first, second, third = map(int, sizes)
        return str(first * second * third)
    return flags.get(name)


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_run_script_is_cited_for_stands_in_it(name):
    recipe = load_recipe(name)
    values = recipe.values()
    for source, names in recipe.found_in.items():
        if not source.startswith("runs/"):
            continue
        flags = script_flags(source)
        for one in names:
            found = script_value(flags, one)
            assert found is not None, f"{name}: {one} is not in {source}"
            wanted = values[one]
            same = (
                float(found) == float(wanted)
                if isinstance(wanted, int | float) and not isinstance(wanted, bool)
                else found.lower() == str(wanted).lower()
            )
            assert same, f"{name}: {one} is {wanted}, {source} has {found}"


def test_some_recipe_cites_a_run_script():
    cited = [source for name in RECIPES for source in load_recipe(name).found_in]
    assert sum(source.startswith("runs/") for source in cited) >= 10


@pytest.mark.parametrize("name", [*RECIPES, *protocol_names()])
def test_every_value_that_ships_has_a_source(name):
    unsourced = [key for key, value in values_of(load_card(name)).items()
                 if value.source == UNSOURCED]  # fmt: skip
    assert unsourced == []


def test_the_rest_and_what_nobody_names():
    assert sources({"a": ["x"], "b": ["*"]}, ["x", "y"]) == {"x": "a", "y": "b"}
    assert sources({"a": ["x"]}, ["x", "y"]) == {"x": "a", "y": UNSOURCED}
    assert problem({"a": ["x"], "b": ["*"]}, ["x", "y"]) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("found_in: {paper: [lrr]}", r'"paper" names lrr, which is not set. Did you mean "lr"'),
        ("found_in: {paper: [lr], code: [lr]}", "lr is named twice"),
        ("found_in: {paper: 3}", "expected a list of texts"),
        ("unknown: {a: b}", "expected a list of texts"),
    ],
)
def test_a_wrong_citation_of_a_recipe_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\n{text}\noptions: {{lr: 1.0e-4}}\n")
    with pytest.raises(UserError, match=message):
        load_recipe(str(path))


def test_a_wrong_citation_of_a_protocol_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("{name: mine, title: t, test: {sets: [{set: x}]}, found_in: {a: [test y]}}")
    with pytest.raises(UserError, match="test y, which is not set"):
        load_protocol(str(path))


def test_an_unsourced_value_is_accepted_and_shown(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\noptions: {lr: 1.0e-4, epochs: 3}\nfound_in: {us: [lr]}\n")
    assert main(["protocol", "show", str(path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"lr 0\.0001 +\(us\)", text)
    assert "unsourced: epochs" in text


def test_recipes_differ_value_by_value_with_their_sources(capsys):
    assert main(["protocol", "diff", "sparsevit-paper", "sparsevit-repo"]) == 0
    text = capsys.readouterr().out
    assert "optimizer\n  A  adam  (the paper)\n  B  adamw  (train.sh)\n" in text
    assert "test_period\n  A  not set (default 4)\n" in text
    assert "image_size" not in text
    assert "not known of sparsevit-paper: how the checkpoint was chosen" in text


def test_protocols_differ_in_sets_and_draws(capsys):
    assert main(["protocol", "diff", "cat-benco", "cat-original", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert (found["train draw"]["first"]["text"], found["train draw"]["second"]["text"]) == (
        "1840",
        "1869",
    )
    assert found["train CASIAv2 only"]["first"] is None
    assert found["train CASIAv2 only"]["second"]["text"] == "authentic only"
    assert "train CASIAv2" not in found


def test_a_card_differs_from_itself_in_nothing(capsys):
    assert differences(load_card("mvss"), load_card("mvss")) == []
    assert main(["protocol", "diff", "mvss", "mvss"]) == 0
    assert "no value differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mvss", "sparsevit-repo"], "mvss is a protocol and sparsevit-repo is a recipe"),
        (["mvs", "mvss"], 'unknown protocol or recipe "mvs". Did you mean "mvss"'),
        (["lost.yaml", "mvss"], "lost.yaml: no such file"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words, message, capsys):
    assert main(["protocol", "diff", *words]) == 2
    assert message in capsys.readouterr().err


def test_show_and_list_know_recipes(capsys):
    assert main(["protocol", "show", "sparsevit-repo", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["values"]["lr"] == 2e-4
    assert "lr" in shown["found_in"]["train.sh"]
    assert main(["protocol", "list"]) == 0
    text = capsys.readouterr().out
    assert text.index("protocols") < text.index("mvss") < text.index("recipes")
    assert "sparsevit-paper" in text
