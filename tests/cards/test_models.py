"""Cards are checked when they are read, and a mistake is named by file, line and field."""

from pathlib import Path

import pytest

from sparsevit_plugin.cards import card_names, load_model_card, read_model_card
from sparsevit_plugin.cards.reading import forget_cards
from sparsevit_plugin.cli.probe import missing_arguments
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.registration import get_model_class
from tests.registry import install_distribution

GOOD = """\
name: Mine
title: A model
source: here
licence: MIT
image_size: 256
weights:
  - argument: path
    name: mine.pth
    where: nowhere
"""


@pytest.mark.parametrize("name", card_names())
def test_every_shipped_card_belongs_to_a_registered_model(name: str):
    card = load_model_card(name)
    assert card is not None
    constructor = get_model_class(card.model)
    assert missing_arguments(constructor, card.arguments) == []


def test_what_the_cards_of_sparsevit_say():
    card = load_model_card("SparseViT")
    assert card is not None
    assert (card.image_size, card.fit, card.edge_mask_width) == (512, "resize", None)
    assert {weight.argument for weight in card.weights} == {"pretrained_path"}
    assert load_model_card("SparseViT_tiny").image_size == 128
    assert load_model_card("NoSuchModel") is None


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("image_size: 256", "image_size: big", r":5: image_size: input should be a valid integer"),
        ("image_size: 256", "image_size: 0", r":5: image_size: input should be greater than 0"),
        ("licence: MIT", "license: MIT", r":1: licence: field required \(and 1 more\)"),
        ("title: A model", "title: A model\nfitt: pad", r":3: fitt: extra inputs"),
        (
            "image_size: 256",
            "image_size: 256\nfit: crop",
            r":6: fit: input should be 'resize', 'pad'",
        ),
        ("    name: mine.pth\n", "", r":7: weights\.0\.name: field required"),
        ("    where: nowhere", "    where: [a]", r":9: weights\.0\.where: input should be a valid"),
        ("name: Mine", "name: Other", r':1: name: "Other" must be the file\'s, "Mine"'),
        ("title: A model", "title: [A", r":\d+: not YAML"),
        (GOOD, "- a\n- b\n", r":1: a model card is a mapping"),
        (GOOD, "", r":1: a model card is a mapping"),
        ("where: nowhere", "where: nowhere\n    sha256: abc", r":10: weights\.0\.sha256: string"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_field(tmp_path: Path, old: str, new: str, wanted: str):
    assert old in GOOD
    file = tmp_path / "Mine.yaml"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(UserError, match=rf"^{file}{wanted}") as caught:
        read_model_card(file)
    assert "\n" not in str(caught.value)


@pytest.fixture
def other_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a distribution with cards, one of them for a model that has a card already."""
    package = tmp_path / "cards_of_others"
    package.mkdir()
    (package / "Mine.yaml").write_text(GOOD)
    (package / "SparseViT.yaml").write_text(GOOD)
    entries = "[sparsevit_plugin.model_cards]\nmine = cards_of_others\nlost = cards_that_are_lost\n"
    install_distribution(tmp_path, "card-maker", entries)
    monkeypatch.syspath_prepend(tmp_path)
    forget_cards()
    yield
    forget_cards()


@pytest.mark.usefixtures("other_cards")
def test_other_distributions_add_cards(caplog):
    assert load_model_card("Mine").image_size == 256
    assert load_model_card("SparseViT").image_size == 512
    assert "SparseViT.yaml is left out" in caplog.text
    assert "cards_that_are_lost are left out" in caplog.text
