"""What a plan makes of a request, and by what a finished cell is found again."""

import os
import shutil

import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.protocol.plan import Prints, state_of
from sparsevit_plugin.protocol.worker import order_of, run_order, write_order


def run_all(lab, plan, **more):
    """Run a plan's jobs in this process."""
    for job in plan.jobs:
        path = lab.folder.job_file(job.name)
        write_order(path, order_of(job, plan.request, lab.folder, **more))
        assert run_order(path) == 0


def states(lab, plan):
    finished = lab.folder.finished_tests()
    return [state_of(job.train, job.tests, lab.folder, finished) for job in plan.jobs]


def missing(lab, **more):
    """Return how many trainings and how many test cells a request would still run."""
    found = states(lab, lab.plan(**more))
    return sum(s.must_train for s in found), sum(len(s.missing) for s in found)


def test_a_plan_has_a_cell_for_every_model_seed_and_set(lab):
    plan = lab.plan(models=("Plain", "Broken"), seeds=(0, 1))
    assert [(job.label, job.seed) for job in plan.jobs] == [
        ("Plain", 0),
        ("Plain", 1),
        ("Broken", 0),
        ("Broken", 1),
    ]
    assert [(cell.set, cell.images) for cell in plan.jobs[0].tests] == [("First", 3), ("Second", 3)]
    assert plan.jobs[0].train.images == 6
    keys = [cell.key for job in plan.jobs for cell in (job.train, *job.tests)]
    assert len(set(keys)) == len(keys)
    assert plan.jobs[0].series == plan.jobs[1].series != plan.jobs[2].series


def test_what_is_done_is_not_planned_again(lab):
    assert missing(lab) == (1, 2)
    run_all(lab, lab.plan())
    assert missing(lab) == (0, 0)
    assert missing(lab, seeds=(0, 1)) == (1, 2)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"settings": {"lr": "2e-3"}}, (1, 2)),
        ({"settings": {"epochs": "2"}}, (1, 2)),
        ({"settings": {"limit_images": "2"}}, (1, 2)),
        ({"settings": {"evaluators": "benco"}}, (1, 2)),
        ({"processes": 2}, (1, 2)),
        ({"precision": "bf16-mixed"}, (1, 2)),
        ({"settings": {"num_workers": "2"}}, (0, 0)),
        ({"settings": {"test_batch_size": "1"}}, (0, 0)),
        ({"settings": {"save_every": "5"}}, (0, 0)),
        ({"precision": "32"}, (0, 0)),  # what "auto" is on a CPU
    ],
)
def test_what_changes_results_changes_the_key_and_nothing_else_does(lab, more, wanted):
    run_all(lab, lab.plan())
    assert missing(lab, **more) == wanted


def test_a_component_of_a_new_version_is_run_again(lab, monkeypatch):
    from sparsevit_plugin.protocol import keys

    run_all(lab, lab.plan())
    monkeypatch.setitem(keys.COMPONENTS, "evaluation", keys.COMPONENTS["evaluation"] + 1)
    train, test = missing(lab)
    assert (train, test) == (1, 2)


def test_a_test_set_that_changed_is_tested_again_and_the_old_rows_stay(lab):
    run_all(lab, lab.plan())
    before = list((lab.folder.path / "results" / "rows").iterdir())
    (lab.root / "data/First/Tp/First-1-2.jpg").unlink()
    (lab.root / "data/First/Gt/First-1-2.png").unlink()
    assert missing(lab) == (0, 1)
    run_all(lab, lab.plan())
    after = list((lab.folder.path / "results" / "rows").iterdir())
    assert set(before) < set(after)
    assert missing(lab) == (0, 0)


def touch_all(folder):
    for path in folder.rglob("*.*"):
        os.utime(path, ns=(1, 1))


def test_a_copy_with_other_times_is_the_same_data_when_contents_are_compared(lab):
    run_all(lab, lab.plan(verify=True))
    touch_all(lab.root / "data")
    assert missing(lab) == (1, 2)
    assert missing(lab, verify=True) == (0, 0)


def test_a_file_changed_in_place_is_seen_when_contents_are_compared(lab):
    run_all(lab, lab.plan(verify=True))
    image = lab.root / "data/First/Tp/First-1-0.jpg"
    status = image.stat()
    content = bytearray(image.read_bytes())
    content[-3] ^= 1
    image.write_bytes(content)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert missing(lab) == (0, 0)
    assert missing(lab, verify=True) == (0, 1)


def test_without_weights_a_new_test_cell_needs_a_new_training(lab):
    run_all(lab, lab.plan(), keep="none")
    assert missing(lab) == (0, 0)
    shutil.copy(lab.root / "data/First/Tp/First-1-0.jpg", lab.root / "data/First/Tp/x.jpg")
    shutil.copy(lab.root / "data/First/Gt/First-1-0.png", lab.root / "data/First/Gt/x.png")
    assert missing(lab) == (1, 1)
    run_all(lab, lab.plan(), keep="best")
    assert missing(lab) == (0, 0)


def test_ready_checkpoints_have_test_cells_only(lab):
    run_all(lab, lab.plan())
    best = next(lab.folder.path.glob("train/*/best.safetensors"))
    ready = lab.root / "official.safetensors"
    shutil.copy(best, ready)
    plan = lab.plan(models=(f"Plain@{ready}",), seeds=(0, 1))
    (job,) = plan.jobs
    assert job.label == "Plain@official"
    assert job.train is None
    assert missing(lab, models=(f"Plain@{ready}",)) == (0, 2)
    run_all(lab, plan)
    manifest = next(
        note["manifest"]
        for note in lab.folder.store.all_notes()
        if note["manifest"]["model"] == "Plain@official"
    )
    assert manifest["checkpoint"]["file"] == "official.safetensors"
    assert len(manifest["checkpoint"]["sha256"]) == 64
    assert manifest["training_data"] == "unknown"


def test_the_prints_of_data_prefer_contents():
    data = Prints("files", "contents")
    assert data.same({"fingerprint": "other", "contents": "contents"})
    assert not data.same({"fingerprint": "files", "contents": "other"})
    assert data.same({"fingerprint": "files", "contents": ""})
    assert Prints("files").same({"fingerprint": "files", "contents": "contents"})


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"models": ("Plian",)}, r'no model card "Plian"\. Did you mean "Plain"\?'),
        ({"models": ("Plain@lost.pth",)}, r"lost\.pth is no file"),
        ({"models": ("*nothing*",)}, r"no card has such a name"),
        ({"recipe": "sparsevit"}, r'Plain: unknown recipe "sparsevit"'),
        ({"data_root": "nowhere"}, r"--data-root nowhere: no such folder"),
        ({"weights": "card"}, r"Plain: Plain needs lab\.pth: no --weights-root was given"),
        ({"settings": {"lr": "fast"}}, r"Plain: --lr: expected a number, got 'fast'"),
    ],
)
def test_what_cannot_be_run_is_one_line_before_anything_starts(lab, more, wanted):
    weights = "weights:\n  - {argument: weights_path, name: lab.pth, where: here}\n"
    lab.write_card("Plain", weights)
    with pytest.raises(UserError, match=wanted) as caught:
        lab.plan(**more)
    assert "\n" not in str(caught.value)
    assert not lab.folder.path.exists()


def test_a_wrong_card_is_named_by_line(lab):
    lab.write_card("Plain", "fitt: pad\n")
    with pytest.raises(UserError, match=r"Plain\.yaml:8: fitt: extra inputs"):
        lab.plan()


def test_a_set_without_a_usable_image_is_refused(lab):
    for path in (lab.root / "data/First/Tp").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"First/Tp: holds no images"):
        lab.plan()


def test_one_recipe_for_all_models_is_a_row_group_of_its_own(lab):
    own = lab.plan().jobs[0]
    common = lab.plan(recipe="sparsevit-default").jobs[0]
    assert (own.group, common.group) == ("", "recipe sparsevit-default")
    assert own.series != common.series
    assert common.config.lr == 2e-4
    assert common.config.image_size == 16  # what a model is fed stays the card's
    assert ("--pretrained-keep", "the model takes no such argument") in [
        (flag, reason.split(" (")[0]) for flag, reason in common.config.ignored
    ]


def test_smallest_sizes_and_upstreams_ways_come_from_the_card(lab):
    more = (
        "smallest: {image_size: 8, arguments: {width: 2}}\n"
        "mended: [{argument: width, mended: 3, upstream: 5, defect: none}]\n"
    )
    lab.write_card("Plain", more)
    tiny = lab.plan(tiny=True).jobs[0]
    assert (tiny.config.image_size, tiny.config.model_arguments["width"]) == (8, 2)
    assert (tiny.config.epochs, tiny.train.images) == (1, 4)
    assert "not a quality claim" in tiny.group
    upstream = lab.plan(defects="upstream").jobs[0]
    assert upstream.config.model_arguments["width"] == 5
    assert "defects included" in upstream.group
