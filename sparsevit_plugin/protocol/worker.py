"""The process that runs one job: trains what is not trained and tests what is not tested.

    python -m sparsevit_plugin protocol work JOB.json

`torchrun` may start several of it for one job. Every cell is stored as soon as it is finished, and
what another process has finished in the meantime is not done again.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from torch import nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import sha256_file, write_json_atomic
from sparsevit_plugin.harness.complexity import cached_count
from sparsevit_plugin.harness.config import Config, effective_batch
from sparsevit_plugin.harness.devices import is_main_process, make_fabric
from sparsevit_plugin.harness.manifest import describe_device
from sparsevit_plugin.harness.pipeline import (
    ModelUnderTest,
    SetEvaluator,
    build_model,
    load_checkpoint,
    read_test_sets,
)
from sparsevit_plugin.harness.testing import checkpoint_facts
from sparsevit_plugin.harness.train import Trainer, prepare_training
from sparsevit_plugin.model.weights import read_checkpoint
from sparsevit_plugin.protocol.folder import ProtocolFolder
from sparsevit_plugin.protocol.plan import (
    WEIGHTS,
    Job,
    Prints,
    TestCell,
    TrainCell,
    state_of,
    testing_config,
)
from sparsevit_plugin.protocol.request import Request, Row, row_config
from sparsevit_plugin.protocol.schema import load_protocol
from sparsevit_plugin.registration import import_user

BUSY: Final = 75
"""The exit code when another process has the job (EX_TEMPFAIL)."""

KEEP: Final = ("all", "best", "none")
"""What is kept of a finished training: everything, its best weights, or nothing but its record."""

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
        request: What the user asked for.
        name: The job's name.
        label: The row's name.
        card: The model card's name.
        seed: The seed.
        series: See `plan.Job`.
        group: See `plan.Job`.
        checkpoint: A ready checkpoint, or empty.
        train: The training, or None.
        tests: The test cells.
        weights: Pretraining files by argument.
        keep: One of `KEEP`.
        probe_steps: Only measure so many training steps; 0 to do the job.
    """

    folder: str
    request: Request
    name: str
    label: str
    card: str
    seed: int
    series: str
    group: str
    checkpoint: str
    train: TrainCell | None
    tests: tuple[TestCell, ...]
    weights: dict[str, str]
    keep: str = "best"
    probe_steps: int = 0


def write_order(path: Path, order: Order) -> None:
    """Write an order for a process to come."""
    write_json_atomic(path, asdict(order))


def order_of(job: Job, request: Request, folder: ProtocolFolder, **more: Any) -> Order:  # noqa: ANN401
    """Return the order for a job."""
    return Order(
        folder=str(folder.path),
        request=request,
        name=job.name,
        label=job.label,
        card=job.card.name,
        seed=job.seed,
        series=job.series,
        group=job.group,
        checkpoint=str(job.checkpoint or ""),
        train=job.train,
        tests=job.tests,
        weights=dict(job.weights),
        **more,
    )


def read_order(path: Path) -> Order:
    """Read what `write_order` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    request = {f.name: content["request"][f.name] for f in fields(Request)}
    for name in ("models", "seeds", "imports"):
        request[name] = tuple(request[name])
    train = content["train"]
    if train is not None:
        train = TrainCell(**{**train, "prints": Prints(**train["prints"])})
    tests = tuple(
        TestCell(**{**cell, "prints": Prints(**cell["prints"])}) for cell in content["tests"]
    )
    return Order(**{**content, "request": Request(**request), "train": train, "tests": tests})


class JobRun:
    """Runs one job.

    Args:
        order: What to do.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self.folder = ProtocolFolder(Path(order.folder))
        self.protocol = load_protocol(order.request.protocol)
        import_user(list(order.request.imports))
        self.row = self._row()
        self.cfg = row_config(order.request, self.protocol, self.row, order.seed)

    def _row(self) -> Row:
        from sparsevit_plugin.cards import load_model_card

        order = self.order
        card = load_model_card(order.card)
        if card is None:
            raise UserError(f"the card {order.card} has gone since this job was planned")
        return Row(order.label, card, Path(order.checkpoint) if order.checkpoint else None)

    def run(self) -> None:
        """Do what is not done yet."""
        order = self.order
        state = state_of(order.train, order.tests, self.folder, self.folder.finished_tests())
        if state.finished:
            return
        fabric, facts = None, {}
        if order.train is not None and state.must_train:
            trainer = self._train(order.train)
            fabric, facts = trainer.fabric, trainer.facts()
        fabric = fabric or make_fabric(self.cfg.device, self.cfg.precision)
        if state.missing:
            self._test(fabric, state.missing, facts)
        if order.train is not None and fabric.is_global_zero:
            self.folder.remove_weights(order.train.folder, _NOT_KEPT[order.keep])

    # --- training --------------------------------------------------------------------------------

    def _train(self, cell: TrainCell) -> Trainer:
        output = self.folder.train_folder(cell.folder)
        cfg = replace(self.cfg, output_dir=str(output), log_dir=str(output), resume="auto")
        trainer = prepare_training(cfg)
        with self._timed(trainer, cfg):
            trainer.run(test=False)
        if trainer.fabric.is_global_zero:
            record = {
                "key": cell.key,
                "identity": cell.identity,
                **cell.prints.to_dict(),
                "label": self.order.label,
                "seed": self.order.seed,
                "weights_sha256": sha256_file(output / WEIGHTS),
                "epoch": (trainer.state.best or {"epoch": trainer.state.epoch})["epoch"],
                "facts": trainer.facts(),
            }
            self.folder.write_training_record(cell.folder, record)
        trainer.fabric.barrier()
        return trainer

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
            "model": cfg.registered,
            "image_size": cfg.image_size,
            "precision": cfg.precision,
            "device": describe_device(fabric.device),
            "processes": fabric.world_size,
            "images": images,
            "seconds": round(seconds, 3),
        }
        self.folder.add_timings([entry])

    # --- testing ---------------------------------------------------------------------------------

    def _test(self, fabric: Fabric, missing: tuple[TestCell, ...], facts: dict[str, Any]) -> None:
        cfg = testing_config(self.cfg)
        model, tested = self._model_under_test(cfg, facts)
        model = fabric.to_device(model)
        for perturbation in dict.fromkeys(cell.perturbation for cell in missing):
            cells = {cell.set: cell for cell in missing if cell.perturbation == perturbation}
            self._test_perturbed(
                fabric, replace(cfg, perturbation=perturbation), model, tested, cells
            )

    def _test_perturbed(
        self,
        fabric: Fabric,
        cfg: Config,
        model: nn.Module,
        tested: ModelUnderTest,
        cells: dict[str, TestCell],
    ) -> None:
        evaluator = SetEvaluator(cfg, fabric, self.folder.store)
        path = f"protocol:{self.order.request.protocol}"
        sets = read_test_sets(replace(cfg, test_data_path=path))
        for name, cell in cells.items():
            began = time.monotonic()
            of_cell = {"cell": cell.key, **cell.prints.to_dict()}
            evaluator.evaluate(model, tested, {name: sets[name]}, fresh=True, facts={name: of_cell})
            self._note_time(fabric, cfg, "test", cell.images, time.monotonic() - began)

    def _model_under_test(
        self, cfg: Config, facts: dict[str, Any]
    ) -> tuple[nn.Module, ModelUnderTest]:
        order = self.order
        model = build_model(cfg)
        common = {
            "protocol": self.protocol.name,
            "series": order.series,
            "group": order.group,
            "kind": "measured",
            "complexity": self._complexity(cfg),
            "weights": order.weights,
            "defects": order.request.defects,
        }
        if order.train is not None:
            record = self.folder.training_record(order.train.folder) or {}
            path = self.folder.train_folder(order.train.folder) / WEIGHTS
            checkpoint = {
                **load_checkpoint(model, path),
                "epoch": record.get("epoch"),
            }
            return model, ModelUnderTest(
                order.label,
                checkpoint=checkpoint,
                selection=self.cfg.select,
                facts={**(facts or record.get("facts", {})), **common},
                run=order.train.identity,
            )
        if self.row.checkpoint is not None:
            metadata = read_checkpoint(self.row.checkpoint).metadata
            return model, ModelUnderTest(
                order.label,
                checkpoint=load_checkpoint(model, self.row.checkpoint),
                selection=metadata.get("selection", "unknown"),
                facts={"training_data": "unknown", **checkpoint_facts(metadata), **common},
            )
        none = {"pretraining": "none needed", "training_data": {}}
        return model, ModelUnderTest(order.label, selection="none", facts={**none, **common})

    def _complexity(self, cfg: Config) -> dict[str, Any] | None:
        return cached_count(cfg, self.folder.complexity).to_dict()

    # --- measuring -------------------------------------------------------------------------------

    def probe(self, steps: int) -> None:
        """Measure training steps, and some test images, of a model that is thrown away."""
        import tempfile

        with tempfile.TemporaryDirectory() as scratch:
            cfg = replace(self.cfg, output_dir=scratch, log_dir=scratch, resume="")
            if self.row.trains:
                trainer = prepare_training(cfg)
                began = time.monotonic()
                done = trainer.probe(steps)
                images = done * effective_batch(cfg, trainer.fabric.world_size) // cfg.accum_iter
                seconds = time.monotonic() - began
                self._note_time(trainer.fabric, cfg, "train", images, seconds)
                model, fabric = trainer.bare, trainer.fabric
            else:
                model, fabric = build_model(cfg), make_fabric(cfg.device, cfg.precision)
            self._probe_testing(fabric, fabric.to_device(model), testing_config(cfg))

    def _probe_testing(self, fabric: Fabric, model: nn.Module, cfg: Config) -> None:
        from sparsevit_plugin.harness.evaluate import evaluate_set
        from sparsevit_plugin.harness.pipeline import evaluation_settings, make_dataset

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
        The exit code: 0, or 75 when another process has the job.

    Raises:
        UserError: The job cannot be done.
    """
    order = read_order(path)
    lock = FileLock(ProtocolFolder(Path(order.folder)).lock_file(order.name))
    try:
        if is_main_process():
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        job = JobRun(order)
        if order.probe_steps:
            job.probe(order.probe_steps)
        else:
            job.run()
    except Timeout:
        print(f"another process has {order.name}")
        return BUSY
    finally:
        lock.release()
    return 0
