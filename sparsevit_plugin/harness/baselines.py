"""Trivial baselines: what a table must beat before a model may be said to have learnt anything.

They are registered models like any other, without weights, so they run through the same loaders,
the same evaluators and the same tables.
"""

import torch
from torch import Tensor, nn

from sparsevit_plugin.harness.sampling import derive_seed


class TrivialBaseline(nn.Module):
    """A model without parameters that answers with a map from `score_map`; it cannot be trained."""

    def score_map(self, image: Tensor, sample_index: Tensor) -> Tensor:
        """Return the map, shape (B, 1, H, W) with values in [0, 1]."""
        raise NotImplementedError

    def forward(
        self,
        image: Tensor,
        sample_index: Tensor = None,  # type: ignore[assignment]
        *args: object,
        **kwargs: object,
    ) -> dict[str, object]:
        """Answer for a batch.

        Args:
            image: Normalised photographs, shape (B, 3, H, W).
            sample_index: Index of each photograph in its set, shape (B,); the batch position when
                absent.
            *args: Ignored.
            **kwargs: Ignored.

        Returns:
            IMDLBenCo's output: `pred_mask` (B, 1, H, W), `pred_label` (B,) as the maximum of the
            map, no loss.
        """
        if sample_index is None:
            sample_index = torch.arange(image.shape[0])
        scores = self.score_map(image, sample_index)
        return {
            "backward_loss": None,
            "pred_mask": scores,
            "pred_label": scores.flatten(1).amax(dim=1),
            "visual_loss": {},
            "visual_image": {"pred_mask": scores},
        }


class AllTampered(TrivialBaseline):
    """Calls every pixel tampered: its F1 is that of knowing only that something was edited."""

    def score_map(self, image: Tensor, sample_index: Tensor) -> Tensor:
        """Return ones."""
        return image.new_ones(image.shape[0], 1, *image.shape[-2:])


class RandomScores(TrivialBaseline):
    """Draws every pixel's score uniformly from [0, 1).

    The draw depends on (seed, index of the photograph, size) and not on the batch or the process.

    Args:
        seed: Seed of the draws.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def score_map(self, image: Tensor, sample_index: Tensor) -> Tensor:
        """Return uniform noise."""
        height, width = image.shape[-2:]
        maps = []
        for index in sample_index.tolist():
            generator = torch.Generator().manual_seed(derive_seed(self.seed, index))
            maps.append(torch.rand(1, height, width, generator=generator))
        return torch.stack(maps).to(image.device)


def register() -> None:
    """Put the trivial baselines into IMDLBenCo's model registry."""
    from IMDLBenCo.registry import MODELS

    for model in (AllTampered, RandomScores):
        MODELS.register_module(module=model, force=True)
