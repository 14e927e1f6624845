"""From a request to cells: what has to be trained and tested, and what is finished already.

A job is one row of the table at one seed: its training, where it has one, and its test cells. It is
what one process (or one group of processes) runs.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sparsevit_plugin.cards import ModelCard
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import sha256_file
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.data_paths import read_data_path
from sparsevit_plugin.harness.pipeline import named_weights
from sparsevit_plugin.harness.sources import Source, each_once, fingerprint
from sparsevit_plugin.harness.testing import without_pretraining
from sparsevit_plugin.protocol.fingerprints import content_fingerprint
from sparsevit_plugin.protocol.folder import ProtocolFolder, file_name
from sparsevit_plugin.protocol.keys import (
    digest,
    testing_content,
    training_content,
    without_seed,
)
from sparsevit_plugin.protocol.request import Request, Row, read_rows, row_config
from sparsevit_plugin.protocol.schema import Protocol, load_protocol

_SHORT: Final = 8
WEIGHTS: Final = "best.safetensors"


@dataclass(frozen=True)
class Prints:
    """What data a cell is made from.

    Attributes:
        files: Hash over the files' names, sizes and times.
        contents: Hash over their names and contents; empty unless verified.
    """

    files: str
    contents: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return what a record of the cell keeps."""
        return {"fingerprint": self.files, "contents": self.contents}

    def same(self, record: Mapping[str, Any]) -> bool:
        """Say whether a record was made from this data.

        Where both know the contents, these decide: a copy with other times is the same data, and a
        file changed in place is not.
        """
        if self.contents and record.get("contents"):
            return self.contents == record["contents"]
        return bool(self.files == record.get("fingerprint"))


@dataclass(frozen=True)
class TrainCell:
    """One training.

    Attributes:
        key: See `keys`.
        identity: Of the weights: key and data together.
        folder: Name of its folder.
        prints: Its data.
        images: Images of an epoch, before a hold-out is taken from them.
        epochs: Epochs.
    """

    key: str
    identity: str
    folder: str
    prints: Prints
    images: int
    epochs: int


@dataclass(frozen=True)
class TestCell:
    """One set under one perturbation.

    Attributes:
        key: See `keys`.
        set: The set's name, the table's column.
        perturbation: What is done to its photographs.
        prints: Its data.
        images: How many it has.
    """

    key: str
    set: str
    perturbation: str
    prints: Prints
    images: int


@dataclass(frozen=True)
class Job:
    """One row at one seed.

    Attributes:
        name: Names its log, its lock and its failure.
        label: The row's name.
        card: The model card's name.
        seed: The training's seed.
        series: Same for the row's other seeds.
        group: Heading of its rows.
        config: The resolved configuration, of `train` or, where nothing is trained, of `test`.
        train: Its training; None for ready checkpoints and trivial baselines.
        tests: Its test cells.
        checkpoint: The ready checkpoint.
        weights: Pretraining files by argument.
    """

    name: str
    label: str
    card: ModelCard
    seed: int
    series: str
    group: str
    config: Config
    train: TrainCell | None
    tests: tuple[TestCell, ...]
    checkpoint: Path | None = None
    weights: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what `status` needs of it, as JSON can hold it."""
        return {
            "name": self.name,
            "label": self.label,
            "card": self.card.name,
            "seed": self.seed,
            "series": self.series,
            "group": self.group,
            "train": None if self.train is None else asdict(self.train),
            "tests": [asdict(cell) for cell in self.tests],
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
        }


@dataclass(frozen=True)
class Data:
    """The sets of a protocol, read once for all jobs.

    Attributes:
        train: Training sets by name.
        tests: Test sets by name.
        prints: Of each set, `train:` or `test:` before its name.
    """

    train: Mapping[str, Source]
    tests: Mapping[str, Source]
    prints: dict[str, Prints]

    def joined(self, *sides: str) -> Prints:
        """Return one print for all sets of some sides."""
        chosen = {name: p for name, p in self.prints.items() if name.startswith(sides)}
        contents = {name: p.contents for name, p in chosen.items()}
        files = digest({name: p.files for name, p in chosen.items()})
        return Prints(files, digest(contents) if all(contents.values()) else "")


@dataclass(frozen=True)
class Plan:
    """What a request comes to.

    Attributes:
        protocol: The protocol.
        request: What was asked for.
        jobs: Every row at every seed.
        data: The sets.
    """

    protocol: Protocol
    request: Request
    jobs: tuple[Job, ...]
    data: Data


def make_plan(request: Request, folder: ProtocolFolder) -> Plan:
    """Resolve a request into jobs; nothing is built or trained.

    Args:
        request: What was asked for.
        folder: Knows earlier trainings.

    Raises:
        UserError: Anything in it that cannot be run: an unknown name, a wrong card, a missing set
            or weights file. Of several rows the first is named and the others are counted.
    """
    protocol = load_protocol(request.protocol)
    rows = read_rows(request)
    resolved = _resolve_all(request, protocol, rows)
    trains = any(row.trains for row, _, _ in resolved)
    planner = _Planner(request, protocol, _read_data(request, resolved[0][2], trains), folder)
    jobs = [planner.job(row, seed, cfg) for row, seed, cfg in resolved]
    return Plan(protocol, request, tuple(jobs), planner.data)


def _resolve_all(
    request: Request, protocol: Protocol, rows: list[Row]
) -> list[tuple[Row, int, Config]]:
    found, mistakes = [], []
    for row in rows:
        # Another seed changes nothing of what a ready checkpoint answers.
        seeds = request.seeds if row.checkpoint is None else request.seeds[:1]
        try:
            found += [(row, seed, row_config(request, protocol, row, seed)) for seed in seeds]
        except UserError as error:
            mistakes.append(f"{row.label}: {error}")
    if mistakes:
        more = [mistake.split(":")[0] for mistake in mistakes[1:]]
        others = f" (and {len(more)} more rows: {', '.join(more)})" if more else ""
        raise UserError(f"{mistakes[0]}{others}")
    return found


def _read_data(request: Request, cfg: Config, trains: bool) -> Data:
    """Read the sets by any row's configuration: what concerns data is the same in all."""
    path = f"protocol:{request.protocol}"
    train = read_data_path(cfg, path, "train") if trains else {}
    tests = {name: each_once(s) for name, s in read_data_path(cfg, path, "test").items()}
    named = {f"train:{name}": source for name, source in train.items()}
    named |= {f"test:{name}": source for name, source in tests.items()}
    prints = {
        name: Prints(fingerprint(source), content_fingerprint(source) if request.verify else "")
        for name, source in named.items()
    }
    return Data(train, tests, prints)


@dataclass(frozen=True)
class _Planner:
    """What the jobs of a plan have in common."""

    request: Request
    protocol: Protocol
    data: Data
    folder: ProtocolFolder

    def job(self, row: Row, seed: int, cfg: Config) -> Job:
        """Return the job of a row at a seed."""
        train = self._train_cell(row, seed, cfg) if row.trains else None
        weights = sha256_file(row.checkpoint) if row.checkpoint else ""
        tests = self._test_cells(testing_config(cfg), train.identity if train else weights)
        cells = digest([train and train.identity, [cell.key for cell in tests]])
        return Job(
            name=f"{file_name(f'{row.label}-s{seed}')}-{cells[:_SHORT]}",
            label=row.label,
            card=row.card,
            seed=seed,
            series=self._series(row, cfg, train, weights),
            group=self.request.group,
            config=cfg,
            train=train,
            tests=tests,
            checkpoint=row.checkpoint,
            weights={name: path.name for name, path in named_weights(cfg).items()},
        )

    def _series(self, row: Row, cfg: Config, train: TrainCell | None, weights: str) -> str:
        content = testing_content(testing_config(cfg), weights)
        if train is not None:
            content = {**training_content(cfg, self.request.processes), "data": train.prints.files}
        return digest({"label": row.label, "group": self.request.group, **without_seed(content)})

    def _train_cell(self, row: Row, seed: int, cfg: Config) -> TrainCell:
        """Return a training: an earlier one where there is one on the same data, or a new one."""
        key = digest(training_content(cfg, self.request.processes))
        sides = ("train:", "test:") if cfg.select == "test" else ("train:",)
        prints = self.data.joined(*sides)
        earlier = next((r for r in self.folder.training_records(key) if prints.same(r)), None)
        identity = (
            earlier["identity"] if earlier else digest([key, prints.contents or prints.files])
        )
        return TrainCell(
            key=key,
            identity=identity,
            folder=file_name(f"{row.label}-s{seed}-{identity[:_SHORT]}"),
            prints=prints,
            images=sum(len(source) for source in self.data.train.values()),
            epochs=cfg.epochs,
        )

    def _test_cells(self, cfg: Config, weights: str) -> tuple[TestCell, ...]:
        cells = []
        for perturbation in self.protocol.test.perturbations:
            content = testing_content(replace(cfg, perturbation=perturbation), weights)
            for name, source in self.data.tests.items():
                key = digest({"set": name, **content})
                prints = self.data.prints[f"test:{name}"]
                cells.append(TestCell(key, name, perturbation, prints, len(source)))
        return tuple(cells)


def testing_config(cfg: Config) -> Config:
    """Return the configuration of `test` for the weights that a configuration of `train` gives."""
    return cfg if cfg.verb == "test" else without_pretraining(replace(cfg, verb="test"))


@dataclass(frozen=True)
class State:
    """How far a job is.

    Attributes:
        trained: Whether its training is finished; true where there is none.
        weights: Whether the weights that its test cells need are there.
        done: Its finished test cells.
        missing: Its other test cells.
    """

    trained: bool
    weights: bool
    done: tuple[TestCell, ...]
    missing: tuple[TestCell, ...]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.trained and not self.missing

    @property
    def must_train(self) -> bool:
        """Whether the model has to be trained, perhaps again for want of its weights."""
        return not self.trained or bool(self.missing and not self.weights)


def state_of(
    train: TrainCell | None,
    tests: tuple[TestCell, ...],
    folder: ProtocolFolder,
    finished: Mapping[str, list[dict[str, Any]]],
) -> State:
    """Compare a job's cells with what the folder remembers.

    Args:
        train: The job's training.
        tests: The job's test cells.
        folder: The protocol's folder.
        finished: From `ProtocolFolder.finished_tests`.
    """
    trained = weights = True
    if train is not None:
        record = folder.training_record(train.folder)
        trained = record is not None and record["identity"] == train.identity
        weights = trained and (folder.train_folder(train.folder) / WEIGHTS).is_file()
    is_done = [any(cell.prints.same(r) for r in finished.get(cell.key, [])) for cell in tests]
    done = tuple(cell for cell, done in zip(tests, is_done, strict=True) if done)
    missing = tuple(cell for cell, done in zip(tests, is_done, strict=True) if not done)
    return State(trained, weights, done, missing)
