"""Rows that a protocol names itself: variants of a model, as in an ablation."""

import pytest

from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.augment import describe
from sparsevit_plugin.harness.recipes import load_recipe
from sparsevit_plugin.model.sparsevit import SparseViT_tiny
from sparsevit_plugin.protocol.request import row_config
from sparsevit_plugin.protocol.schema import load_protocol, protocol_names
from sparsevit_plugin.results.store import load
from tests.protocol.test_plan import run_all

ROWS = """\
seeds: [3, 4]
rows:
  - {label: narrow, model: Plain}
  - {label: wide one, model: Plain, arguments: {width: 7}}
  - {label: slow, model: Plain, options: {lr: 1.0e-5}}
"""

ABLATIONS = [name for name in protocol_names() if name.startswith("ablation-")]


@pytest.fixture
def ablation(lab):
    file = lab.root / "registry/protocols/lab.yaml"
    file.write_text(file.read_text() + ROWS)
    return lab


def test_its_own_rows_are_what_a_protocol_runs(ablation):
    plan = ablation.plan(models=())
    assert [job.label for job in plan.jobs] == ["narrow", "wide one", "slow"]
    narrow, wide, slow = (job.config for job in plan.jobs)
    assert wide.model_arguments["width"] == 7
    assert "width" not in narrow.model_arguments
    assert (narrow.lr, slow.lr) == (1e-3, 1e-5)
    assert len({job.train.key for job in plan.jobs}) == 3


@pytest.mark.parametrize(
    ("models", "labels"),
    [
        (("all",), ["narrow", "wide one", "slow"]),
        (("wide one",), ["wide one"]),
        (("s*", "narrow"), ["slow", "narrow"]),
        (("narrow", "Plain"), ["narrow", "Plain"]),
    ],
)
def test_rows_are_chosen_by_label_and_other_models_may_stand_beside_them(ablation, models, labels):
    assert [job.label for job in ablation.plan(models=models).jobs] == labels


def test_rows_are_trained_tested_and_resumed_by_their_labels(ablation):
    run_all(ablation, ablation.plan(models=("narrow", "wide one"), seeds=(3,)))
    cells = load(ablation.runs / "lab").cells
    assert {cell.manifest["model"] for cell in cells} == {"narrow", "wide one"}
    widths = {cell.manifest["model"]: cell.manifest["model_arguments"] for cell in cells}
    assert widths["wide one"]["width"] == 7
    again = ablation.plan(models=("wide one",), seeds=(3,))
    record = ablation.folder.training_record(again.jobs[0].train.folder)
    assert record["label"] == "wide one"


def test_the_command_takes_rows_and_seeds_from_the_protocol(ablation, capsys):
    words = [word for word in ablation.arguments() if word not in ("--models", "Plain")]
    assert main(["protocol", "run", *words, "--dry-run"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in shown if line and line[0] in ("narrow", "wide", "slow")]
    assert [line[0] for line in rows] == ["narrow"] * 2 + ["wide"] * 2 + ["slow"] * 2


def test_a_protocol_without_rows_needs_models(lab):
    with pytest.raises(UserError, match="protocol lab has no rows of its own"):
        lab.plan(models=())


def test_a_misspelt_row_gets_the_next_one(ablation):
    with pytest.raises(UserError, match=r'no model card "narow"\. Did you mean "narrow"'):
        ablation.plan(models=("narow",))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rows: [{label: a, model: Plain}, {label: a, model: Plain}]", "rows names a twice"),
        ("rows: [{label: 'a,b', model: Plain}]", "holds no comma"),
        ("rows: [{label: all, model: Plain}]", 'not "all"'),
        ("rows: [{label: a, model: Plain, options: {seed: 1}}]", "seed is settled"),
        ("seeds: []", "seeds"),
    ],
)
def test_mistakes_in_rows_are_named(lab, text, wanted):
    file = lab.root / "registry/protocols/lab.yaml"
    file.write_text(f"{file.read_text()}{text}\n")
    with pytest.raises(UserError, match=wanted):
        lab.plan()


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_row_of_a_shipped_ablation_can_be_built(name, lab):
    protocol = load_protocol(name)
    recipe = load_recipe(protocol.recipe)
    for spec in protocol.rows:
        assert load_model_card(spec.model) is not None
        SparseViT_tiny(**{**recipe.model_arguments, **spec.arguments})
        if "augmentation" in spec.options:
            assert describe(spec.options["augmentation"])["transforms"]
    assert len(protocol.seeds) >= 3


def test_rows_of_an_ablation_differ_in_what_is_varied_alone(lab):
    request = lab.request(protocol="ablation-sparsity", models=(), imports=(), data_root="")
    from sparsevit_plugin.protocol.request import read_rows

    protocol = load_protocol("ablation-sparsity")
    arguments = [
        row_config(request, protocol, row, 0).model_arguments
        for row in read_rows(request, protocol)
    ]
    varied = {"s_blocks3", "s_blocks4"}
    common = [{k: v for k, v in found.items() if k not in varied} for found in arguments]
    assert all(found == common[0] for found in common)
    schedules = {(str(a["s_blocks3"]), str(a["s_blocks4"])) for a in arguments}
    assert len(schedules) == len(protocol.rows) == 6
