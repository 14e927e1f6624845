"""Where in a model its parameters and its multiply-accumulates are."""

from typing import Any, Final

from torch import nn

from sparsevit_plugin.complexity.columns import Column
from sparsevit_plugin.complexity.counting import Complexity

WHOLE: Final = "(whole model)"

MODULE_COLUMNS: Final = (
    Column("kind", "", "class of the module", "class"),
    Column("parameters", "", "parameters of the module and its parts", "parameters, M", 1e6),
    Column(
        "macs", "", "multiply-accumulates while it runs, those of its parts included", "GMACs", 1e9
    ),
    Column("share", "%", "part of all multiply-accumulates", "share, %"),
)


def module_rows(model: nn.Module, found: Complexity, depth: int) -> list[dict[str, Any]]:
    """Return a row for each module, in the model's order.

    Args:
        model: The model.
        found: Its counts, with those of its modules.
        depth: 0 for the whole model alone, 1 for its parts too, and so on.
    """
    rows = []
    for name, module in model.named_modules():
        level = name.count(".") + 1 if name else 0
        if level > depth:
            continue
        macs = _macs(name, module, found) if name else found.macs
        rows.append(
            {
                "model": name or WHOLE,
                "kind": type(module).__name__,
                "parameters": sum(parameter.numel() for parameter in module.parameters()),
                "macs": macs,
                "share": 100 * macs / found.macs if macs is not None and found.macs else None,
            }
        )
    return rows


def _macs(name: str, module: nn.Module, found: Complexity) -> int:
    """Return a module's MACs; of a list of modules, which nothing calls, those of its parts."""
    if name in found.by_module:
        return found.by_module[name]
    return sum(_macs(f"{name}.{part}", child, found) for part, child in module.named_children())
