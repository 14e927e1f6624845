"""Cards: YAML files that say what can be benchmarked, one per model and one per data set.

This package's cards are in `registry/`. Another distribution offers its own through the
entry-point groups `sparsevit_plugin.model_cards` and `sparsevit_plugin.dataset_cards`, and a lab
without a distribution through the folders that the environment variable `SPARSEVIT_REGISTRY` lists.

    >>> load_model_card("SparseViT").image_size
    512
"""

from sparsevit_plugin.cards.datasets import (
    DatasetCard,
    dataset_card_names,
    load_dataset_card,
)
from sparsevit_plugin.cards.models import (
    Mended,
    ModelCard,
    WeightFile,
    card_names,
    load_model_card,
    read_model_card,
)
from sparsevit_plugin.cards.timm_words import is_timm_word

__all__ = [
    "DatasetCard",
    "Mended",
    "ModelCard",
    "WeightFile",
    "card_names",
    "dataset_card_names",
    "is_timm_word",
    "load_dataset_card",
    "load_model_card",
    "read_model_card",
]
