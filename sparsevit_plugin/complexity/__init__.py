"""What a model costs, counted: parameters, multiply-accumulates, activation memory.

Everything here takes a module and the keyword arguments to call it with, and knows nothing of this
package's models, cards or data: another's model is counted like one of ours. How a configuration
comes to a module and its inputs is in `sparsevit_plugin.harness.complexity`.
"""

from sparsevit_plugin.complexity.counting import Complexity, count
from sparsevit_plugin.complexity.products import TORCH_COUNTER

__all__ = ["TORCH_COUNTER", "Complexity", "count"]
