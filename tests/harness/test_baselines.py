"""The trivial baselines answer as their names say, whatever the batch."""

import torch

from sparsevit_plugin.harness.baselines import AllTampered, RandomScores


def test_all_tampered_calls_every_pixel_tampered():
    output = AllTampered()(image=torch.zeros(2, 3, 5, 7))
    assert output["pred_mask"].shape == (2, 1, 5, 7)
    assert output["pred_mask"].eq(1).all()
    assert output["pred_label"].tolist() == [1, 1]
    assert output["backward_loss"] is None


def test_random_scores_depend_on_the_photograph_and_not_on_the_batch():
    image = torch.zeros(3, 3, 64, 64)
    model = RandomScores(seed=5)
    together = model(image=image, sample_index=torch.tensor([4, 7, 9]))["pred_mask"]
    alone = model(image=image[:1], sample_index=torch.tensor([7]))["pred_mask"]
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(
        RandomScores(seed=6)(image, torch.tensor([4, 7, 9]))["pred_mask"], together
    )
    assert abs(float(together.mean()) - 0.5) < 0.02


def test_baselines_have_no_weights():
    assert not list(AllTampered().parameters())
    assert not RandomScores().state_dict()
