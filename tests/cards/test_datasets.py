"""Data set cards: all that are shipped make sense, and mistakes in others are named."""

from pathlib import Path

import pytest

from sparsevit_plugin.cards import DatasetCard, dataset_card_names, load_dataset_card
from sparsevit_plugin.cards.datasets import compile_pattern, template_fields
from sparsevit_plugin.cards.reading import forget_cards, read_card
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.protocol.schema import load_protocol, protocol_names

GOOD = r"""name: Mine
title: A set
where: here
counts:
  - {tampered: 3, source: me}
layout: sourced
layout_source:
  - {url: https://example.org, what: folders}
import:
  example: [Tp/a.jpg]
  rules:
    - label: tampered
      image: 'Tp/(?P<stem>[^/]+)\.jpg'
      masks: ['Gt/{stem}.png']
  mask_files: ['Gt/.*']
"""


def card(name: str) -> DatasetCard:
    found = load_dataset_card(name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", dataset_card_names())
def test_every_shipped_card_makes_sense(name: str):
    found = card(name)
    assert found.where
    assert found.variant_of is None or card(found.variant_of).variant_of is None
    assert not Path(found.place).is_absolute()
    if found.made_by:
        assert found.importing is None
        return
    assert found.importing is not None
    rules = found.importing.rules
    known = [compile_pattern(rule.image) for rule in rules]
    known += [compile_pattern(text) for text in found.importing.mask_files]
    tables = {rule.table.file for rule in rules if rule.table}
    for example in found.importing.example:
        assert example in tables or any(pattern.fullmatch(example) for pattern in known), example
    for photo in (photo for rule in rules for photo in rule.photos):
        collection, _, rest = photo.partition(":")
        assert collection.isidentifier()
        assert template_fields(rest)


def test_places_are_not_shared():
    places = [card(name).place for name in dataset_card_names()]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("protocol", protocol_names())
def test_every_set_of_a_shipped_protocol_has_a_card(protocol: str):
    assert set(load_protocol(protocol).set_names()) <= set(dataset_card_names())


def test_the_usual_sets_have_cards():
    usual = {"CASIAv1", "CASIAv2", "Columbia", "COVERAGE", "NIST16", "NIST16_1024", "IMD2020",
             "FantasticReality", "tampCOCO_sp", "tampCOCO_cm", "tampCOCO_bcm", "tampCOCO_bcmc",
             "compRAISE", "DSO-1", "Korus", "CocoGlide", "AutoSplice", "demo_train"}  # fmt: skip
    assert usual <= set(dataset_card_names())
    assert card("NIST16").importing.rules[0].mask_rule == "inverted"
    assert card("CASIAv1").place == "CASIAv1"
    assert card("demo_train").place == "demo-data/train"


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("tampered: 3", "tampered: many", r":5: counts\.0\.tampered: input should be a valid int"),
        ("tampered: 3", "tampered: -3", r":5: counts\.0\.tampered: input should be greater than"),
        ("title: A set\n", "", r":1: title: field required"),
        ("layout: sourced", "layout: guessed", r":6: layout: input should be 'sourced'"),
        ("layout_source:\n  - {url: https://example.org, what: folders}\n", "",
         r":1: a sourced layout names its layout_source"),
        ("(?P<stem>[^/]+)", "(?P<stem>[^/]+", r':13: import\.rules\.0\.image: .* is no regular'),
        ("'Gt/{stem}.png'", "'Gt/{name}.png'", r':12: import\.rules\.0: .* no group "name"'),
        ("'Gt/{stem}.png'", "'Gt/{stem.png'", r":12: import\.rules\.0: .*"),
        ("      masks: ['Gt/{stem}.png']\n", "", r":12: import\.rules\.0: .*tampered images have"),
        ("label: tampered", "label: fake", r":12: import\.rules\.0\.label: input should be"),
        ("masks: [", "mask_rule: blue\n      masks: [", r":14: import\.rules\.0\.mask_rule: input"),
        ("  mask_files: ['Gt/.*']", "  mask_files: ['*']", r":15: import\.mask_files: .*no reg"),
        ("  mask_files", "  maskfiles", r":15: import\.maskfiles: extra inputs"),
        ("name: Mine", "name: Other", r':1: name: "Other" must be the file'),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_file_line_and_field(tmp_path: Path, old: str, new: str, wanted: str):
    assert old in GOOD
    file = tmp_path / "Mine.yaml"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(UserError, match=rf"^{file}{wanted}") as caught:
        read_card(file, DatasetCard, "a data set card")
    assert "\n" not in str(caught.value)


def test_a_lab_adds_a_card_by_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert load_dataset_card("Mine") is None
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "Mine.yaml").write_text(GOOD)
    monkeypatch.setenv("SPARSEVIT_REGISTRY", str(tmp_path))
    forget_cards()
    try:
        assert card("Mine").counts[0].tampered == 3
        assert "Mine" in dataset_card_names()
    finally:
        monkeypatch.undo()
        forget_cards()
