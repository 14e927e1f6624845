import pytest
import torch
from torch import nn

from sparsevit_plugin.backends import prepare
from sparsevit_plugin.backends import torch as backend
from sparsevit_plugin.model.fused import FusedSparseViT
from sparsevit_plugin.model.kernels import Kernels, use_kernels
from sparsevit_plugin.model.packed import PackedPointwise, can_pack
from sparsevit_plugin.model.sparsevit import SparseViT_tiny
from tests.backends.conftest import images, small_model

SIZES = ((64, 64), (65, 97))


def packed_layers(predictor: nn.Module) -> int:
    return sum(isinstance(module, PackedPointwise) for module in predictor.modules())


@pytest.mark.parametrize("library", ["mkl", "onednn"])
def test_layers_are_packed_where_onednn_was_chosen(library):
    use_kernels(Kernels(library, 16, 16))
    model = small_model()
    predictor = prepare(model)
    assert bool(packed_layers(predictor)) == (library == "onednn" and can_pack(torch.float32))
    for size in SIZES:
        image = images(2, *size)
        torch.testing.assert_close(
            predictor(image=image)["pred_mask"], model(image=image)["pred_mask"], rtol=0, atol=1e-5
        )


def test_bf16_computes_in_bfloat16_throughout():
    model = small_model()
    predictor = prepare(model, precision="bf16")
    assert {p.dtype for p in predictor.parameters()} == {torch.bfloat16}
    image = images(2, 65, 97)
    found, expected = predictor(image=image)["pred_mask"], model(image=image)["pred_mask"]
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.05


@pytest.mark.parametrize("precision", ["bf16", "bf16-mixed"])
def test_other_models_are_run_under_autocast(precision):
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 1)
            self.seen = []

        def forward(self, image):
            answer = self.conv(image)
            self.seen.append(answer.dtype)
            return {"pred_mask": answer.sigmoid()}

    predictor = prepare(Plain(), precision=precision)
    assert predictor(image=images(1, 8, 8))["pred_mask"].dtype == torch.float32
    assert predictor.model.seen == [torch.bfloat16]


@pytest.mark.parametrize("sparsity", ["rate", "group"])
@pytest.mark.parametrize("size", SIZES)
def test_the_compiler_sees_one_graph(sparsity, size):
    """`fullgraph` raises at the first thing that the compiler would leave to Python."""
    model = small_model(sparsity)
    torch.compiler.reset()
    compiled = torch.compile(model.fuse(), fullgraph=True, backend="eager")
    image = images(1, *size)
    with torch.no_grad():
        found = compiled(image=image)["pred_mask"]
    torch.testing.assert_close(found, model(image=image)["pred_mask"], rtol=0, atol=1e-5)


def test_weights_are_frozen_while_a_call_is_traced(monkeypatch):
    seen = []

    def compiler(model, **options):
        def call(**inputs):
            seen.append((options["fullgraph"], torch._inductor.config.freezing))
            return model(**inputs)

        return call

    monkeypatch.setattr(torch, "compile", compiler)
    prepare(small_model(), compiled=True)(image=images(1, 64, 64))
    assert seen == [(True, True)]
    assert not torch._inductor.config.freezing


def test_every_size_and_batch_is_compiled_up_to_a_number_of_sizes(monkeypatch, caplog):
    """Traced, which the backend "eager" does as any: sizes as constants, so that it has an end."""
    compile_whole, graphs = torch.compile, []

    def eager(graph, examples):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        torch, "compile", lambda model, **more: compile_whole(model, **more, backend=eager)
    )
    monkeypatch.setattr(backend, "MOST_SIZES", 3)
    torch.compiler.reset()
    model = SparseViT_tiny(depth=(1, 1, 1, 1), s_blocks3=(2,), s_blocks4=(1,)).eval()
    compiled, plain = prepare(model, compiled=True), prepare(model)
    traced = []
    for batch, height, width in [
        *((2, 64, 64), (1, 64, 64), (5, 64, 64), (3, 64, 64)),  # the last as any number
        *((1, 72, 64), (1, 64, 80), (1, 72, 64), (1, 96, 96), (1, 96, 104)),
    ]:
        image = images(batch, height, width)
        found, expected = (one(image=image)["pred_mask"] for one in (compiled, plain))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        traced.append(len(graphs))
    assert traced == [1, 2, 3, 3, 4, 5, 5, 5, 5]
    (line,) = [one.getMessage() for one in caplog.records if one.name == backend.__name__]
    assert line == "--compile: 3 sizes of photographs are compiled; others run without"


def test_a_copy_is_made():
    model = small_model()
    inner = backend.inference_copy(model, torch.device("cpu"))
    assert isinstance(inner, FusedSparseViT)
    mine, its = (
        {tensor.data_ptr() for tensor in module.state_dict().values()} for module in (model, inner)
    )
    assert not mine & its
