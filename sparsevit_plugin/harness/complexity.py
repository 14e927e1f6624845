"""How large and how costly a model is: parameters and multiply-accumulates of one photograph.

MACs and FLOPs are named apart: a multiply-accumulate is two floating-point operations. PyTorch's
counter gives FLOPs; what is stored here is half of them. It counts matrix products, convolutions
and the products inside attention, and nothing else: no element-wise operation, no normalisation, no
interpolation, no Fourier transform. No number is forced to match another counter's, so each result
carries the name of its counter.

    >>> from torch import nn
    >>> count(nn.Conv2d(3, 8, 3), {"input": torch.zeros(1, 3, 10, 10)}).macs  # 8 * 3 * 9 * 8 * 8
    13824
"""

import contextlib
import copy
import functools
import hashlib
import inspect
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.files import write_json_atomic
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.datasets import collate
from sparsevit_plugin.harness.evaluate import model_inputs, refuse_bad
from sparsevit_plugin.harness.pipeline import build_model, make_dataset
from sparsevit_plugin.harness.sources import ImageSet, Sample, Source
from sparsevit_plugin.versions import DISTRIBUTION, installed_version

TORCH_COUNTER: Final = "torch.utils.flop_counter"

COUNT_VERSION: Final = 1
"""Raised when the same model would be counted differently: cached counts are then made again."""

_FLOPS_PER_MAC: Final = 2
_VERSIONS: Final = ("torch", "IMDLBenCo", DISTRIBUTION)


@dataclass(frozen=True)
class Complexity:
    """What a model costs.

    Attributes:
        parameters: All that the model holds, shared ones once, those that its forward never uses
            included.
        macs: Multiply-accumulates of one forward pass, in evaluation mode, on a batch of one; None
            when the forward pass failed.
        counter: What counted them.
        image_size: Side of the square input in pixels; of another input the longer side, 0 where
            there is no image.
        reason: Why there are no MACs; empty when there are.
    """

    parameters: int
    macs: int | None
    counter: str
    image_size: int
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


Inputs = Mapping[str, Any]
Counter = Callable[[nn.Module, Inputs], int]


def count(model: nn.Module, inputs: Inputs, counter: str = TORCH_COUNTER) -> Complexity:
    """Count a model's parameters and the MACs of one call.

    The call is made on the meta device, where shapes are known and nothing is computed; a model
    that mixes in tensors of the CPU is called with PyTorch's fake tensors, which know the device
    that they stand for; and one that needs values (it reads a number from a tensor, calls NumPy) is
    run as it is, on the device it is on. All three count the same. The model is left as it was, and
    so is the random generator.

    Args:
        model: Any module; no gradient is made.
        inputs: What to call it with, by argument name. The batch has one photograph where MACs
            shall be those of one photograph.
        counter: One of `COUNTERS`.

    Returns:
        The counts; `macs` is None, with the reason, when the model cannot be run.
    """
    macs, reason = None, ""
    with _evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            macs = _count_macs(model, inputs, COUNTERS[counter])
        except Exception as error:
            words = " ".join(str(error).split()) or "no message"
            reason = f"the forward pass failed: {type(error).__name__}: {words}"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(parameters, macs, counter, _image_size(inputs), reason)


def count_config(cfg: Config) -> Complexity:
    """Build a configuration's model and count it on one photograph of the model's size.

    Raises:
        UserError: The model cannot be built, or a photograph cannot be brought to its input.
    """
    # Some constructors of IMDLBenCo print a line per layer.
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        model = build_model(cfg)
        return count(model, example_inputs(cfg))


def cached_count(cfg: Config, folder: str | PathLike[str]) -> Complexity:
    """Return what `count_config` does, from a folder of earlier counts where it is there.

    A count is found again by what makes it: the registered model and the file of its class, its
    arguments without weights files, how its input is made, and the versions of PyTorch, IMDLBenCo
    and this package. A damaged file is made again. A model whose forward pass fails is not kept.

    Args:
        cfg: The configuration of a training or a test.
        folder: Holds one JSON file per count; made when the first is written.

    Raises:
        UserError: As `count_config`; or the folder cannot be written.
    """
    content = _content(cfg)
    text = json.dumps(content, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = Path(folder) / f"{cfg.model}-{cfg.image_size}-{digest}.json"
    found = _read_cached(file)
    if found is None:
        found = count_config(cfg)
        if found.macs is not None:
            write_json_atomic(file, {"complexity": found.to_dict(), "of": content})
    return found


def example_inputs(cfg: Config, source: Source | None = None) -> dict[str, Any]:
    """Make a batch of one as a model gets it in a test, on the CPU.

    Args:
        cfg: How images are brought to the model.
        source: Where the photograph comes from; None for a synthetic JPEG of the model's size.

    Returns:
        Keyword arguments of the model.

    Raises:
        UserError: The photograph cannot be used.
    """
    if source is not None:
        return _first_item(cfg, source)
    with tempfile.TemporaryDirectory() as folder:
        return _first_item(cfg, _synthetic_set(Path(folder), cfg.image_size))


def _first_item(cfg: Config, source: Source) -> dict[str, Any]:
    batch = collate([make_dataset(cfg, source, training=False)[0]])
    refuse_bad(batch["bad"], skip=False)
    inputs = model_inputs(batch, torch.device("cpu"))
    return {**inputs, "if_predcit_label": cfg.if_predict_label}  # upstream's spelling


def _synthetic_set(folder: Path, side: int) -> ImageSet:
    """Write a photograph and its mask: some models read the file itself, so there must be one."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[: (side + 1) // 2] = 255
    image_file, mask_file = folder / "photo.jpg", folder / "photo.png"
    Image.fromarray(pixels).save(image_file)
    Image.fromarray(mask).save(mask_file)
    sample = Sample(image_file, mask_file, image_file.name)
    return ImageSet("synthetic", "JsonDataset", folder, (sample,), pairing="as written")


# --- counting ------------------------------------------------------------------------------------


def _count_macs(model: nn.Module, inputs: Inputs, counter: Counter) -> int:
    """Count by shapes alone where the model allows, else by running it."""
    for by_shape in (_count_on_meta, _count_on_fakes):
        # Whatever fails there fails again, with its own message, where the model is really run.
        with contextlib.suppress(Exception):
            return by_shape(model, inputs, counter)
    return counter(model, inputs)


def _count_on_meta(model: nn.Module, inputs: Inputs, counter: Counter) -> int:
    def bare(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device="meta")

    return counter(_with_tensors(model, bare), _converted(inputs, bare))


def _count_on_fakes(model: nn.Module, inputs: Inputs, counter: Counter) -> int:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    copied = _with_tensors(model, mode.from_tensor)
    converted = _converted(inputs, mode.from_tensor)
    with mode:
        return counter(copied, converted)


def _with_tensors(model: nn.Module, convert: Callable[[Tensor], Tensor]) -> nn.Module:
    """Copy a model's structure with its parameters, buffers and other tensors converted."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(convert(parameter.detach()), requires_grad=False)
    plain = (value for module in model.modules() for value in vars(module).values())
    for tensor in (*model.buffers(), *(value for value in plain if isinstance(value, Tensor))):
        memo.setdefault(id(tensor), convert(tensor.detach()))
    return copy.deepcopy(model, memo)


def _converted(inputs: Inputs, convert: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {k: convert(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def _torch_macs(model: nn.Module, inputs: Inputs) -> int:
    """Count by PyTorch's counter."""
    counter = FlopCounterMode(display=False)
    with _without_fused_products(model), counter:
        model(**inputs)
    return counter.get_total_flops() // _FLOPS_PER_MAC


COUNTERS: Final[dict[str, Counter]] = {TORCH_COUNTER: _torch_macs}
"""By name: a function of a model and its inputs that runs it once and returns MACs."""


@contextlib.contextmanager
def _without_fused_products(model: nn.Module) -> Iterator[None]:
    """Turn off what hides its products from PyTorch's counter on the CPU.

    That is fused attention, the fast path of `nn.MultiheadAttention`, and oneDNN's recurrent layers
    (oneDNN stays on for a model that has none: it makes convolutions fast). So a count does not
    depend on the device.
    """
    mha = torch.backends.mha
    onednn: Any = torch.backends.mkldnn  # its properties are typed as what makes them
    before = mha.get_fastpath_enabled(), onednn.enabled
    mha.set_fastpath_enabled(False)
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        onednn.enabled = False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(before[0])
        onednn.enabled = before[1]


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; each module gets its own mode back."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _image_size(inputs: Inputs) -> int:
    image = inputs.get("image")
    return max(image.shape[-2:]) if isinstance(image, Tensor) else 0


# --- the cache -----------------------------------------------------------------------------------


def _content(cfg: Config) -> dict[str, Any]:
    """Return all that a count depends on, as JSON can hold it."""
    card = load_model_card(cfg.model)
    weights = card.weight_arguments if card else ()
    plain = cfg.to_dict()
    call = {**plain["constructor_defaults"], **plain["model_arguments"]}
    return {
        "count_version": COUNT_VERSION,
        "counter": TORCH_COUNTER,
        "model": cfg.model,
        "registered": cfg.registered,
        "source": _source_hash(cfg.model_class),
        "arguments": {name: value for name, value in call.items() if name not in weights},
        "image_size": cfg.image_size,
        "fit": cfg.fit,
        "edge_mask_width": cfg.edge_mask_width,
        "if_predict_label": cfg.if_predict_label,
        "post_function": card.post_function if card else None,
        "versions": {
            name: installed_version(name) for name in ("torch", "IMDLBenCo", DISTRIBUTION)
        },
    }


def _source_hash(constructor: Callable[..., Any]) -> str:
    """Hash the file that defines a model; empty where there is none to read."""
    while isinstance(constructor, functools.partial):
        constructor = constructor.func
    try:
        file = inspect.getsourcefile(constructor)
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    except (OSError, TypeError):
        return ""


def _read_cached(file: Path) -> Complexity | None:
    try:
        return Complexity(**json.loads(file.read_text(encoding="utf-8"))["complexity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
