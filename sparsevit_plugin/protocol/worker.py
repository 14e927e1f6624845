"""The process that runs one job: trains what is not trained and tests what is not tested.

    python -m sparsevit_plugin protocol work JOB.json

`torchrun` may start several of it for one job. Every cell is stored as soon as it is finished, and
what another process has finished in the meantime is not done again.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from filelock import Timeout
from lightning_fabric import Fabric
from torch import nn

from sparsevit_plugin.backends.from_config import predictor_for
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import sha256_file, write_json_atomic
from sparsevit_plugin.harness.complexity import cached_count
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.devices import is_main_process, make_fabric
from sparsevit_plugin.harness.evaluate import evaluate_set
from sparsevit_plugin.harness.pipeline import (
    ModelUnderTest,
    SetEvaluator,
    build_model,
    evaluation_settings,
    load_checkpoint,
    make_dataset,
    read_test_sets,
)
from sparsevit_plugin.harness.testing import checkpoint_facts
from sparsevit_plugin.harness.train import Trainer, prepare_training
from sparsevit_plugin.model.weights import read_checkpoint
from sparsevit_plugin.protocol.folder import ProtocolFolder, timed_device
from sparsevit_plugin.protocol.keys import backend
from sparsevit_plugin.protocol.plan import (
    WEIGHTS,
    Job,
    TestCell,
    TrainCell,
    make_plan,
    state_of,
    testing_config,
)
from sparsevit_plugin.protocol.request import Request

BUSY: Final = 75
"""The exit code when another process has the job (EX_TEMPFAIL)."""

_NOT_KEPT: Final = {
    "all": (),
    "best": ("resume.pt", "last.safetensors"),
    "none": ("resume.pt", "last.safetensors", WEIGHTS),
}
_PROBED_IMAGES: Final = 8


@dataclass(frozen=True)
class Order:
    """What a job's process is told.

    Attributes:
        folder: The protocol's folder.
        request: What the user asked for, of this one row and seed.
        name: The job's name, by which the process sees that nothing has changed since.
        contents: Hashes of the data's contents that were made already.
        keep: One of `protocol.KEEP`.
        probe_steps: Only measure so many training steps; 0 to do the job.
        command: The user's command.
    """

    folder: str
    request: Request
    name: str
    contents: dict[str, str]
    keep: str = "best"
    probe_steps: int = 0
    command: str = ""


def order_of(job: Job, request: Request, folder: ProtocolFolder, **more: Any) -> Order:  # noqa: ANN401
    """Return the order for a job."""
    labels = {job.word: job.label}
    one = replace(request, models=(job.word,), seeds=(job.seed,), labels=labels)
    contents = {prints.files: prints.contents for prints in job.data_prints if prints.contents}
    return Order(str(folder.path), one, job.name, contents, **more)


def write_order(path: Path, order: Order) -> None:
    """Write an order for a process to come."""
    write_json_atomic(path, asdict(order))


def read_order(path: Path) -> Order:
    """Read what `write_order` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    request = content["request"]
    for name in ("models", "seeds", "imports", "perturbations"):
        request[name] = tuple(request[name])
    return Order(**{**content, "request": Request(**request)})


class JobRun:
    """Runs one job.

    Args:
        order: What to do.

    Raises:
        UserError: It cannot be done, or something that it depends on has changed since it was
            planned.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self.folder = ProtocolFolder(Path(order.folder))
        plan = make_plan(order.request, self.folder, order.contents)
        self.protocol = plan.protocol
        (self.job,) = plan.jobs
        self.cfg = self.job.config
        if self.job.name != order.name:
            raise UserError(
                f"{self.job.label}: its card, recipe, weights or data have changed since it was "
                "planned; run the protocol again"
            )

    def run(self) -> None:
        """Do what is not done yet."""
        job = self.job
        state = state_of(job.train, job.tests, self.folder, self.folder.finished_tests())
        if state.finished:
            return
        fabric: Fabric | None = None
        facts: dict[str, Any] = {}
        if job.train is not None and state.must_train:
            fabric, facts = self._train(job.train)
            state = state_of(job.train, job.tests, self.folder, self.folder.finished_tests())
        fabric = fabric or make_fabric(self.cfg.device, self.cfg.precision, matmul=self.cfg.matmul)
        if state.missing:
            self._test(fabric, state.missing, facts)
        if job.train is not None and fabric.is_global_zero:
            self.folder.remove_weights(job.train.folder, _NOT_KEPT[self.order.keep])

    # --- training --------------------------------------------------------------------------------

    def _train(self, cell: TrainCell) -> tuple[Fabric, dict[str, Any]]:
        """Train, note that it is finished, and return the Fabric and what manifests say of it."""
        if is_main_process():
            self.folder.forget_training(cell.folder)
        output = self.folder.train_folder(cell.folder)
        cfg = replace(self.cfg, output_dir=str(output), log_dir=str(output), resume="auto")
        trainer = prepare_training(cfg, identity=cell.identity)
        with self._timed(trainer, cfg):
            trainer.run(test=False)
        facts = trainer.tested_facts()
        if trainer.fabric.is_global_zero:
            record = {
                "key": cell.key,
                "identity": cell.identity,
                **cell.prints.to_dict(),
                "label": self.job.label,
                "seed": self.job.seed,
                "weights_sha256": sha256_file(output / WEIGHTS),
                "epoch": (trainer.state.best or {"epoch": trainer.state.epoch})["epoch"],
                "facts": facts,
            }
            self.folder.write_training_record(cell.folder, record)
        trainer.fabric.barrier()
        return trainer.fabric, facts

    @contextlib.contextmanager
    def _timed(self, trainer: Trainer, cfg: Config) -> Iterator[None]:
        """Note how long a training image takes, selection included, whatever stops the training."""
        began, position = time.monotonic(), trainer.position
        try:
            yield
        finally:
            images = (trainer.position - position) * cfg.batch_size * trainer.fabric.world_size
            self._note_time(trainer.fabric, cfg, "train", images, time.monotonic() - began)

    def _note_time(
        self, fabric: Fabric, cfg: Config, kind: str, images: int, seconds: float
    ) -> None:
        if not fabric.is_global_zero or images <= 0:
            return
        entry = {
            "kind": kind,
            "card": cfg.model,
            "image_size": cfg.image_size,
            **backend(cfg),
            "device": timed_device(fabric.device),
            "processes": fabric.world_size,
            "images": images,
            "seconds": round(seconds, 3),
        }
        self.folder.add_timings([entry])

    # --- testing ---------------------------------------------------------------------------------

    def _test(self, fabric: Fabric, missing: tuple[TestCell, ...], facts: dict[str, Any]) -> None:
        cfg = testing_config(self.cfg)
        model, tested = self._model_under_test(cfg, facts)
        model = predictor_for(cfg, model, None, fabric.device)
        for perturbation in dict.fromkeys(cell.perturbation for cell in missing):
            cells = {cell.set: cell for cell in missing if cell.perturbation == perturbation}
            perturbed = replace(cfg, perturbation=perturbation)
            self._test_perturbed(
                SetEvaluator(perturbed, fabric, self.folder.store), model, tested, cells
            )

    def _test_perturbed(
        self,
        evaluator: SetEvaluator,
        model: nn.Module,
        tested: ModelUnderTest,
        cells: dict[str, TestCell],
    ) -> None:
        cfg, fabric = evaluator.cfg, evaluator.fabric
        path = f"protocol:{self.order.request.protocol}"
        sets = read_test_sets(replace(cfg, test_data_path=path))
        for name, cell in cells.items():
            began = time.monotonic()
            of_cell = {
                "cell": cell.key,
                "weights_sha256": tested.checkpoint.get("sha256"),
                **cell.prints.to_dict(),
            }
            one = {name: sets[name]}
            evaluator.evaluate(model, tested, one, fresh=True, facts={name: of_cell})
            self._note_time(fabric, cfg, "test", cell.images, time.monotonic() - began)

    def _model_under_test(
        self, cfg: Config, facts: dict[str, Any]
    ) -> tuple[nn.Module, ModelUnderTest]:
        job, request = self.job, self.order.request
        model = build_model(cfg)
        common = {
            "protocol": self.protocol.name,
            "series": job.series,
            "group": job.group,
            "kind": "measured",
            "complexity": cached_count(cfg, self.folder.complexity).to_dict(),
            "weights": dict(job.weights),
            "defects": request.defects,
            "command": self.order.command,
            "precision": backend(cfg)["precision"],
        }
        if job.train is not None:
            checkpoint, more = self._trained(model, job.train, facts)
            selection = cfg.select
        elif job.checkpoint is not None:
            metadata = read_checkpoint(job.checkpoint).metadata
            checkpoint = load_checkpoint(model, job.checkpoint)
            selection = request.selection or metadata.get("selection", "unknown")
            more = {**checkpoint_facts(metadata), "training_data": request.trained_on or "unknown"}
        else:
            checkpoint, selection = {}, "none"
            more = {"pretraining": "none needed", "training_data": {}}
        tested = ModelUnderTest(
            job.label, checkpoint, selection, facts={**more, **common}, identity=job.row
        )
        return model, tested

    def _trained(
        self, model: nn.Module, cell: TrainCell, facts: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Load the weights of a finished training; return the checkpoint and the facts of it."""
        path = self.folder.train_folder(cell.folder) / WEIGHTS
        record = self.folder.training_record(cell.folder) or {}
        checkpoint = {**load_checkpoint(model, path), "epoch": record.get("epoch")}
        if checkpoint["sha256"] != record.get("weights_sha256"):
            raise UserError(
                f"{path} is not the file that its training left: remove {path.parent} and run the "
                "protocol again"
            )
        return checkpoint, facts or record["facts"]

    # --- measuring -------------------------------------------------------------------------------

    def probe(self, steps: int) -> None:
        """Measure training steps, and some test images, of a model that is thrown away."""
        with tempfile.TemporaryDirectory() as scratch:
            cfg = replace(self.cfg, output_dir=scratch, log_dir=scratch, resume="")
            if self.job.train is not None:
                trainer = prepare_training(cfg)
                began = time.monotonic()
                images = trainer.probe(steps) * cfg.batch_size * trainer.fabric.world_size
                self._note_time(trainer.fabric, cfg, "train", images, time.monotonic() - began)
                model, fabric = trainer.bare, trainer.fabric
            else:
                model = build_model(cfg)
                fabric = make_fabric(cfg.device, cfg.precision, matmul=cfg.matmul)
            self._probe_testing(fabric, fabric.to_device(model), testing_config(cfg))

    def _probe_testing(self, fabric: Fabric, model: nn.Module, cfg: Config) -> None:
        path = f"protocol:{self.order.request.protocol}"
        few = replace(cfg, test_data_path=path, limit_images=_PROBED_IMAGES)
        name, source = next(iter(read_test_sets(few).items()))
        dataset = make_dataset(few, source, training=False)
        began = time.monotonic()
        evaluate_set(fabric, model, dataset, evaluation_settings(few), label=f"probe {name}")
        self._note_time(fabric, few, "test", len(source), time.monotonic() - began)


def run_order(path: Path) -> int:
    """Run the job of an order file.

    Returns:
        The exit code: 0, or 75 when another process has the job or its training.

    Raises:
        UserError: The job cannot be done.
    """
    order = read_order(path)
    job = JobRun(order)
    with contextlib.ExitStack() as locks:
        if is_main_process():
            train = job.job.train
            names = [order.name, *([f"train-{train.folder}"] if train else [])]
            try:
                for name in names:
                    locks.enter_context(job.folder.lock(name))
            except Timeout:
                print(f"another process has {name}")
                return BUSY
        if order.probe_steps:
            job.probe(order.probe_steps)
        else:
            job.run()
    return 0
