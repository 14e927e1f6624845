"""A small laboratory: cards, a protocol, sets and models that train in a second."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparsevit_plugin.cards.reading import REGISTRY_VARIABLE
from sparsevit_plugin.protocol.folder import ProtocolFolder
from sparsevit_plugin.protocol.plan import Plan, make_plan
from sparsevit_plugin.protocol.request import Request
from tests.registry import fresh_registry  # noqa: F401 - a fixture

MODELS = """
    import os
    import torch
    from IMDLBenCo.registry import MODELS


    class LabModel(torch.nn.Module):
        def __init__(self, width: int = 3, weights_path: str = None):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, width, 1)
            self.last = torch.nn.Conv2d(width, 1, 1)

        def forward(self, image, mask=None, **kwargs):
            logits = self.last(self.layer(image))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, mask.float())
            return {
                "backward_loss": loss,
                "pred_mask": logits.sigmoid(),
                "pred_label": None,
                "visual_loss": {"loss": loss},
                "visual_image": {},
            }


    class Plain(LabModel):
        pass


    class Broken(LabModel):
        def forward(self, image, mask=None, **kwargs):
            raise RuntimeError("this model never works")


    for model in (Plain, Broken):
        MODELS.register_module(module=model, force=True)
"""

CARD = """\
name: {name}
title: A model of the laboratory
source: here
licence: MIT
image_size: 16
fit: resize
recipe: {recipe}
"""

RECIPE = """\
name: lab
options:
  epochs: 1
  batch_size: 2
  accum_iter: 1
  warmup_epochs: 0
  lr: 1.0e-3
  test_batch_size: 2
  num_workers: 0
  augmentation: none
"""

PROTOCOL = """\
name: lab
title: Train on one set, test on two
train:
  sets: [{set: Training}]
  select: last
test:
  sets: [{set: First}, {set: Second, authentic: include}]
"""


@dataclass
class Lab:
    """Where everything of the laboratory is, and shortcuts into it."""

    root: Path
    runs: Path
    models: Path

    @property
    def folder(self) -> ProtocolFolder:
        return ProtocolFolder(self.runs / "lab")

    def arguments(self, *words: str, models: str = "Plain") -> list[str]:
        """Return the words after `benco protocol run`."""
        return [
            *("lab", "--models", models, "--data-root", str(self.root / "data"), "--device", "cpu"),
            *("--runs", str(self.runs), "--import", str(self.models), "--weights", "none", *words),
        ]

    def request(self, **more) -> Request:
        known = {
            "protocol": "lab",
            "models": ("Plain",),
            "seeds": (0,),
            "data_root": str(self.root / "data"),
            "weights": "none",
            "device": "cpu",
            "imports": (str(self.models),),
        }
        return Request(**{**known, **more})

    def plan(self, **more) -> Plan:
        return make_plan(self.request(**more), self.folder)

    def write_card(self, name: str, more: str = "") -> Path:
        path = self.root / "registry" / "models" / f"{name}.yaml"
        path.write_text(CARD.format(name=name, recipe=self.root / "lab.yaml") + more)
        return path


@pytest.fixture
def lab(tmp_path, monkeypatch, make_set, make_photo, fresh_registry) -> Lab:  # noqa: F811
    registry = tmp_path / "registry"
    for part in ("models", "datasets", "protocols"):
        (registry / part).mkdir(parents=True)
    for seed, (name, count) in enumerate({"Training": 6, "First": 3, "Second": 2}.items()):
        card = f"name: {name}\ntitle: {name}\nwhere: here\nlicence: MIT\nlayout: unverified\n"
        (registry / "datasets" / f"{name}.yaml").write_text(card)
        stems = [f"{name}-{seed}-{number}" for number in range(count)]
        make_set(tmp_path / "data" / name, stems=stems)
    make_photo(tmp_path / "data" / "Second" / "Au" / "real.jpg", seed=90)
    (registry / "protocols" / "lab.yaml").write_text(PROTOCOL)
    (tmp_path / "lab.yaml").write_text(RECIPE)
    models = tmp_path / "lab_models.py"
    models.write_text(textwrap.dedent(MODELS))
    monkeypatch.setenv(REGISTRY_VARIABLE, str(registry))
    laboratory = Lab(tmp_path, tmp_path / "runs", models)
    for name in ("Plain", "Broken"):
        laboratory.write_card(name)
    return laboratory
