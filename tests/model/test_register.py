"""What IMDLBenCo finds in its registry."""

import pytest

from sparsevit_plugin.model.register import register
from sparsevit_plugin.model.sparsevit import SparseViT

NAMES = ("SparseViT", "SparseViT_small", "SparseViT_tiny")
# Parameters that take part in a forward pass. Upstream holds 50.35 M, 0.10 M of them never used.
PARAMETERS = {"SparseViT": 50.25e6, "SparseViT_small": 21.83e6, "SparseViT_tiny": 1.10e6}


def test_registering_twice_changes_nothing(registry):
    before = dict(registry.module_dict)
    register()
    assert registry.module_dict == before


def test_upstreams_model_stays_reachable(registry):
    assert registry.get("SparseViT") is SparseViT
    assert registry.get("SparseViT_upstream").__module__.startswith("IMDLBenCo.")


@pytest.mark.parametrize("name", NAMES)
def test_upstreams_parser_reads_the_constructor(registry, name):
    from IMDLBenCo.training_scripts.utils.misc import create_argparser

    parser = create_argparser(registry.get(name))
    arguments = vars(parser.parse_args([]))
    model = registry.get(name)(**arguments)
    count = sum(tensor.numel() for tensor in model.parameters())
    assert count == pytest.approx(PARAMETERS[name], rel=0.005)


def test_upstreams_parser_reads_flags(registry):
    from IMDLBenCo.training_scripts.utils.misc import create_argparser

    tiny = registry.get("SparseViT_tiny")
    flags = ["--depth", "1,1,2,2", "--s_blocks3", "[2, 1]", "--head", "sum", "--drop_path", "0.1"]
    model = tiny(**vars(create_argparser(tiny).parse_args(flags)))
    assert len(model.encoder_net.blocks3) == 2
    assert model.lmu.fusion == "sum"
