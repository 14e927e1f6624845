"""What a plan makes of a request, and by what a finished cell is found again."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.train import prepare_training
from sparsevit_plugin.protocol.plan import Prints, state_of, unverified
from sparsevit_plugin.protocol.worker import order_of, run_order, write_order
from sparsevit_plugin.results.store import load


def run_all(lab, plan, **more):
    """Run a plan's jobs in this process."""
    for job in plan.jobs:
        assert run_one(lab, plan, job, **more) == 0


def run_one(lab, plan, job, **more):
    path = lab.folder.job_file(job.name)
    write_order(path, order_of(job, plan.request, lab.folder, **more))
    return run_order(path)


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


def test_a_copy_of_the_data_and_another_device_make_the_same_series(lab, monkeypatch):
    before = lab.plan(device="cpu", settings={"precision": "32"}).jobs[0]
    for path in (lab.root / "data").rglob("*.*"):
        os.utime(path, (1, 1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    elsewhere = lab.plan(device="cuda", settings={"precision": "32"}).jobs[0]
    assert elsewhere.series == before.series
    assert elsewhere.train.identity != before.train.identity
    assert elsewhere.row != before.row
    by_itself = lab.plan(device="cuda").jobs[0]  # in half precision
    assert by_itself.series not in (before.series, lab.plan(device="cpu").jobs[0].series)


def test_data_of_another_size_makes_another_series(lab):
    before = lab.plan().jobs[0]
    photo = next((lab.root / "data" / "Training" / "Tp").iterdir())
    photo.write_bytes(photo.read_bytes() + b"x")
    assert lab.plan().jobs[0].series != before.series


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
        ({"settings": {"evaluators": "benco"}}, (0, 2)),  # nothing was judged in training
        ({"settings": {"select": "val"}}, (1, 2)),
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
    plan = lab.plan(models=(f"Plain@{ready}",), seeds=(0, 1), trained_on="CASIAv2")
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
    assert manifest["training_data"] == "CASIAv2"
    assert missing(lab, models=(f"Plain@{ready}",), seeds=(7,)) == (
        0,
        0,
    )  # seeds mean nothing to it


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
    other = lab.plan(models=("Broken",), defects="upstream").jobs[0]
    assert other.group == ""  # it has no defect to be left in


def test_draws_are_part_of_a_trainings_key(lab):
    protocol = lab.root / "registry/protocols/lab.yaml"
    text = protocol.read_text()
    keys = set()
    for draw in ("", "  draw: 4\n", "  draw: 8\n"):
        protocol.write_text(text.replace("train:\n", f"train:\n{draw}"))
        keys.add(lab.plan().jobs[0].train.key)
    assert len(keys) == 3


def test_a_repeated_training_is_tested_again(lab):
    run_all(lab, lab.plan())
    (job,) = lab.plan().jobs
    before = {path: path.read_bytes() for path in (lab.folder.path / "results/rows").iterdir()}
    shutil.rmtree(lab.folder.train_folder(job.train.folder))
    assert missing(lab) == (1, 2)
    lab.models.write_text(lab.models.read_text().replace("logits = self", "logits = 0.5 + self"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "sparsevit_plugin",
            "protocol",
            "run",
            *lab.arguments("--seeds", "0"),
        ],
        check=True,
        capture_output=True,
    )
    after = {path: path.read_bytes() for path in (lab.folder.path / "results/rows").iterdir()}
    assert before.keys() == after.keys()
    assert all(before[path] != after[path] for path in before)
    assert missing(lab) == (0, 0)


def test_weights_of_a_training_that_is_being_repeated_are_not_taken_for_finished(lab):
    run_all(lab, lab.plan())
    (job,) = lab.plan().jobs
    lab.folder.forget_training(job.train.folder)  # what a repeated training does first
    (state,) = states(lab, lab.plan())
    assert (state.trained, state.must_train, len(state.missing)) == (False, True, 2)


def test_a_limited_run_hides_no_full_one(lab):
    run_all(lab, lab.plan())
    run_all(lab, lab.plan(settings={"limit_images": "2"}))
    assert missing(lab) == (0, 0)
    results = load(lab.runs / "lab")
    rows = results.table("pixel_f1", allow_mixed=True).rows
    assert [row.group for row in rows] == ["", "2 images of every set at most"]
    with pytest.raises(UserError, match="--allow-mixed"):
        results.table("pixel_f1")


def test_checkpoints_of_one_name_are_told_apart_by_their_folders(lab):
    run_all(lab, lab.plan())
    best = next(lab.folder.path.glob("train/*/best.safetensors"))
    words = []
    for folder in ("a", "b"):
        (lab.root / folder).mkdir()
        shutil.copy(best, lab.root / folder / "best.safetensors")
        words.append(f"Plain@{lab.root / folder / 'best.safetensors'}")
    plan = lab.plan(models=tuple(words))
    assert [job.label for job in plan.jobs] == ["Plain@a/best", "Plain@b/best"]
    run_all(lab, plan)
    assert missing(lab, models=tuple(words)) == (0, 0)


def test_what_changed_since_it_was_planned_is_not_run(lab):
    plan = lab.plan()
    lab.write_card("Plain", "arguments: {width: 5}\n")
    with pytest.raises(UserError, match="have changed since it was planned"):
        run_one(lab, plan, plan.jobs[0])


def test_selection_on_the_test_sets_needs_no_more_than_asking(lab):
    job = lab.plan(settings={"select": "test"}).jobs[0]
    assert job.config.select == "test"
    assert job.config.test_data_path == "protocol:lab"


@pytest.mark.parametrize("name", ["seed", "output_dir", "device"])
def test_a_protocol_settles_no_option_of_the_command(lab, name):
    protocol = lab.root / "registry/protocols/lab.yaml"
    protocol.write_text(f"{protocol.read_text()}options: {{{name}: 1}}\n")
    with pytest.raises(UserError, match=f"options: {name} is settled by the command"):
        lab.plan()


def test_a_protocols_size_gives_way_to_that_of_a_ready_checkpoint_and_of_tiny(lab):
    run_all(lab, lab.plan())
    best = next(lab.folder.path.glob("train/*/best.safetensors"))
    usual = lab.plan().jobs[0].config.image_size
    protocol = lab.root / "registry/protocols/lab.yaml"
    protocol.write_text(f"{protocol.read_text()}options: {{image_size: {2 * usual}}}\n")
    assert lab.plan().jobs[0].config.image_size == 2 * usual
    assert lab.plan(models=(f"Plain@{best}",)).jobs[0].config.image_size == usual
    assert lab.plan(tiny=True).jobs[0].config.image_size == usual


def test_a_training_goes_on_although_its_test_batch_differs(lab):
    plan = lab.plan()
    (job,) = plan.jobs
    folder = lab.folder.train_folder(job.train.folder)
    trainer = prepare_training(
        replace(job.config, output_dir=str(folder), log_dir=str(folder), resume="auto"),
        identity=job.train.identity,
    )
    trainer._save()
    run_all(lab, lab.plan(settings={"test_batch_size": "1"}))
    assert missing(lab) == (0, 0)


def test_unverified_cells_are_counted(lab):
    run_all(lab, lab.plan())
    assert unverified(lab.plan(verify=True), lab.folder) == 2
