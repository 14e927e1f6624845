"""The table of options: every flag of `benco train` and `benco test`, its default and its meaning.

It holds every flag of IMDLBenCo 0.1.45's `train.py`, `test.py` and `test_robust.py` under its own
name, and the plugin's own. `options` reads command lines against it. A default that is not
upstream's says why (`deviation`).
"""

from dataclasses import dataclass
from typing import Final

from sparsevit_plugin.backends.choices import BACKENDS
from sparsevit_plugin.model.choices import MATMULS

VERBS: Final = ("train", "test")
TRAIN: Final = ("train",)

LOCALIZATION: Final = "localization"
DETECTION: Final = "detection"
AUTO: Final = "auto"
IMAGE_HEADS: Final = (AUTO, "own", "max", "topk", "gem", "linear")
OF_DETECTION: Final = ("task", "image_head", "image_loss_weight", "mask_loss_weight")
"""Options that are no part of what a run without detection is."""


@dataclass(frozen=True)
class Option:
    """One option: what it is called, what it takes, and what it is when nobody sets it.

    Attributes:
        name: The attribute of `Config` that holds the value.
        kind: `str`, `int`, `float`, `bool` or `strings` (a flag that may be repeated).
        default: The value when no flag, recipe or card gives one.
        help: One plain sentence.
        group: The heading in the help text.
        verbs: The commands in which the option means something.
        spelling: The flag's name where it cannot be the attribute's.
        upstream: Its flags in upstream's scripts; empty for the plugin's own options.
        switches: Flags without a value that set the option: `(flag, value)`.
        choices: The values allowed, where they are few.
        pattern: A regular expression that a value must match, and `expects`, the words for it.
        minimum: The least number allowed.
        maximum: The greatest number allowed.
        optional: Whether `none` is a value.
        as_upstream: Whether upstream's scripts, which have no such flag, do what the default says.
        deviation: Why the default differs from upstream's.
        ignored: Why the flag has no meaning here; such a flag is accepted and reported.
        affects_results: Whether two runs that differ in it can give different numbers.
        in_recipe: Whether a recipe may set it.
        came_later: Whether results were stored before there was this option: at its default it is
            left out of what names a run, so that these stay found.
    """

    name: str
    kind: str
    default: object
    help: str
    group: str
    verbs: tuple[str, ...] = VERBS
    spelling: str = ""
    upstream: tuple[str, ...] = ()
    switches: tuple[tuple[str, object], ...] = ()
    choices: tuple[str, ...] = ()
    pattern: str = ""
    expects: str = ""
    minimum: float | None = None
    maximum: float | None = None
    optional: bool = False
    as_upstream: bool = False
    deviation: str = ""
    ignored: str = ""
    affects_results: bool = True
    in_recipe: bool = True
    came_later: bool = False

    @property
    def flag(self) -> str:
        """The flag's name as the help shows it, without the dashes in front."""
        return (self.spelling or self.name).replace("_", "-")

    @property
    def default_origin(self) -> str:
        """Where the default comes from, in the words of `--print-config`."""
        if self.as_upstream or (self.upstream and not self.deviation):
            return "upstream default"
        return "plugin default"


def _model_options() -> list[Option]:
    group = "model"
    return [
        Option(
            "model",
            "str",
            "",
            "Registered name of the model; `benco models` lists them.",
            group,
            upstream=("model",),
        ),
        Option(
            "recipe",
            "str",
            "none",
            "Recipe that sets options: a shipped name, a YAML file, or none for upstream's "
            "own defaults. Without the flag, the recipe that the model's card names.",
            group,
            affects_results=False,
            in_recipe=False,
        ),
        Option(
            "imports",
            "strings",
            (),
            "Python file or module that registers models; may be repeated.",
            group,
            spelling="import",
            affects_results=False,
            in_recipe=False,
        ),
        Option(
            "weights",
            "str",
            "named",
            "Pretraining weights: only files that a flag or recipe names; card: those that the "
            "model's card asks for, from --weights-root, or where the card says so from the "
            "Hugging Face Hub if it can be reached; hub: these alone, or an error; none: random "
            "weights.",
            group,
            verbs=TRAIN,
            choices=("named", "card", "hub", "none"),
            affects_results=False,
        ),
        Option(
            "weights_root",
            "str",
            "",
            "Folder in which --weights card looks for the files, at any depth.",
            group,
            verbs=TRAIN,
            affects_results=False,
        ),
        Option(
            "pretrained_sha256",
            "str",
            "",
            "SHA-256 that the pretraining weights file must have.",
            group,
            verbs=TRAIN,
            pattern=r"[0-9a-fA-F]{64}",
            expects="64 hexadecimal digits",
        ),
        Option(
            "checkpoint",
            "str",
            "",
            "Weights to test, or to start training from: a file, or the output folder of a run.",
            group,
            upstream=("checkpoint_path",),
            deviation="upstream's default is a folder on its authors' machine",
            in_recipe=False,
        ),
        Option(
            "if_predict_label",
            "bool",
            False,
            "Train and use the image-level head of a model that has one.",
            group,
            upstream=("if_predict_label",),
        ),
        Option(
            "task",
            "str",
            LOCALIZATION,
            "localization: maps. detection: image scores too, learnt from the images' labels "
            "(docs/detection.md).",
            group,
            choices=(LOCALIZATION, DETECTION),
            as_upstream=True,
        ),
        Option(
            "image_head",
            "str",
            AUTO,
            "With --task detection, where an image's score comes from: the map's max, its top 1 % "
            "(topk), its generalised mean (gem), a learned layer (linear), or the model's own "
            "output (own); auto: own of a model whose loss reads the label, else max.",
            group,
            choices=IMAGE_HEADS,
        ),
        Option(
            "image_loss_weight",
            "float",
            1.0,
            "With --task detection, weight of the cross-entropy of the image score.",
            group,
            verbs=TRAIN,
            minimum=0,
        ),
        Option(
            "mask_loss_weight",
            "float",
            1.0,
            "With --task detection, weight of the model's own loss; 0 learns from labels alone.",
            group,
            verbs=TRAIN,
            minimum=0,
        ),
        Option(
            "no_model_eval",
            "bool",
            False,
            "Test without switching the model to eval mode.",
            group,
            upstream=("no_model_eval",),
        ),
    ]


def _data_options() -> list[Option]:
    group = "data"
    return [
        Option(
            "data_path",
            "str",
            "",
            "Training set: a folder with Tp/ and Gt/, or a JSON file.",
            group,
            verbs=TRAIN,
            upstream=("data_path",),
            deviation="upstream's default is a folder on its authors' machine",
        ),
        Option(
            "test_data_path",
            "str",
            "",
            "Test set, or a JSON file that names several.",
            group,
            upstream=("test_data_path", "test_data_json"),
            deviation="upstream's default is a folder on its authors' machine",
        ),
        Option(
            "data_root",
            "str",
            "",
            "Folder of registered sets, for the data paths set:NAME and protocol:NAME.",
            group,
            affects_results=False,
        ),
        Option(
            "data_paths",
            "str",
            "",
            "YAML file of set name to path, over --data-root; without it, DATA_ROOT/paths.yaml.",
            group,
            affects_results=False,
        ),
        Option(
            "limit_images",
            "int",
            None,
            "Use so many images of every set, evenly spread over it; for trying things out.",
            group,
            minimum=1,
            optional=True,
        ),
        Option(
            "perturbation",
            "str",
            "none",
            "What is done to a test image before the model sees it: none, or KIND:STRENGTH as in "
            "jpeg:75, blur:5, noise:11, resize:50, double:90-70 or social:telegram "
            "(docs/robustness.md).",
            group,
            verbs=("test",),
            pattern=r"none|(jpeg|blur|noise|resize):\d+|double:\d+-\d+(@\d+)?|social:[\w-]+",
            expects="none, jpeg:QUALITY, blur:KERNEL, noise:VARIANCE, resize:PERCENT, "
            "double:QUALITY-QUALITY[@LONGEST_SIDE] or social:NAME",
        ),
        Option(
            "image_size",
            "int",
            512,
            "Side of the square that images are fitted to; also given to a model that "
            "takes img_size or image_size.",
            group,
            upstream=("image_size",),
            minimum=1,
        ),
        Option(
            "fit",
            "str",
            "",
            "How an image is fitted to that square (upstream: --if-resizing, --if-padding); "
            "grid: crops of it in training and whole photographs in tests, on their JPEG grid.",
            group,
            upstream=("if_padding", "if_resizing"),
            switches=(("if_padding", "pad"), ("if_resizing", "resize")),
            choices=("resize", "pad", "grid"),
        ),
        Option(
            "tile",
            "int",
            None,
            "Side in pixels of overlapping tiles that the model sees a photograph by, for large "
            "ones in bounded memory; a multiple of 32. Photographs keep their own size then "
            "(--fit grid), unless --fit says otherwise.",
            group,
            verbs=("test",),
            minimum=32,
            optional=True,
        ),
        Option(
            "tile_overlap",
            "int",
            None,
            "Pixels that neighbouring tiles share; without it, a quarter of their side.",
            group,
            verbs=("test",),
            minimum=0,
            optional=True,
        ),
        Option(
            "edge_mask_width",
            "int",
            None,
            "Width in pixels of the edge mask, for models that want one.",
            group,
            upstream=("edge_mask_width",),
            minimum=1,
            optional=True,
        ),
        Option(
            "augmentation",
            "str",
            "benco",
            "Training augmentation: a shipped list (benco, demo, none) or a YAML file.",
            group,
            verbs=TRAIN,
            as_upstream=True,
        ),
        Option(
            "pair",
            "str",
            "name",
            "How images and masks of a folder are paired.",
            group,
            choices=("name", "position"),
        ),
        Option(
            "on_bad_image",
            "str",
            "stop",
            "What to do with an image that cannot be used.",
            group,
            choices=("stop", "skip"),
        ),
        Option(
            "num_workers",
            "int",
            1,
            "Processes that load data.",
            group,
            upstream=("num_workers",),
            minimum=0,
            affects_results=False,
        ),
        Option(
            "pin_mem",
            "bool",
            True,
            "Load batches into pinned memory; used on a GPU only.",
            group,
            upstream=("pin_mem", "no_pin_mem"),
            affects_results=False,
        ),
    ]


def _training_options() -> list[Option]:
    group = "training"
    return [
        Option(
            "epochs",
            "int",
            200,
            "Epochs to train.",
            group,
            verbs=TRAIN,
            upstream=("epochs",),
            minimum=1,
        ),
        Option(
            "batch_size",
            "int",
            1,
            "Images a process takes at a time.",
            group,
            verbs=TRAIN,
            upstream=("batch_size",),
            minimum=1,
        ),
        Option(
            "accum_iter",
            "int",
            16,
            "Batches whose gradients are added up for one step.",
            group,
            verbs=TRAIN,
            upstream=("accum_iter",),
            minimum=1,
        ),
        Option(
            "optimizer",
            "str",
            "adamw",
            "Optimiser, with betas 0.9 and 0.999.",
            group,
            verbs=TRAIN,
            choices=("adamw", "adam"),
            as_upstream=True,
        ),
        Option(
            "lr",
            "float",
            None,
            "Highest learning rate; without it, blr x effective batch / 256.",
            group,
            verbs=TRAIN,
            upstream=("lr",),
            minimum=0,
            optional=True,
        ),
        Option(
            "blr",
            "float",
            1e-3,
            "Learning rate for an effective batch of 256, used without --lr.",
            group,
            verbs=TRAIN,
            upstream=("blr",),
            minimum=0,
        ),
        Option(
            "min_lr",
            "float",
            0.0,
            "Learning rate at the end of the cosine.",
            group,
            verbs=TRAIN,
            upstream=("min_lr",),
            minimum=0,
        ),
        Option(
            "warmup_epochs",
            "float",
            4.0,
            "Epochs over which the learning rate rises; may be a fraction.",
            group,
            verbs=TRAIN,
            upstream=("warmup_epochs",),
            minimum=0,
        ),
        Option(
            "weight_decay",
            "float",
            0.05,
            "Weight decay.",
            group,
            verbs=TRAIN,
            upstream=("weight_decay",),
            minimum=0,
        ),
        Option(
            "layer_decay",
            "float",
            None,
            "Factor between the learning rates of one layer and the next above it, as 0.75; the "
            "head has the full rate. For models whose layers are known (SparseViT, most timm "
            "backbones).",
            group,
            verbs=TRAIN,
            minimum=0,
            maximum=1,
            optional=True,
            as_upstream=True,
            came_later=True,
        ),
        Option(
            "clip_grad",
            "float",
            None,
            "Largest gradient norm; none leaves gradients alone, as upstream does.",
            group,
            verbs=TRAIN,
            minimum=0,
            optional=True,
            as_upstream=True,
        ),
        Option(
            "seed", "int", 42, "Seed of every random draw.", group, upstream=("seed",), minimum=0
        ),
        Option(
            "resume",
            "str",
            "",
            "Go on from a checkpoint: a path, or auto for the newest in the output folder.",
            group,
            verbs=TRAIN,
            upstream=("resume",),
            affects_results=False,
            in_recipe=False,
        ),
        Option(
            "start_epoch",
            "int",
            0,
            "First epoch's number; --resume sets it by itself.",
            group,
            verbs=TRAIN,
            upstream=("start_epoch",),
            minimum=0,
        ),
    ]


def _selection_options() -> list[Option]:
    group = "selection and evaluation"
    return [
        Option(
            "select",
            "str",
            "val",
            "What picks the best checkpoint: a hold-out of the training set, nothing "
            "(the last one), or the test sets (upstream's way; tables say so).",
            group,
            verbs=TRAIN,
            choices=("val", "last", "test"),
        ),
        Option(
            "val_fraction",
            "float",
            0.05,
            "Share of each training set that is held out under --select val.",
            group,
            verbs=TRAIN,
            minimum=0,
            maximum=0.9,
        ),
        Option(
            "test_period",
            "int",
            4,
            "Epochs from one evaluation to the next.",
            group,
            verbs=TRAIN,
            upstream=("test_period",),
            minimum=1,
        ),
        Option(
            "test_batch_size",
            "int",
            2,
            "Images a process takes at a time in evaluation.",
            group,
            upstream=("test_batch_size",),
            minimum=1,
        ),
        Option(
            "evaluators",
            "str",
            "exact",
            "Exact metrics, or IMDLBenCo's own for tables that must match published ones.",
            group,
            choices=("exact", "benco"),
        ),
    ]


def _device_options() -> list[Option]:
    group = "device and speed"
    return [
        Option(
            "device",
            "str",
            "auto",
            "Where to compute: auto, cpu, cuda, cuda:N or mps.",
            group,
            upstream=("device",),
            pattern=r"auto|cpu|mps|cuda(:\d+)?",
            expects="auto, cpu, cuda, cuda:N or mps",
            deviation="upstream's default is cuda; auto takes what the machine has",
            affects_results=False,
        ),
        Option(
            "devices",
            "int",
            1,
            "Devices to use on this machine; under torchrun its own count is used.",
            group,
            minimum=1,
        ),
        Option(
            "precision",
            "str",
            "auto",
            "Number format; auto is fp16 on CUDA, as upstream trains, and fp32 elsewhere "
            "(upstream: --if-not-amp for 32). bf16 and int8 are for tests.",
            group,
            upstream=("if_not_amp",),
            switches=(("if_not_amp", "32"),),
            choices=("auto", "32", "fp32", "bf16", "int8", "16-mixed", "bf16-mixed"),
        ),
        Option(
            "backend",
            "str",
            "torch",
            "What computes the maps; openvino and onnxruntime are extras and run on the CPU.",
            group,
            verbs=("test",),
            choices=BACKENDS,
        ),
        Option(
            "calibration_data",
            "str",
            "",
            "Photographs, of the training data, that --precision int8 is calibrated on: a data "
            "path as --data-path.",
            group,
            verbs=("test",),
        ),
        Option(
            "calibration_images",
            "int",
            64,
            "How many of them, drawn from all sets together.",
            group,
            verbs=("test",),
            minimum=1,
        ),
        Option(
            "matmul",
            "str",
            "auto",
            "Which library multiplies matrices on a CPU: auto measures once and takes the faster "
            "(benco env shows it). The results are equal but for rounding.",
            group,
            choices=MATMULS,
            affects_results=False,
        ),
        Option(
            "activation_checkpointing",
            "bool",
            False,
            "Keep only the input of each attention block for the backward pass and run the block "
            "again there: less memory for more time. For models that can, as SparseViT.",
            group,
            verbs=TRAIN,
            affects_results=False,
        ),
        Option("compile", "bool", False, "Compile the model with torch.compile.", group),
        Option(
            "find_unused_parameters",
            "bool",
            False,
            "Let several processes train a model some of whose parameters get no gradient.",
            group,
            verbs=TRAIN,
            upstream=("find_unused_parameters",),
            affects_results=False,
        ),
        Option(
            "sync_bn",
            "bool",
            None,
            "Let several processes on GPUs share BatchNorm's statistics, as upstream does, or not "
            "(--no-sync-bn); they do unless it is said. PyTorch has no such thing on CPUs.",
            group,
            verbs=TRAIN,
            optional=True,
            as_upstream=True,
            came_later=True,
        ),
    ]


def _output_options() -> list[Option]:
    group = "output"
    return [
        Option(
            "output_dir",
            "str",
            "./output_dir",
            "Folder for checkpoints, logs and result rows.",
            group,
            upstream=("output_dir",),
            affects_results=False,
        ),
        Option(
            "log_dir",
            "str",
            "",
            "TensorBoard folder; without it, the output folder.",
            group,
            upstream=("log_dir",),
            deviation="follows --output-dir, as every script of upstream's sets it",
            affects_results=False,
        ),
        Option(
            "name",
            "str",
            "",
            "Name of the row in tables; without it, the model's.",
            group,
            affects_results=False,
        ),
        Option(
            "overwrite",
            "bool",
            False,
            "Use an output folder that holds another run.",
            group,
            affects_results=False,
            in_recipe=False,
        ),
        Option(
            "save_every",
            "str",
            "10min",
            "Checkpoint within an epoch after so many steps (500) or minutes (10min); "
            "one is also written at the end of every epoch.",
            group,
            verbs=TRAIN,
            pattern=r"[1-9]\d*(min)?",
            expects="a number of steps such as 500, or of minutes such as 10min",
            affects_results=False,
        ),
        Option(
            "log_per_epoch_count",
            "int",
            20,
            "Points of the loss curve in an epoch.",
            group,
            verbs=TRAIN,
            upstream=("log_per_epoch_count",),
            minimum=1,
            affects_results=False,
        ),
        Option(
            "print_config",
            "bool",
            False,
            "Print every value and where it comes from, and stop.",
            group,
            affects_results=False,
            in_recipe=False,
        ),
    ]


def _ignored_options() -> list[Option]:
    group = "ignored"
    launcher = "the launcher (torchrun, or --devices) sets up processes"
    return [
        Option("world_size", "str", None, "", group, upstream=("world_size",), ignored=launcher),
        Option("local_rank", "str", None, "", group, upstream=("local_rank",), ignored=launcher),
        Option("dist_url", "str", None, "", group, upstream=("dist_url",), ignored=launcher),
        Option("dist_on_itp", "bool", None, "", group, upstream=("dist_on_itp",), ignored=launcher),
    ]


OPTIONS: Final[tuple[Option, ...]] = (
    *_model_options(),
    *_data_options(),
    *_training_options(),
    *_selection_options(),
    *_device_options(),
    *_output_options(),
)
IGNORED: Final[tuple[Option, ...]] = tuple(_ignored_options())
BY_NAME: Final[dict[str, Option]] = {option.name: option for option in OPTIONS}
