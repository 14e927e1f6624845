"""The training loop.

It runs in one process or many, on any device, and can be killed at any moment: `--resume auto`
continues from the last saved step and, on a CPU, ends with the weights that an undisturbed run
would have.
"""

import itertools
import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import prove_writable, sha256_file, write_json_atomic
from sparsevit_plugin.harness.checkpoint import (
    RESUME_NAME,
    TrainingState,
    load_state,
    save_state,
)
from sparsevit_plugin.harness.config import Config, absolute_lr, effective_batch, save_interval
from sparsevit_plugin.harness.datasets import BadSample, collate
from sparsevit_plugin.harness.detection import training_facts
from sparsevit_plugin.harness.devices import accelerator_of, make_fabric, shares_batch_norm
from sparsevit_plugin.harness.evaluate import evaluate_set, model_inputs, refuse_bad
from sparsevit_plugin.harness.logs import TrainingLog
from sparsevit_plugin.harness.option_table import DETECTION
from sparsevit_plugin.harness.pipeline import (
    ModelUnderTest,
    SetEvaluator,
    Source,
    build_model,
    describe_for_testing,
    image_auc,
    left_out_transforms,
    load_checkpoint,
    make_dataset,
    mean_f1,
    pretraining_facts,
    read_sets,
    read_test_sets,
    samples_of,
)
from sparsevit_plugin.harness.progress import Progress
from sparsevit_plugin.harness.sampling import GlobalBatchSampler, Key, derive_seed
from sparsevit_plugin.harness.schedule import WarmupCosine, make_optimizer
from sparsevit_plugin.harness.sources import fingerprint, hold_out
from sparsevit_plugin.harness.testing import checkpoint_file, updates_of
from sparsevit_plugin.model.kernels import Kernels, current_kernels, use_kernels
from sparsevit_plugin.model.weights import read_checkpoint, save_safetensors
from sparsevit_plugin.results.conventions import METRICS
from sparsevit_plugin.results.packed import PackedRecords
from sparsevit_plugin.results.store import Store

RUN_NAME = "run.json"
SUBSTITUTES = 100
"""So many following samples are tried in place of a bad one before training gives up."""
LEFT_OUT = 25
"""So many updates in a row without finite gradients end a training; each halves fp16's scale."""


class SubstitutingDataset(Dataset):
    """Puts the next good sample in the place of a bad one: no process runs short of a sample.

    Items are `(item or None, bad samples met)`. With `skip=False` nothing is substituted.
    """

    def __init__(self, dataset: Dataset, *, skip: bool) -> None:
        self.dataset = dataset
        self.tries = SUBSTITUTES if skip else 1

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Key) -> tuple[dict[str, Any] | None, list[BadSample]]:
        epoch, index = key
        bad: list[BadSample] = []
        for offset in range(min(self.tries, len(self))):
            item = self.dataset[(epoch, (index + offset) % len(self))]
            if not isinstance(item, BadSample):
                return item, bad
            bad.append(item)
        return None, bad


def collate_substituted(
    pairs: list[tuple[dict[str, Any] | None, list[BadSample]]],
) -> dict[str, Any]:
    """Collate the items of a `SubstitutingDataset`; `bad` lists the bad samples of the batch."""
    batch = collate([item for item, _ in pairs if item is not None])
    batch["bad"] = [sample for _, bad in pairs for sample in bad]
    batch["complete"] = all(item is not None for item, _ in pairs)
    return batch


@dataclass
class TrainingData:
    """The sets of a training run.

    Attributes:
        train: What is trained on, by name.
        held_out: What the checkpoint is selected on when `--select val`, by name.
        tests: Test sets by name.
        notes: What a reader must know of how they were split.
    """

    train: dict[str, Source]
    held_out: dict[str, Source] = field(default_factory=dict)
    tests: dict[str, Source] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_training_data(cfg: Config) -> TrainingData:
    """Read the training and test sets; with `--select val` hold out a part of each training set.

    Raises:
        UserError: If a set cannot be read, or if there is nothing to select a checkpoint on.
    """
    # Here, because this is read before the processes are started, if there are to be several.
    shares_batch_norm(cfg.sync_bn, accelerator_of(cfg.device)[0], cfg.devices)
    data = TrainingData(train=read_sets(cfg, cfg.data_path, what="--data-path", side="train"))
    if cfg.test_data_path:
        data.tests = read_test_sets(cfg)
    if cfg.select == "test" and not data.tests:
        raise UserError("--select test needs --test-data-path")
    if cfg.select == "val":
        for name, source in data.train.items():
            data.train[name], data.held_out[name] = hold_out(
                source, fraction=cfg.val_fraction, seed=cfg.seed
            )
            data.notes += data.train[name].notes
        if not any(s.mask for source in data.held_out.values() for s in samples_of(source)):
            raise UserError(
                "the hold-out of the training data has no tampered image to select a checkpoint "
                "on: raise --val-fraction, or pass --select last"
            )
    if cfg.task == DETECTION:
        _refuse_one_class(data, cfg.select)
    return data


def _refuse_one_class(data: TrainingData, select: str) -> None:
    """Refuse to learn, or to select, image scores from tampered or from authentic images alone."""
    parts = [("the training data", data.train, "add some")]
    if select == "val":
        hint = "raise --val-fraction, or pass --select last"
        parts.append(("the hold-out of the training data", data.held_out, hint))
    for what, sets, hint in parts:
        masks = [s.mask is not None for source in sets.values() for s in samples_of(source)]
        for kind, there in (("tampered", any(masks)), ("authentic", not all(masks))):
            if not there:
                raise UserError(f"--task detection: {what} has no {kind} image; {hint}")


def judged_by(cfg: Config) -> str:
    """Return the metric, at 0.5 where it has a threshold, that checkpoints are selected by."""
    return "image_auc" if cfg.task == DETECTION else "pixel_f1"


class ConcatenatedSets(Dataset):
    """Several training sets one behind the other; keys are (epoch, index)."""

    def __init__(self, datasets: list[Dataset]) -> None:
        self.datasets = datasets

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self.datasets)  # type: ignore[arg-type, misc]

    def __getitem__(self, key: Key) -> dict[str, Any] | BadSample:
        epoch, index = key
        for dataset in self.datasets:
            length = len(dataset)  # type: ignore[arg-type]
            if index < length:
                return dataset[(epoch, index)]
            index -= length
        raise IndexError(key)


class Interruption:
    """Turns SIGTERM into a stop after the running step, so that the state can be saved."""

    def __init__(self) -> None:
        self.signal = 0
        self._previous = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def restore(self) -> None:
        """Put the former handler back."""
        signal.signal(signal.SIGTERM, self._previous)


class Trainer:
    """One training run.

    Args:
        cfg: The configuration of the verb `train`.
        fabric: The launched Fabric.
        data: The sets.
        identity: What a saved state must carry to be gone on from; the configuration's hash by
            default.
    """

    def __init__(self, cfg: Config, fabric: Fabric, data: TrainingData, identity: str = "") -> None:
        self.cfg = cfg
        self.identity = identity or cfg.hash()
        self.fabric = fabric
        self.data = data
        self.folder = Path(cfg.output_dir)
        self.store = Store(self.folder / "results")
        self.evaluator = SetEvaluator(cfg, fabric, self.store)
        self.skip_bad = cfg.on_bad_image == "skip"
        self._build_loader()
        self._build_model()
        self.met: list[tuple[int, int, BadSample]] = []  # by position and process
        self.left_out_in_a_row = 0
        self.state = self._start_state()
        self.saved, self.saved_position = time.monotonic(), self.position
        self.log = TrainingLog(
            self.folder,
            Path(cfg.log_dir or cfg.output_dir),
            fabric,
            self.position,
            self.state.epoch,
        )

    @property
    def position(self) -> int:
        """Global batches done since the start of training."""
        return self.state.epoch * self.steps_per_epoch + self.state.step

    def _build_loader(self) -> None:
        cfg = self.cfg
        datasets = [make_dataset(cfg, source, training=True) for source in self.data.train.values()]
        dataset = SubstitutingDataset(ConcatenatedSets(datasets), skip=self.skip_bad)
        self.sampler = GlobalBatchSampler(
            len(dataset),
            cfg.batch_size,
            seed=cfg.seed,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )
        self.steps_per_epoch = self.sampler.steps_per_epoch
        self.loader = DataLoader(
            dataset,
            batch_sampler=self.sampler,
            num_workers=cfg.num_workers,
            collate_fn=collate_substituted,
            pin_memory=cfg.pin_mem and self.fabric.device.type == "cuda",
            persistent_workers=cfg.num_workers > 0,
        )

    def _build_model(self) -> None:
        cfg, fabric = self.cfg, self.fabric
        self.bare = build_model(cfg)
        self.pretraining = pretraining_facts(cfg, self.bare)
        if cfg.activation_checkpointing:
            self._checkpoint_activations()
        if cfg.checkpoint:
            self.pretraining["start"] = load_checkpoint(self.bare, checkpoint_file(cfg.checkpoint))
        if not any(parameter.requires_grad for parameter in self.bare.parameters()):
            raise UserError(f"{cfg.model} has no parameters to train; use benco test")
        if shares_batch_norm(cfg.sync_bn, fabric.device.type, fabric.world_size):
            self.bare = nn.SyncBatchNorm.convert_sync_batchnorm(self.bare)
        lr = absolute_lr(cfg, fabric.world_size)
        optimizer = make_optimizer(
            self.bare,
            name=cfg.optimizer,
            lr=lr,
            weight_decay=cfg.weight_decay,
            layer_decay=cfg.layer_decay,
            fused=not self._scales_loss(),
        )
        self.schedule = WarmupCosine(
            lr=lr, min_lr=cfg.min_lr, warmup_epochs=cfg.warmup_epochs, epochs=cfg.epochs
        )
        # Evaluation uses the module without DistributedDataParallel, whose buffer exchange at
        # every forward would hang where processes have different numbers of batches.
        self.module: nn.Module = torch.compile(self.bare) if cfg.compile else self.bare  # type: ignore[assignment]
        self.model, self.optimizer = fabric.setup(self.module, optimizer)

    def _checkpoint_activations(self) -> None:
        turn_on = getattr(self.bare, "checkpoint_activations", None)
        if turn_on is None:
            raise UserError(
                f"--activation-checkpointing: {self.cfg.model} has no checkpoint_activations(); "
                "leave it out, or take a smaller --batch-size with --accum-iter"
            )
        turn_on()

    def _start_state(self) -> TrainingState:
        """Continue the run that the output folder holds, or start one; refuse to mix two."""
        cfg = self.cfg
        path = (
            self.folder / RESUME_NAME if cfg.resume == "auto" else Path(cfg.resume or RESUME_NAME)
        )
        if not cfg.resume or (cfg.resume == "auto" and not path.exists()):
            self._write_run_file()
            return TrainingState(
                model=self.bare.state_dict(),
                optimizer={},
                epoch=cfg.start_epoch,
                config_hash=self.identity,
                kernels=current_kernels().to_dict() if self.fabric.device.type == "cpu" else {},
            )
        state = load_state(path)
        if state.config_hash and state.config_hash != self.identity:
            raise UserError(
                f"{path} belongs to a run with other settings (compare {self.folder / RUN_NAME} "
                "with --print-config): continue it with its own, or choose another --output-dir"
            )
        self._restore(state, path)
        self.evaluator.say(f"resumed from {path} at epoch {state.epoch}, step {state.step}")
        return state

    def _restore(self, state: TrainingState, path: Path) -> None:
        try:
            self.bare.load_state_dict(state.model)
            self.optimizer.load_state_dict(state.optimizer)
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} belongs to another model than {self.cfg.model} as configured; to start "
                "from its weights alone pass it as --checkpoint"
            ) from error
        if state.kernels and self.fabric.device.type == "cpu":
            self._keep_kernels(Kernels.from_dict(state.kernels))
        if state.scaler:
            self.fabric.strategy.precision.load_state_dict(state.scaler)

    def _keep_kernels(self, kernels: Kernels) -> None:
        if self.cfg.matmul not in ("auto", kernels.matmul):
            self.evaluator.say(
                f"--matmul {self.cfg.matmul}: the run began with {kernels.matmul} and keeps it"
            )
        use_kernels(kernels)

    def _write_run_file(self) -> None:
        if self.fabric.is_global_zero:
            run = {"config": self.cfg.to_dict(), "config_hash": self.cfg.hash()}
            write_json_atomic(self.folder / RUN_NAME, run)

    def run(self, *, test: bool = True) -> None:
        """Train what is left to train, then test the selected checkpoint on every test set.

        Args:
            test: Whether to test it; false where that is somebody else's part.
        """
        self._announce()
        interruption = Interruption()
        try:
            while not self.state.finished:
                self._train_epoch(interruption)
                self._end_epoch()
                self._stop(self._asked_to_stop(interruption))
        finally:
            interruption.restore()
            self.log.close()
        # The selected checkpoint's own hold-out: thresholds are chosen on it (`benco thresholds`).
        sets = {**self._held_out_sets(), **(self.data.tests if test else {})}
        if sets:
            self._test_selected(sets)

    def probe(self, steps: int) -> int:
        """Make a few training steps, of which nothing is kept, to see how long they take.

        Returns:
            How many were made: an epoch's at most.
        """
        self.model.train()
        for batch in self.loader:
            self._step(batch)
            self.state.step += 1
            if self.state.step == steps:
                break
        self.log.close()
        return self.state.step

    def _announce(self) -> None:
        cfg, world = self.cfg, self.fabric.world_size
        pretraining = self.pretraining["pretraining"]
        say = self.evaluator.say
        say(f"model: {cfg.model}; pretraining weights: {pretraining}")
        say(
            f"effective batch: {effective_batch(cfg, world)} ({cfg.batch_size} x "
            f"{cfg.accum_iter} accumulated x {world} process(es)); "
            f"{self.steps_per_epoch} steps an epoch, {cfg.epochs} epochs; selected on: {cfg.select}"
        )
        for note in [*self.data.notes, *(f"{flag} is ignored: {why}" for flag, why in cfg.ignored)]:
            say(note)
        if self._normalises_apart():
            say(f"BatchNorm: each process uses the statistics of its own {cfg.batch_size} images")
        left_out = left_out_transforms(cfg)
        if left_out:
            say(
                f"augmentation {cfg.augmentation}: left out, because they break the JPEG grid: "
                f"{', '.join(left_out)}"
            )

    def _normalises_apart(self) -> bool:
        """Say whether several processes each train with BatchNorm statistics of their own."""
        self.bare.train()  # a model may keep its norms frozen there
        return self.fabric.world_size > 1 and any(
            isinstance(module, _BatchNorm)
            and not isinstance(module, nn.SyncBatchNorm)
            and module.training
            for module in self.bare.modules()
        )

    def _train_epoch(self, interruption: Interruption) -> None:
        state, cfg = self.state, self.cfg
        self.model.train()
        self.sampler.epoch, self.sampler.start = state.epoch, state.step
        label = f"epoch {state.epoch + 1}/{cfg.epochs}"
        visible = self.fabric.is_global_zero
        batch: dict[str, Any] = {}
        output: dict[str, Any] = {}
        with Progress(self.steps_per_epoch, label, start=state.step, visible=visible) as progress:
            for batch in self.loader:
                output = self._step(batch)
                state.step += 1
                progress.advance(note=self._losses_text(output))
                if self._at_update():
                    self._save_if_due(interruption)
        if output:
            self.log.images("train", batch, output, state.epoch)
        state.epoch, state.step = state.epoch + 1, 0

    def _at_update(self) -> bool:
        """Say whether the optimiser stepped last: only there a state can be resumed from."""
        return self.state.step % self.cfg.accum_iter == 0 or self.state.step == self.steps_per_epoch

    def _group_size(self, step: int) -> int:
        """Batches that are accumulated together with batch `step`: fewer at the end of an epoch.

        Upstream drops the gradients of an incomplete last group; here they are used, with their
        own mean.
        """
        first = step - step % self.cfg.accum_iter
        return min(self.cfg.accum_iter, self.steps_per_epoch - first)

    def _step(self, batch: dict[str, Any]) -> dict[str, Any]:
        state, cfg, fabric = self.state, self.cfg, self.fabric
        self._note_bad(batch)
        where = state.epoch + state.step / self.steps_per_epoch
        if state.step % cfg.accum_iter == 0:
            self.lr = self.schedule.apply(self.optimizer, where)
        # Stochastic depth and dropout draw from here, so that a resumed run draws what an
        # undisturbed one does.
        torch.manual_seed(derive_seed(cfg.seed, state.epoch, state.step, fabric.global_rank))
        group = self._group_size(state.step)
        last = (state.step % cfg.accum_iter) + 1 == group
        with fabric.no_backward_sync(self.model, enabled=not last):
            inputs = model_inputs(batch, fabric.device)
            output = self.model(**inputs, if_predcit_label=cfg.if_predict_label)
            loss = output["backward_loss"]
            self._check_loss(loss, batch)
            fabric.backward(loss / group)
        if last:
            self._update()
        self._log_losses(output)
        return output

    def _update(self) -> None:
        """Step the optimiser; gradients that are not finite are left out, in every precision.

        In fp16 that is how the scale of the loss is found. Elsewhere they would end the training:
        no weight is a number after them.
        """
        norm = self.fabric.clip_gradients(
            self.model,
            self.optimizer,
            max_norm=self.cfg.clip_grad or math.inf,
            error_if_nonfinite=False,
        )
        finite = bool(torch.isfinite(torch.as_tensor(norm)))
        if finite or self._scales_loss():  # the scaler leaves the step out, and scales less
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.updates += 1
        self.left_out_in_a_row = 0 if finite else self.left_out_in_a_row + 1
        if not finite:
            self.state.left_out += 1
            self._say_left_out()

    def _scales_loss(self) -> bool:
        return getattr(self.fabric.strategy.precision, "scaler", None) is not None

    def _say_left_out(self) -> None:
        where = f"epoch {self.state.epoch + 1}, step {self.state.step + 1}"
        if self.left_out_in_a_row >= LEFT_OUT:
            raise UserError(
                f"{where}: the gradients of {LEFT_OUT} steps in a row are not finite; lower --lr, "
                "give --clip-grad or use --precision 32 (the last checkpoint is whole)"
            )
        lowered = ", the scale of the loss halved" if self._scales_loss() else ""
        self.evaluator.say(f"{where}: the gradients are not finite; the step is left out{lowered}")

    def _note_bad(self, batch: dict[str, Any]) -> None:
        refuse_bad(batch["bad"], skip=self.skip_bad)
        self.met += [(self.position, self.fabric.global_rank, bad) for bad in batch["bad"]]
        if not batch["complete"]:
            raise UserError(
                f"{SUBSTITUTES} training images in a row are bad, the last "
                f"{batch['bad'][-1].path}: run benco data check"
            )

    def _share_bad(self) -> None:
        """Tell all processes of the bad images that each has met since the last update."""
        met = self.met
        if self.fabric.world_size > 1:
            slots: list[Any] = [None] * self.fabric.world_size
            dist.all_gather_object(slots, self.met)
            met = [entry for of_process in slots for entry in of_process]
        self.met = []
        for *_, bad in sorted(met, key=lambda entry: entry[:2]):
            if bad.name not in self.state.skipped:
                self.state.skipped.append(bad.name)
                self.evaluator.say(
                    f"skipped {bad.path}: {bad.reason} (the next image takes its place)"
                )

    def _check_loss(self, loss: Tensor, batch: dict[str, Any]) -> None:
        if torch.isfinite(loss.detach()).item():
            return
        names = ", ".join(batch["sample_name"])
        raise UserError(
            f"the loss is {loss.item()} at epoch {self.state.epoch + 1}, step "
            f"{self.state.step + 1} on: {names}; look at these images, lower --lr or use "
            "--precision 32 (the last checkpoint is whole)"
        )

    def _log_losses(self, output: dict[str, Any]) -> None:
        per_log = max(1, self.steps_per_epoch // max(1, self.cfg.log_per_epoch_count))
        if (self.state.step + 1) % per_log:
            return
        losses = {name: value.detach().float() for name, value in output["visual_loss"].items()}
        means = {name: self._mean(value) for name, value in losses.items()}
        self.log.losses(means, self.lr, self.state.epoch, self.state.step, self.steps_per_epoch)

    def _mean(self, value: Tensor) -> float:
        """Return the mean of a number over all processes."""
        reduced = self.fabric.all_reduce(value, reduce_op="mean")
        return float(reduced) if isinstance(reduced, Tensor) else float("nan")

    def _losses_text(self, output: dict[str, Any]) -> str:
        return f"loss {float(output['backward_loss'].detach()):.4f}  lr {self.lr:.2e}"

    def _is_save_due(self) -> bool:
        steps, seconds = save_interval(self.cfg)
        if steps is not None:
            return self.position - self.saved_position >= steps
        return seconds is not None and time.monotonic() - self.saved >= seconds

    def _save_if_due(self, interruption: Interruption) -> None:
        asked, due, met = self._agree(interruption.signal, int(self._is_save_due()), len(self.met))
        if met:
            self._share_bad()
        if due or asked:
            self._save()
        self._stop(asked)

    def _asked_to_stop(self, interruption: Interruption) -> int:
        """Return the signal that any process was sent, or 0; the same in all processes.

        A process that left alone would break the step that the others are in, unsaved.
        """
        return self._agree(interruption.signal)[0]

    def _agree(self, *numbers: int) -> list[int]:
        """Return the greatest of each number over all processes."""
        if self.fabric.world_size == 1:
            return list(numbers)
        own = torch.tensor([float(number) for number in numbers], device=self.fabric.device)
        greatest = self.fabric.all_reduce(own, reduce_op="max")
        return [int(number) for number in greatest.tolist()]  # type: ignore[union-attr]

    def _stop(self, asked: int) -> None:
        """Leave after a save, where a signal asked for it."""
        if asked:
            self.fabric.barrier()  # the main process may still be saving
            self.evaluator.say("stopped by a signal; continue with --resume auto")
            raise SystemExit(128 + asked)

    def _save(self) -> None:
        """Write the weights of `last`, then the resume state, on the main process.

        In this order a kill in between leaves weights that the resumed run writes again; in the
        other one they would stay behind a state that says that all is done.
        """
        self.saved, self.saved_position = time.monotonic(), self.position
        if not self.fabric.is_global_zero:
            return
        self.state.model = self.bare.state_dict()
        self.state.optimizer = self.optimizer.state_dict()
        self.state.scaler = self.fabric.strategy.precision.state_dict()
        self._save_weights("last", self.state.epoch)
        save_state(self.state, self.folder / RESUME_NAME)

    def _save_weights(self, name: str, epoch: int) -> None:
        metadata = {
            **describe_for_testing(self.cfg),
            "epochs_done": str(epoch),
            "selection": self.cfg.select if name == "best" else "last",
            "pretraining": json.dumps(self.pretraining["pretraining"]),
            "recipe": self.cfg.recipe,
            "effective_batch": str(effective_batch(self.cfg, self.fabric.world_size)),
            **{name: str(count) for name, count in self._counts().items()},
        }
        learnt = training_facts(self.cfg)
        if learnt:
            metadata["detection"] = json.dumps(learnt)
        save_safetensors(self.bare, self.folder / f"{name}.safetensors", metadata)

    def _end_epoch(self) -> None:
        """Judge the epoch when due, and save; `best` is written before the state that names it."""
        state, cfg = self.state, self.cfg
        state.finished = state.epoch >= cfg.epochs
        due = (state.epoch - 1) % cfg.test_period == 0 or state.finished
        if due and cfg.select != "last":
            value = self._judge()
            self.log.scores(cfg.select, value, state.epoch - 1, self.position - 1, judged_by(cfg))
            if state.best is None or value > state.best["value"]:
                state.best = {"epoch": state.epoch, "value": value}
                if self.fabric.is_global_zero:
                    self._save_weights("best", state.epoch)
        if state.finished and cfg.select == "last" and self.fabric.is_global_zero:
            self._save_weights("best", state.epoch)
        self._save()
        self.fabric.barrier()

    def _judge(self) -> float:
        """Return the figure of `judged_by`: over held-out images, or over sets for `test`."""
        select, figure = self.cfg.select, judged_by(self.cfg)
        sets = self.data.held_out if select == "val" else self.data.tests
        rows: list[PackedRecords] = []
        for name, source in sets.items():
            dataset = make_dataset(self.cfg, source, training=False)
            label = f"{select} {name}"
            result = evaluate_set(
                self.fabric, self.module, dataset, self.evaluator.settings, label=label
            )
            if self.fabric.is_global_zero:
                rows.append(result.rows)
                self._store_selection_rows(name, source, result)
        value = 0.0
        if self.fabric.is_global_zero:
            value = self._judged(rows)
            words = METRICS[figure].title
            self.evaluator.say(f"epoch {self.state.epoch}: mean {words} on {select}: {value:.4f}")
        value = self.fabric.broadcast(value)
        if math.isnan(value):
            kind = "tampered image"
            if figure != "pixel_f1":
                kind = "set with both tampered and authentic images"
            raise UserError(f"no {kind} among the {select} images: nothing to select on")
        return value

    def _judged(self, rows: list[PackedRecords]) -> float:
        """Return the mean over held-out images, or over the test sets that have a figure."""
        if judged_by(self.cfg) != "pixel_f1":
            parts = rows if self.cfg.select == "test" else [itertools.chain.from_iterable(rows)]
            figures = [image_auc(part) for part in parts]
            defined = [value for value in figures if not math.isnan(value)]
            return sum(defined) / len(defined) if defined else math.nan
        per_set = [mean_f1(part) for part in rows]
        counted = [(f1, 1 if self.cfg.select == "test" else n) for f1, n in per_set if n]
        total = sum(weight for _, weight in counted)
        return sum(f1 * weight for f1, weight in counted) / total if total else math.nan

    def _store_selection_rows(self, name: str, source: Source, result: Any) -> None:  # noqa: ANN401
        """Keep the latest rows of the hold-out as set `val`."""
        if self.cfg.select != "val":
            return
        tested = ModelUnderTest(
            name=self.cfg.name,
            selection="val",
            facts={**self.facts(), **self._counts()},
            run=self.cfg.hash(),
        )
        self.evaluator.write(
            self.evaluator.manifest(tested),
            self._held_out_name(name),
            source,
            result,
            epoch=self.state.epoch,
        )

    def _held_out_name(self, name: str) -> str:
        """Return what the hold-out of a training set is called among the results."""
        return "val" if len(self.data.held_out) == 1 else f"val:{name}"

    def _held_out_sets(self) -> dict[str, Source]:
        return {self._held_out_name(name): source for name, source in self.data.held_out.items()}

    def _counts(self) -> dict[str, int]:
        """Return the updates so far and how many were left out; nothing where none was counted."""
        state = self.state
        if not state.updates:
            return {}
        return {"updates": state.updates, "updates_left_out": state.left_out}

    def tested_facts(self) -> dict[str, Any]:
        """Return what manifests say of the selected weights: of the training, up to them."""
        metadata = read_checkpoint(self.folder / "best.safetensors").metadata
        return {**self.facts(), **updates_of(metadata)}

    def facts(self) -> dict[str, Any]:
        """Return what manifests say of this training as a whole."""
        cfg = self.cfg
        return {
            **self.pretraining,
            "recipe": cfg.recipe,
            "effective_batch": effective_batch(cfg, self.fabric.world_size),
            "training_data": {n: fingerprint(source) for n, source in self.data.train.items()},
            "skipped_training_images": self.state.skipped,
            "augmentation_left_out": left_out_transforms(cfg),
            **training_facts(cfg),
        }

    def _test_selected(self, sets: dict[str, Source]) -> None:
        path = self.folder / "best.safetensors"
        self.fabric.barrier()
        load_checkpoint(self.bare, path)
        best = self.state.best or {"epoch": self.state.epoch}
        tested = ModelUnderTest(
            name=self.cfg.name,
            checkpoint={"file": path.name, "sha256": sha256_file(path), "epoch": best["epoch"]},
            selection=self.cfg.select,
            facts=self.tested_facts(),
        )
        self.evaluator.evaluate(self.module, tested, sets)


def refuse_other_run(cfg: Config) -> None:
    """Refuse an output folder that holds a run which is neither to be continued nor to be replaced.

    Raises:
        UserError: If so.
    """
    folder = Path(cfg.output_dir)
    holds_run = any((folder / name).exists() for name in (RESUME_NAME, RUN_NAME))
    if holds_run and not cfg.resume and not cfg.overwrite:
        raise UserError(
            f"--output-dir {folder} holds a run already: continue it with --resume auto, replace "
            "it with --overwrite, or choose another folder"
        )


def clear_folder(folder: Path) -> None:
    """Remove the files of a former run, and nothing else."""
    for path in _run_files(folder):
        path.unlink(missing_ok=True)


def _run_files(folder: Path) -> Iterator[Path]:
    for name in (RESUME_NAME, RUN_NAME, "last.safetensors", "best.safetensors", "metrics.jsonl"):
        yield folder / name
    yield from folder.glob("events.out.tfevents.*")
    for part in ("rows", "histograms", "manifests"):
        yield from (folder / "results" / part).glob("*")


def prepare_training(cfg: Config, identity: str = "") -> Trainer:
    """Return a run that is ready to start, or to go on.

    Args:
        cfg: The configuration.
        identity: See `Trainer`.

    Raises:
        UserError: If the configuration, the data or the output folder cannot be used.
    """
    data = read_training_data(cfg)
    fabric = make_fabric(
        cfg.device,
        cfg.precision,
        find_unused_parameters=cfg.find_unused_parameters,
        matmul=cfg.matmul,
        purpose="training",
    )
    if fabric.is_global_zero:
        prove_writable(Path(cfg.output_dir), "--output-dir")
        refuse_other_run(cfg)
        if cfg.overwrite and not cfg.resume:
            clear_folder(Path(cfg.output_dir))
    fabric.barrier()
    return Trainer(cfg, fabric, data, identity)


def train(cfg: Config) -> Trainer:
    """Train as configured; returns the finished run.

    Raises:
        UserError: If the configuration, the data or the output folder cannot be used.
    """
    trainer = prepare_training(cfg)
    trainer.run()
    return trainer
