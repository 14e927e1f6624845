"""The configuration of a run: every value, and where it comes from.

Precedence, highest first:

1. a flag of the command line;
2. the recipe that `--recipe` names;
3. in `benco test`, what the checkpoint says that it was trained with;
4. the recipe that the model's card names (where `--recipe` is not given);
5. the model's card;
6. upstream's default, or the plugin's own where it says why it differs.

    >>> cfg = resolve("train", ["--model", "SparseViT", "--data-path", "CASIA2.0"])
    >>> cfg.lr, cfg.origin["lr"]
    (0.0002, 'recipe sparsevit-default')
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sparsevit_plugin import registration
from sparsevit_plugin.backends.choices import INT8, SPELLINGS, TORCH, settle
from sparsevit_plugin.cards import ModelCard
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness import arguments, options, weight_files
from sparsevit_plugin.harness.arguments import Argument
from sparsevit_plugin.harness.option_table import (
    AUTO,
    BY_NAME,
    DETECTION,
    LOCALIZATION,
    OF_DETECTION,
    OPTIONS,
)
from sparsevit_plugin.harness.options import show, written
from sparsevit_plugin.harness.recipes import NO_RECIPE, Recipe, load_recipe

# Constructor arguments that mean the side of the images.
_SIZE_ARGUMENTS: Final = ("image_size", "img_size", "input_size")
# What a checkpoint settles: the options that shape the model and its input.
_RECORDED: Final = (
    "model",
    "image_size",
    "fit",
    "edge_mask_width",
    "if_predict_label",
    "no_model_eval",
)
_RECORDED_TASK: Final = ("task", "image_head")  # a checkpoint settles them too


_FLAG: Final = "flag"  # the origin of what the command line says


@dataclass(frozen=True)
class Config:
    """Everything that a run was asked to do. The options' meanings are in `option_table`.

    Attributes:
        verb: `train` or `test`.
        model_class: The model's constructor.
        model_arguments: What to call it with: the arguments that a flag, a recipe, a card or an
            option of the same name gave.
        constructor_defaults: The other arguments of the constructor.
        origin: Where each option's value comes from.
        argument_origin: The same for `model_arguments`.
        registered: The name that the model is registered by; `model` is its card's.
        ignored: Flags that were accepted and have no meaning here, with the reason.
        recipe_file: The recipe in use.
    """

    verb: str
    model_class: Callable[..., Any]
    model: str
    recipe: str
    imports: tuple[str, ...]
    weights: str
    weights_root: str
    pretrained_sha256: str
    checkpoint: str
    if_predict_label: bool
    task: str
    image_head: str
    image_loss_weight: float
    mask_loss_weight: float
    no_model_eval: bool
    data_path: str
    test_data_path: str
    data_root: str
    data_paths: str
    limit_images: int | None
    perturbation: str
    image_size: int
    fit: str
    tile: int | None
    tile_overlap: int | None
    edge_mask_width: int | None
    augmentation: str
    pair: str
    on_bad_image: str
    num_workers: int
    pin_mem: bool
    epochs: int
    batch_size: int
    accum_iter: int
    optimizer: str
    lr: float | None
    blr: float
    min_lr: float
    warmup_epochs: float
    weight_decay: float
    layer_decay: float | None
    clip_grad: float | None
    seed: int
    resume: str
    start_epoch: int
    select: str
    val_fraction: float
    test_period: int
    test_batch_size: int
    evaluators: str
    device: str
    devices: int
    precision: str
    backend: str
    calibration_data: str
    calibration_images: int
    matmul: str
    activation_checkpointing: bool
    compile: bool
    find_unused_parameters: bool
    sync_bn: bool | None
    output_dir: str
    log_dir: str
    name: str
    overwrite: bool
    save_every: str
    log_per_epoch_count: int
    print_config: bool
    model_arguments: dict[str, Any] = field(default_factory=dict)
    constructor_defaults: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    argument_origin: dict[str, str] = field(default_factory=dict)
    registered: str = ""
    ignored: list[tuple[str, str]] = field(default_factory=list)
    recipe_file: Recipe = field(default_factory=Recipe)

    def options(self) -> dict[str, object]:
        """Return the options that mean something in this verb, with their values."""
        return {o.name: getattr(self, o.name) for o in OPTIONS if self.verb in o.verbs}

    def result_options(self) -> dict[str, object]:
        """Return those of `options` that can change the numbers.

        What belongs to detection counts there only, and what came later only away from its default,
        so that runs from before it was there keep their identity.
        """
        apart = OF_DETECTION if self.task == LOCALIZATION else ()
        return {
            name: value
            for name, value in self.options().items()
            if BY_NAME[name].affects_results
            and name not in apart
            and not (BY_NAME[name].came_later and value == BY_NAME[name].default)
        }

    def hash(self) -> str:
        """Return 16 hexadecimal digits that change with whatever changes the results.

        Folders to write to, the number of loading processes and the like do not count.
        """
        call = {**self.constructor_defaults, **self.model_arguments}
        values = self.result_options()
        content = {"verb": self.verb, "options": values, "model_arguments": call}
        text = json.dumps(_plain(content), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return the whole configuration as JSON can hold it."""
        content = {
            "verb": self.verb,
            "hash": self.hash(),
            "options": self.options(),
            "origin": self.origin,
            "model_arguments": self.model_arguments,
            "argument_origin": self.argument_origin,
            "constructor_defaults": self.constructor_defaults,
            "ignored": self.ignored,
            "recipe": self.recipe_file.to_dict(),
        }
        plain: dict[str, Any] = _plain(content)
        return plain

    def to_text(self) -> str:
        """Return every value and its origin as an aligned table."""
        rows = [
            (name, "not set" if value == "" else show(value), self.origin[name])
            for name, value in self.options().items()
        ]
        lines = _aligned([("option", "value", "origin"), *rows])
        own = {**self.model_arguments, **self.constructor_defaults}
        rows = [
            (name, show(_plain(value)), self.argument_origin.get(name, "constructor default"))
            for name, value in own.items()
        ]
        if rows:
            lines += ["", *_aligned([(f"argument of {self.model}", "value", "origin"), *rows])]
        if self.ignored:
            lines += ["", "ignored"] + [f"{flag}: {reason}" for flag, reason in self.ignored]
        if self.recipe_file.title:
            lines += ["", f"recipe {self.recipe_file.name}: {self.recipe_file.title}"]
        if self.recipe_file.effective_batch:
            lines.append(f"meant for an effective batch of {self.recipe_file.effective_batch}")
        return "\n".join(lines)

    def print(self) -> None:
        """Print every value and its origin, for `--print-config`."""
        print(self.to_text())


def effective_batch(cfg: Config, world: int) -> int:
    """Return the images in one optimiser step over `world` processes."""
    return cfg.batch_size * cfg.accum_iter * world


def absolute_lr(cfg: Config, world: int) -> float:
    """Return the highest learning rate: `--lr`, or upstream's blr x effective batch / 256."""
    return cfg.lr if cfg.lr is not None else cfg.blr * effective_batch(cfg, world) / 256


def save_interval(cfg: Config) -> tuple[int | None, float | None]:
    """Return `--save-every` as (steps, None) or (None, seconds)."""
    if cfg.save_every.endswith("min"):
        return None, 60.0 * int(cfg.save_every.removesuffix("min"))
    return int(cfg.save_every), None


@dataclass(frozen=True)
class Layer:
    """Values from one place of the precedence.

    Attributes:
        origin: The place, as `--print-config` names it.
        where: How an error names one of its constructor arguments; `{}` stands for the argument.
        options: Values by option name, converted.
        model_arguments: Values by constructor argument, as YAML gives them.
    """

    origin: str
    where: str = "{}"
    options: Mapping[str, object] = field(default_factory=dict)
    model_arguments: Mapping[str, object] = field(default_factory=dict)


Recorded = Callable[[str], Mapping[str, Mapping[str, Any]]]


def resolve(
    verb: str,
    argv: Sequence[str],
    *,
    recorded: Recorded | None = None,
    common_recipe: bool = False,
    needs_data: bool = True,
) -> Config:
    """Read a command line, and everything it refers to, into a configuration.

    Args:
        verb: `train` or `test`.
        argv: The words after the verb.
        recorded: For `test`: takes the value of `--checkpoint` and returns what the checkpoint says
            of its own training, as `{"options": {...}, "model_arguments": {...}}`; both may be
            missing. Of the options only those that shape the model and its input are used, of the
            arguments all but the pretraining files, which the checkpoint supersedes.
        common_recipe: The recipe is one for many models: what a model is fed stays as its card has
            it, and arguments that its constructor does not take are left out and reported.
        needs_data: Whether a command line that names no data is refused.

    Raises:
        UserError: Anything that the user can mend: unknown or misspelt flags, values, models,
            recipes or constructor arguments; missing ones; contradictions.
    """
    flags = options.parse(verb, argv)
    named = load_recipe(str(flags.values["recipe"])) if "recipe" in flags.values else None
    record = _recorded_layer(verb, flags, recorded)
    registration.register_all()
    registration.import_user([*_texts(flags.values, "imports"), *(named.imports if named else ())])
    model = _model_name(verb, flags, [named.options if named else {}, record.options])
    card, found = registration.resolve_model(model)
    registered, constructor = found.name, found.constructor
    recipe = named or load_recipe(card.recipe if card and card.recipe else NO_RECIPE)
    if not named:
        registration.import_user(list(recipe.imports))
    if card and record.model_arguments:
        record = _as_a_record_can_say(record, card, constructor)
    from_recipe = _recipe_layer(recipe, named is not None)
    left_out: list[tuple[str, str]] = []
    if named and common_recipe:
        from_recipe, left_out = _for_any_model(from_recipe, constructor)
    layers = [from_recipe, record] if named else [record, from_recipe]
    layers = [*layers, _card_layer(model, card)]
    files = weight_files.chosen_files(verb, flags.values, card)
    layers.insert(0, Layer("--weights", "--weights: {}", model_arguments=files))
    if flags.values.get("tile") is not None:
        layers.insert(0, Layer("--tile", options={"fit": "grid"}))
    cfg = combine(verb, constructor, flags, layers, recipe, needs_data=needs_data)
    if card and card.input_for(cfg.model_arguments).fit != layers[-1].options["fit"]:
        layers[-1] = _card_layer(model, card, cfg.model_arguments)
        cfg = combine(verb, constructor, flags, layers, recipe, needs_data=needs_data)
    ignored = [*cfg.ignored, *left_out]
    return dataclasses.replace(cfg, registered=registered, ignored=ignored)


def _texts(values: Mapping[str, object], name: str) -> tuple[str, ...]:
    value = values.get(name, ())
    return tuple(str(item) for item in value) if isinstance(value, tuple) else ()


def _model_name(verb: str, flags: options.Flags, lower: Sequence[Mapping[str, object]]) -> str:
    for values in (flags.values, *lower):
        if values.get("model"):
            return str(values["model"])
    for name in flags.other:  # without a model, these cannot be told from its arguments
        hint = suggest(written(name), options.flag_names(verb))
        if hint:
            raise UserError(f"unknown flag {written(name)}, and no --model.{hint}")
    raise UserError(f'benco {verb} needs --model NAME; "benco models" lists the names')


def _recorded_layer(verb: str, flags: options.Flags, recorded: Recorded | None) -> Layer:
    """Return what the checkpoint to test says of its training."""
    path = str(flags.values.get("checkpoint", ""))
    if verb != "test" or recorded is None or not path:
        return Layer("checkpoint")
    content = recorded(path)
    values = {
        name: options.convert(BY_NAME[name], value, f"checkpoint {path}: {name}")
        for name, value in content.get("options", {}).items()
        if name in (*_RECORDED, *_RECORDED_TASK)
    }
    where = f"checkpoint {path}: {{}}"
    return Layer("checkpoint", where, values, content.get("model_arguments", {}))


def _as_a_record_can_say(record: Layer, card: ModelCard, constructor: Callable[..., Any]) -> Layer:
    """Drop what a record holds and means nothing.

    That is the pretraining files, which the checkpoint supersedes, unless they are required; and
    Python objects such as a norm's class, of which a record has only the text: nothing but the
    constructor's own default can have been there.
    """
    takes = arguments.read_arguments(constructor)
    dropped = {w.argument for w in card.weights if w.argument in takes}
    dropped = {name for name in dropped if not takes[name].required}
    dropped |= {name for name, argument in takes.items() if argument.kind is None}
    kept = {n: value for n, value in record.model_arguments.items() if n not in dropped}
    return dataclasses.replace(record, model_arguments=kept)


def _recipe_layer(recipe: Recipe, named: bool) -> Layer:
    values = dict(recipe.options)
    if not named:  # a model's card names it, so the model is settled
        values.pop("model", None)
    where = f"{recipe.path}: model_arguments.{{}}"
    return Layer(f"recipe {recipe.name}", where, values, recipe.model_arguments)


def _for_any_model(
    layer: Layer, constructor: Callable[..., Any]
) -> tuple[Layer, list[tuple[str, str]]]:
    """Drop from a recipe's layer what belongs to the model that it was written for."""
    takes = arguments.read_arguments(constructor)
    kept = {name: value for name, value in layer.model_arguments.items() if name in takes}
    reason = f"the model takes no such argument ({layer.origin})"
    left_out = [(written(name), reason) for name in layer.model_arguments if name not in takes]
    of_card = (*_RECORDED, "precision")
    values = {name: value for name, value in layer.options.items() if name not in of_card}
    return dataclasses.replace(layer, options=values, model_arguments=kept), left_out


def _card_layer(
    model: str, card: ModelCard | None, chosen: Mapping[str, Any] | None = None
) -> Layer:
    """Return what a card says; of how the model is fed, what the chosen arguments ask for."""
    if card is None:
        return Layer(f"{model} has no card", options={"recipe": NO_RECIPE})
    values: dict[str, object] = {
        "recipe": card.recipe or NO_RECIPE,
        "image_size": card.image_size,
        "fit": card.input_for(card.arguments if chosen is None else chosen).fit,
        "edge_mask_width": card.edge_mask_width,
        "if_predict_label": card.uses_label,
        "precision": card.precision,
        "no_model_eval": not card.eval_mode,
    }
    return Layer(f"card {model}", f"card {model}: arguments.{{}}", values, card.arguments)


def combine(
    verb: str,
    constructor: Callable[..., Any],
    flags: options.Flags,
    lower: Sequence[Layer],
    recipe: Recipe,
    *,
    needs_data: bool = True,
) -> Config:
    """Put the layers of the precedence together.

    Args:
        verb: `train` or `test`.
        constructor: The model's class or function.
        flags: The command line, the highest layer.
        lower: The other layers, highest first; the defaults come after them.
        recipe: The recipe among them, for the record.
        needs_data: Whether data must be named.

    Raises:
        UserError: Unknown flags or constructor arguments, wrong values, or something missing.
    """
    takes = arguments.read_arguments(constructor)
    given = _parse_other_flags(verb, flags, takes)
    layers = [Layer(_FLAG, options=flags.values), *lower]
    merged = _merge_options(layers)
    own = _merge_arguments(takes, given, layers)
    found = _link_options(verb, takes, merged, own)
    cfg = Config(
        verb=verb,
        model_class=constructor,
        model_arguments={name: found[name].value for name in takes if name in found},
        constructor_defaults={
            name: argument.default
            for name, argument in takes.items()
            if name not in found and not argument.required
        },
        origin={name: item.origin for name, item in merged.items()},
        argument_origin={name: found[name].origin for name in takes if name in found},
        ignored=list(flags.ignored),
        recipe_file=recipe,
        **{name: item.value for name, item in merged.items()},
    )
    cfg = dataclasses.replace(cfg, precision=_precision(cfg))
    if not cfg.print_config:
        _check_complete(cfg, takes, needs_data)
    return cfg


@dataclass(frozen=True)
class _Found:
    """A value, and the rank and name of the layer that it comes from."""

    value: Any
    rank: int
    origin: str


def _parse_other_flags(
    verb: str, flags: options.Flags, takes: Mapping[str, Argument]
) -> dict[str, object]:
    """Convert the flags that are no options; each must be one of the constructor's arguments."""
    given: dict[str, object] = {}
    for name, words in flags.other.items():
        positive = name.removeprefix("no_")
        if name in takes:
            given[name] = arguments.parse_words(takes[name], words, written(name))
        elif name != positive and positive in takes and takes[positive].kind is bool and not words:
            given[positive] = False
        else:
            known = [*options.flag_names(verb), *(written(other) for other in takes)]
            raise UserError(
                f'unknown flag {written(name)}: neither "benco {verb}" nor the model takes it.'
                f"{suggest(written(name), known)}"
            )
    return given


def _merge_options(layers: Sequence[Layer]) -> dict[str, _Found]:
    """Return each option's value from the highest layer that gives it, or its default."""
    merged: dict[str, _Found] = {}
    for option in OPTIONS:
        name = option.name
        merged[name] = _Found(option.default, len(layers), option.default_origin)
        for rank, layer in enumerate(layers):
            if name in layer.options:
                merged[name] = _Found(layer.options[name], rank, layer.origin)
                break
    for name, follows in (("log_dir", "output_dir"), ("name", "model")):
        if not merged[name].value:
            merged[name] = dataclasses.replace(merged[follows], origin=f"as {follows}")
    return merged


def _merge_arguments(
    takes: Mapping[str, Argument], given: Mapping[str, object], layers: Sequence[Layer]
) -> dict[str, _Found]:
    """Return the constructor arguments that some layer gives, each from the highest that does."""
    found = {name: _Found(value, 0, "flag") for name, value in given.items()}
    for rank, layer in enumerate(layers):
        for name, value in layer.model_arguments.items():
            where = layer.where.format(name)
            if name not in takes:
                hint = suggest(name, takes)
                raise UserError(f"{where}: the model takes no such argument.{hint}")
            converted = arguments.to_kind(takes[name], value, where)
            found.setdefault(name, _Found(converted, rank, layer.origin))
    return found


def _link_options(
    verb: str,
    takes: Mapping[str, Argument],
    merged: Mapping[str, _Found],
    own: Mapping[str, _Found],
) -> dict[str, _Found]:
    """Add to the arguments the options of the same name, as upstream does, and the image size.

    An argument that a layer names itself keeps that value, unless a higher layer gives the option.
    """
    found = dict(own)
    for name, argument in takes.items():
        source = "image_size" if name in _SIZE_ARGUMENTS else name
        option = BY_NAME.get(source)
        if option is None or not option.upstream or verb not in option.verbs:
            continue
        given = merged[source]
        if source == "device" and given.value == "auto":  # known only when the run starts
            continue
        value = given.value
        if argument.kind in (list, tuple) and name in _SIZE_ARGUMENTS:
            value = argument.kind((value, value))
        if name not in found or given.rank < found[name].rank:
            found[name] = _Found(value, given.rank, f"option {source} ({given.origin})")
    return found


def _check_complete(cfg: Config, takes: Mapping[str, Argument], needs_data: bool) -> None:
    """Refuse a configuration that lacks what the run cannot do without."""
    needed = ["data_path"] if cfg.verb == "train" else ["test_data_path"]
    if cfg.verb == "train" and cfg.select == "test":
        needed.append("test_data_path")
    for name in needed if needs_data else ():
        if not getattr(cfg, name):
            raise UserError(f"benco {cfg.verb} needs {written(name)}: a folder or a JSON file")
    _check_precision(cfg)
    _check_detection(cfg)
    if not cfg.fit:
        raise UserError(
            f"{cfg.model} has no card that says how images are fitted to a square; give "
            "--fit resize or --fit pad (upstream: --if-resizing, --if-padding)"
        )
    missing = [
        n for n, argument in takes.items() if argument.required and n not in cfg.model_arguments
    ]
    if missing:
        own = [name for name in missing if name in BY_NAME]
        hint = f" ({own[0]} in the model_arguments of a recipe)" if own else ""
        raise UserError(
            f"{cfg.model} needs {', '.join(written(name) for name in missing)}: "
            f"arguments of its constructor that have no default{hint}"
        )


def _check_detection(cfg: Config) -> None:
    """Refuse options of detection that would mean nothing."""
    if cfg.task == DETECTION:
        if cfg.verb == "train" and not (cfg.image_loss_weight or cfg.mask_loss_weight):
            raise UserError("--image-loss-weight and --mask-loss-weight are 0: nothing to learn")
        return
    unset = {"image_head": AUTO, "image_loss_weight": 1.0, "mask_loss_weight": 1.0}
    for name, value in unset.items():
        if getattr(cfg, name) != value and not cfg.origin[name].startswith("checkpoint"):
            raise UserError(f"{written(name)} belongs to --task detection: add it, or leave it out")


def _precision(cfg: Config) -> str:
    """Return the precision in its own word; a card's or a recipe's is meant for PyTorch."""
    if cfg.backend == TORCH:
        return SPELLINGS.get(cfg.precision, cfg.precision)
    named = cfg.precision if cfg.origin["precision"] == _FLAG else "auto"
    return settle(cfg.backend, named, cfg.device).precision


def _check_precision(cfg: Config) -> None:
    """Refuse a precision that the backend of a test, or training, does not have."""
    if cfg.verb == "test":
        settle(cfg.backend, cfg.precision, cfg.device)
    elif cfg.precision in ("bf16", INT8):
        raise UserError(
            f"--precision {cfg.precision} is for tests: training has 32, 16-mixed and bf16-mixed"
        )


def _plain(value: object) -> Any:  # noqa: ANN401 -- JSON has no type of its own
    """Return a value as JSON can hold it; functions and other objects become their names."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, functools.partial):
        return f"{_plain(value.func)}({_plain(value.args)}, {_plain(value.keywords)})"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    # A repr with an address differs from run to run.
    return type(value).__qualname__ if " at 0x" in repr(value) else repr(value)


def _aligned(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in rows]
