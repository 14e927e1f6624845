"""Model cards: what a registered model needs to be trained and tested as its authors meant.

A card is a YAML file named after the row that it makes in a table. It names the registered model
that is built (`model`, by default the card's own name), so that one class may have several cards.
`inherits` takes over every field of another card that this one does not give, for families of
models that differ in a line.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field, model_validator

from sparsevit_plugin.cards.reading import Strict, check_card, find_cards, read_yaml
from sparsevit_plugin.cards.timm_words import is_timm_word, timm_card
from sparsevit_plugin.errors import UserError, suggest

Fit: TypeAlias = Literal["resize", "pad", "grid"]

_MOST_ANCESTORS = 4


class WeightFile(Strict):
    """A file of pretrained weights that a constructor argument names.

    Attributes:
        argument: The constructor's argument that takes the file's path.
        name: The file's usual name, sought below `--weights-root`.
        where: Who publishes it, with a link.
        sha256: The hash that every copy must have, None where that is unknown.
        needed: Whether training as published starts from it. Of several needed files of one
            argument the first that is found is taken.
        hub: Where the Hugging Face Hub has it, OWNER/NAME/FILE; it is fetched from there where
            `--weights-root` does not hold it. Empty where it is not there.
        notes: What a user must know before choosing it.
    """

    argument: str
    name: str
    where: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    needed: bool = True
    hub: str = Field(default="", pattern=r"^([\w.-]+/[\w.-]+/[\w.-]+)?$")
    notes: str = ""


class Input(Strict):
    """How a model is fed.

    Attributes:
        fit: How an image comes to the model's size.
        post_function: What adds to each item, None for nothing.
    """

    fit: Fit
    post_function: str | None = None


class Mended(Strict):
    """A defect of the published code that the plugin mends unless its way is asked for.

    Attributes:
        argument: The constructor argument that chooses.
        mended: Its value for the mended way, which is the default.
        upstream: Its value for upstream's way.
        defect: What is wrong with upstream's way, in a sentence.
        upstream_input: How the model is fed in upstream's way, where that differs from the card.
    """

    argument: str
    mended: Any
    upstream: Any
    defect: str
    upstream_input: Input | None = None


class Smallest(Strict):
    """The least costly way to run a model through the whole harness, for `--tiny` and for tests.

    Attributes:
        image_size: Side of the smallest square input that it takes.
        arguments: Constructor arguments that this size needs.
    """

    image_size: int = Field(gt=0)
    arguments: dict[str, Any] = Field(default_factory=dict)


class ModelCard(Strict):
    """How a model is built, fed and trained.

    Attributes:
        name: The card's and the file's name, and the row's in a table.
        model: The registered name that is built; the card's own by default.
        title: One line for people.
        paper: Citation or link; empty where there is none.
        source: Where the code comes from.
        licence: Licence of that code.
        arguments: Constructor arguments that differ from the constructor's defaults.
        image_size: Side of the square input in pixels.
        fit: How an image comes to that size. `grid` crops (training) or pads (testing, the whole
            photograph) on the photograph's own 8 x 8 JPEG grid and never resizes.
        edge_mask_width: Width in pixels of the edge mask the model trains with, None for none.
        uses_label: Whether the loss reads the image-level label.
        post_function: What adds to each item, by its name in `harness.post_functions` or in
            IMDLBenCo's registry of post functions; None for nothing.
        precision: Numerical precision that it was made for.
        eval_mode: Whether it is tested in evaluation mode.
        weights: Pretrained files it can start from.
        recipe: The training recipe used when none is named.
        mended: Defects of the published code, and the argument that chooses between ways.
        parity: Whether outputs were compared with the published code's at equal weights.
        smallest: How to run it at the least cost; the card's own size where it is None.
        trainable: Whether there is anything to train; false for trivial baselines.
        benchmark: Whether `--models all` means it; false for what is no localiser and for helpers.
        notes: What else a reader of a table should know.
    """

    name: str
    model: str = ""
    title: str
    paper: str = ""
    source: str
    licence: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    image_size: int = Field(gt=0)
    fit: Fit = "resize"
    edge_mask_width: int | None = Field(default=None, gt=0)
    uses_label: bool = False
    post_function: str | None = None
    precision: Literal["auto", "32", "16-mixed", "bf16-mixed"] = "auto"
    eval_mode: bool = True
    weights: list[WeightFile] = Field(default_factory=list)
    recipe: str | None = None
    mended: list[Mended] = Field(default_factory=list)
    parity: Literal["verified", "unverified"] = "unverified"
    smallest: Smallest | None = None
    trainable: bool = True
    benchmark: bool = True
    notes: str = ""

    @model_validator(mode="before")
    @classmethod
    def _registered_under_its_own_name(cls, content: Any) -> Any:  # noqa: ANN401 -- unchecked YAML
        if isinstance(content, dict) and "name" in content:
            return {"model": content["name"], **content}
        return content

    @property
    def weight_arguments(self) -> tuple[str, ...]:
        """The constructor arguments that name weights files, each once."""
        return tuple(dict.fromkeys(weight.argument for weight in self.weights))

    def input_for(self, arguments: Mapping[str, Any]) -> Input:
        """Return how the model is fed when it is built with these constructor arguments.

        Args:
            arguments: Those that are given; the others have the constructor's defaults.
        """
        for item in self.mended:
            is_upstreams = arguments.get(item.argument, item.mended) == item.upstream
            if item.upstream_input is not None and is_upstreams:
                return item.upstream_input
        return Input(fit=self.fit, post_function=self.post_function)


def load_model_card(name: str) -> ModelCard | None:
    """Return the card called `name`, None where there is none; `timm:NAME` makes its own.

    Raises:
        UserError: When the card is wrong; names the file, the line and the field. When timm has no
            such backbone; names the closest three.
    """
    if is_timm_word(name):
        return timm_card(name)
    file = find_cards("model").get(name)
    return None if file is None else read_model_card(file)


def card_names() -> list[str]:
    """Return the names of all model cards."""
    return sorted(find_cards("model"))


def read_model_card(file: Path) -> ModelCard:
    """Read and check one card, with what it inherits.

    Raises:
        UserError: When it is no YAML mapping or a field is wrong; names the file, the line and the
            field.
    """
    content, root = read_yaml(file, "a model card")
    return check_card(file, _with_inherited(file, content), root, ModelCard)


def _with_inherited(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Add what the named card gives and this one does not, and so on upwards."""
    merged = dict(content)
    for _ in range(_MOST_ANCESTORS + 1):
        parent = merged.pop("inherits", None)
        if parent is None:
            return merged
        known = find_cards("model") | {path.stem: path for path in file.parent.glob("*.yaml")}
        if not isinstance(parent, str) or parent not in known:
            hint = suggest(str(parent), known)
            raise UserError(f'{file}: inherits: there is no model card "{parent}".{hint}')
        above = read_yaml(known[parent], "a model card")[0]
        # The registered name follows the card's own, not its parent's.
        merged = {key: value for key, value in above.items() if key != "model"} | merged
    raise UserError(f"{file}: inherits: more than {_MOST_ANCESTORS} cards deep, or in a circle")
