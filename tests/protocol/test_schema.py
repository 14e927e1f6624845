"""Protocols are checked when they are read, and the shipped ones say what they claim."""

import pytest

from sparsevit_plugin.cards import dataset_card_names
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.protocol.schema import load_protocol, protocol_names

GOOD = """\
name: mine
title: A protocol
train:
  sets:
    - {set: CASIAv2}
test:
  sets:
    - {set: CASIAv1}
"""


@pytest.mark.parametrize("name", protocol_names())
def test_every_set_of_a_shipped_protocol_has_a_card(name):
    protocol = load_protocol(name)
    assert set(protocol.set_names()) <= set(dataset_card_names())
    assert protocol.sources


def test_ten_lines_make_a_protocol(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD)
    protocol = load_protocol(str(file))
    assert protocol.train.select == "val"
    assert protocol.train.sets[0].authentic == "exclude"
    assert protocol.test.perturbations == ["none"]
    assert len(GOOD.splitlines()) <= 10


def test_the_two_meanings_of_the_cat_protocol_differ():
    benco, original = load_protocol("cat-benco"), load_protocol("cat-original")
    assert (benco.train.draw, len(benco.train.sets)) == (1840, 7)
    assert (original.train.draw, len(original.train.sets)) == (1869, 10)
    assert all(use.authentic == "exclude" for use in benco.train.sets)
    assert [use.set for use in original.train.sets if use.authentic == "only"] == [
        "FantasticReality",
        "CASIAv2",
    ]


def test_mvss_is_tampered_only_and_its_twin_is_not():
    plain, both = load_protocol("mvss"), load_protocol("mvss-with-authentic")
    for protocol, wanted in ((plain, "exclude"), (both, "include")):
        uses = [*protocol.train.sets, *protocol.test.sets]
        assert {use.authentic for use in uses} == {wanted}
    columns = ["CASIAv1", "Columbia", "COVERAGE", "NIST16", "IMD2020"]
    assert [use.set for use in plain.test.sets] == columns


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("title: A protocol", "titel: A protocol", r":1: title: field required"),
        ("set: CASIAv1", "set: CASIAv1, authentic: some", r":8: test\.sets\.0\.authentic"),
        (
            "  sets:\n    - {set: CASIAv1}",
            "  sets: []",
            r":7: test\.sets: list should have at least",
        ),
        ("train:\n", "train:\n  select: best\n", r":4: train\.select: input should be 'val'"),
        ("{set: CASIAv1}", "{set: CASIAv1}\n    - {set: CASIAv1}", r": test\.sets names CASIAv1"),
        (
            "test:\n",
            "test:\n  perturbations: [jpg:5]\n",
            r":7: test\.perturbations: .*jpeg:QUALITY",
        ),
        ("test:\n", "test:\n  perturbations: [blur:4]\n", r":7: .* blur kernel has an odd side"),
        ("name: mine", "name: other", r':1: name: "other" must be the file'),
    ],
)
def test_a_mistake_is_named_by_file_line_and_field(tmp_path, old, new, wanted):
    assert old in GOOD
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(UserError, match=wanted) as caught:
        load_protocol(str(file))
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_an_unknown_protocol_gets_a_suggestion():
    with pytest.raises(UserError, match=r'unknown protocol "mvs"\. Did you mean "mvss"\?'):
        load_protocol("mvs")
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        load_protocol("nowhere.yaml")
