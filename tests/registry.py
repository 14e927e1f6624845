"""A registry that a test may change; import the fixture and name it in `usefixtures`."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparsevit_plugin import registration

MODEL = """
    import torch
    from IMDLBenCo.registry import MODELS


    @MODELS.register_module()
    class {name}(torch.nn.Module):
        def __init__(self, width: int = 3):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, width, 1)

        def forward(self, image, mask=None, **kwargs):
            return {{"pred_mask": self.layer(image)[:, :1].sigmoid(), "backward_loss": None}}
"""

WriteModel = Callable[[str, str], Path]


@pytest.fixture
def fresh_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start with no plugin loaded; put the registry, the search path and the modules back."""
    models = registration._models()
    before = dict(models)
    monkeypatch.setattr(registration, "_STATE", registration._State())
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    models.clear()
    models.update(before)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def write_model(tmp_path: Path) -> WriteModel:
    """`write_model(stem, class_name) -> path`: a file that registers a small model."""

    def write(stem: str, name: str) -> Path:
        path = tmp_path / f"{stem}.py"
        path.write_text(textwrap.dedent(MODEL).format(name=name))
        return path

    return write


def install_distribution(site: Path, name: str, entry_points: str) -> None:
    """Put the metadata of a distribution into a folder of the search path."""
    info = site / f"{name.replace('-', '_')}-2.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
