"""Which parameters a prediction depends on."""

import pytest
import torch
from torch import nn

from sparsevit_plugin.complexity import count
from sparsevit_plugin.complexity.liveness import live_parameters


class Localiser(nn.Module):
    """Parameters that are used in many ways, and some that are not."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.constrained = nn.Parameter(torch.ones(3, 3))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.copied = nn.Parameter(torch.ones(3))
        self.thresholded = nn.Parameter(torch.ones(3))
        self.of_the_label = nn.Parameter(torch.ones(3))
        self.never = nn.Linear(3, 3)
        self.unread = nn.Parameter(torch.ones(3))
        self.of_the_loss = nn.Parameter(torch.ones(3))
        self.viewed = nn.Parameter(torch.ones(3, 1))

    def forward(self, image):
        with torch.no_grad():
            weight = self.constrained / self.constrained.sum()
        buffer = torch.empty(3)
        buffer.copy_(self.copied)
        mask = self.layer(image) @ weight * self.frozen + buffer
        mask = mask + (self.thresholded > 0)
        self.viewed.view(3).expand(2, 3)
        unread = image * self.unread
        return {
            "backward_loss": (mask * self.of_the_loss + 0 * unread).sum(),
            "pred_mask": mask,
            "pred_label": image @ self.of_the_label,
        }


LIVE = {"layer.weight", "layer.bias", "constrained", "frozen", "copied", "thresholded"}


@pytest.fixture
def model():
    return Localiser().eval()


def test_what_reaches_the_prediction_is_live_with_gradients_or_not(model):
    live = live_parameters(model, {"image": torch.ones(2, 3)})
    names = [name for name, _ in model.named_parameters()]
    assert {name for name, is_live in zip(names, live, strict=True) if is_live} == {
        *LIVE,
        "of_the_label",
    }


def test_changing_a_live_parameter_changes_the_prediction_and_no_other_does(model):
    image = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))

    def predicted():
        with torch.no_grad():
            output = model(image)
        return torch.cat([output["pred_mask"].flatten(), output["pred_label"]])

    live = live_parameters(model, {"image": image})
    for (name, parameter), is_live in zip(model.named_parameters(), live, strict=True):
        before, kept = predicted(), parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[0] = -7.0
        changed = not torch.equal(predicted(), before)
        with torch.no_grad():
            parameter.copy_(kept)
        assert changed == is_live, name


def test_all_outputs_count_where_none_is_called_a_prediction():
    found = count(nn.Linear(3, 4), {"input": torch.zeros(1, 3)})
    assert found.live_parameters == found.parameters == 16
