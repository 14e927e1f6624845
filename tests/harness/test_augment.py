"""Augmentation lists: upstream's list is upstream's, and nothing but transforms can be named."""

import ast
import importlib.util
import json
from pathlib import Path

import albumentations
import numpy as np
import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.augment import build_transform, describe, register_transform


def write(folder, text):
    file = folder / "list.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def upstream_list() -> list[tuple[str, dict]]:
    """Read the training list from upstream's script."""
    spec = importlib.util.find_spec("IMDLBenCo")
    assert spec is not None
    assert spec.origin is not None
    script = Path(spec.origin).parent / "training_scripts" / "train.py"
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "train_transform":
            calls = node.value.args[0].elts
            return [
                (
                    getattr(call.func, "attr", getattr(call.func, "id", "")),
                    {k.arg: ast.literal_eval(k.value) for k in call.keywords},
                )
                for call in calls
            ]
    raise AssertionError("upstream's script has no train_transform")


def test_benco_is_the_list_of_upstreams_script():
    ours = []
    for entry in describe("benco")["transforms"]:
        ((name, settings),) = entry.items()
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        ours.append((name.removeprefix("IMDLBenCo."), settings))
    assert ours == upstream_list()


@pytest.mark.parametrize("name", ["benco", "demo"])
def test_shipped_lists_transform_image_and_mask_together(name):
    image = np.zeros((64, 48, 3), np.uint8)
    image[:8, :8] = 255
    mask = (image[..., 0] > 0).astype(np.uint8)
    result = build_transform(name)(image=image, mask=mask)
    assert result["image"].shape[:2] == result["mask"].shape
    json.dumps(describe(name))


def test_none_is_no_transform():
    assert build_transform("none") is None
    assert describe("none")["transforms"] == []


def test_compositions_nest(tmp_path):
    text = "transforms: [{OneOf: {transforms: [HorizontalFlip, {VerticalFlip: {p: 1}}], p: 0.3}}]"
    (one,) = build_transform(write(tmp_path, text)).transforms
    assert isinstance(one, albumentations.OneOf)
    assert [type(t).__name__ for t in one] == ["HorizontalFlip", "VerticalFlip"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("transforms: [HorizontalFlop]", 'transforms[0]: unknown transform "HorizontalFlop". Did'),
        ("transforms: [os.system]", 'unknown transform "os.system"'),
        ("transforms: [BasicTransform]", "unknown transform"),
        ("transforms: [HorizontalFlip, {GaussianBlur: {blur: 3}}]", "transforms[1] GaussianBlur:"),
        ("transforms: [{HorizontalFlip: 3}]", "expected names and values, got 3"),
        ("transforms: [{A: {}, B: {}}]", "expected one transform"),
        ("transforms: {A: 1}", 'it needs "transforms:"'),
        ("transforms: [{OneOf: {p: 1}}]", "transforms[0] OneOf: expected a list of transforms"),
        ("transform: []", 'unknown key "transform". Did you mean "transforms"?'),
    ],
)
def test_mistakes_name_the_file_and_the_entry(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        build_transform(path)
    assert str(error.value).startswith(path)
    assert message in str(error.value)


def test_unknown_lists_are_answered_with_a_suggestion():
    with pytest.raises(UserError, match=r'unknown augmentation "bemco".*"benco"'):
        build_transform("bemco")


def test_a_lab_can_register_its_own_transform(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsevit_plugin.harness.augment._REGISTERED", {})

    @register_transform
    class Invert(albumentations.ImageOnlyTransform):
        def apply(self, image, **params):
            return 255 - image

    transform = build_transform(write(tmp_path, "transforms: [{Invert: {p: 1}}]"))
    assert transform(image=np.zeros((4, 4, 3), np.uint8))["image"].min() == 255
    with pytest.raises(ValueError, match="exists already"):
        register_transform(type("Rotate", (albumentations.ImageOnlyTransform,), {}))
    with pytest.raises(TypeError, match="not a class"):
        register_transform(print)
