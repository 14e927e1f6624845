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
from sparsevit_plugin.files import file_name, sha256_file
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.data_paths import read_data_path
from sparsevit_plugin.harness.perturb import named_settings
from sparsevit_plugin.harness.pipeline import named_weights
from sparsevit_plugin.harness.sources import Source, each_once, fingerprints
from sparsevit_plugin.harness.testing import without_pretraining
from sparsevit_plugin.protocol.fingerprints import content_fingerprint
from sparsevit_plugin.protocol.folder import ProtocolFolder
from sparsevit_plugin.protocol.keys import (
    digest,
    testing_content,
    training_content,
    without_device,
    without_seed,
)
from sparsevit_plugin.protocol.request import (
    Request,
    Row,
    read_rows,
    requested_protocol,
    row_config,
)
from sparsevit_plugin.protocol.schema import Protocol

_SHORT: Final = 8
CHECKPOINT_SEED: Final = 0
"""The seed that ready checkpoints are tested with: of the draws of a perturbation."""

WEIGHTS: Final = "best.safetensors"


@dataclass(frozen=True)
class Prints:
    """What data a cell is made from.

    Attributes:
        files: Hash over the files' names, sizes and times.
        contents: Hash over their names and contents; empty unless verified.
        sizes: Hash over their names and sizes, the same for a copy.
    """

    files: str
    contents: str = ""
    sizes: str = ""

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
        name: Names its log, its lock and its failure; another name where anything differs.
        label: The row's name.
        card: The model card's name.
        word: What names the row among the models of a request.
        seed: The training's seed.
        row: Identity of the row at this seed, which the manifests of its results carry.
        series: Same for the row's other seeds.
        group: Heading of its rows.
        config: The resolved configuration, of `train` or, where nothing is trained, of `test`.
        train: Its training; None for ready checkpoints and trivial baselines.
        tests: Its test cells.
        checkpoint: The ready checkpoint.
        weights: Pretraining files by argument.
        data_prints: Of every set that it reads.
    """

    name: str
    label: str
    card: ModelCard
    word: str
    seed: int
    row: str
    series: str
    group: str
    config: Config
    train: TrainCell | None
    tests: tuple[TestCell, ...]
    checkpoint: Path | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    data_prints: tuple[Prints, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what `status` needs of it, as JSON can hold it."""
        return {
            "name": self.name,
            "label": self.label,
            "seed": self.seed,
            "group": self.group,
            "train": None if self.train is None else asdict(self.train),
            "tests": [asdict(cell) for cell in self.tests],
        }


@dataclass(frozen=True)
class Data:
    """The sets of a protocol.

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
        sizes = digest({name: p.sizes for name, p in chosen.items()})
        return Prints(files, digest(contents) if all(contents.values()) else "", sizes)


@dataclass(frozen=True)
class Plan:
    """What a request comes to.

    Attributes:
        protocol: The protocol.
        request: What was asked for.
        jobs: Every row at every seed.
        data: The sets, as the first row uses them.
    """

    protocol: Protocol
    request: Request
    jobs: tuple[Job, ...]
    data: Data


def make_plan(
    request: Request, folder: ProtocolFolder, contents: Mapping[str, str] | None = None
) -> Plan:
    """Resolve a request into jobs; nothing is built or trained.

    Args:
        request: What was asked for.
        folder: Knows earlier trainings.
        contents: Contents' hash by files' hash, of sets that were read already; with `--verify`.

    Raises:
        UserError: Anything in it that cannot be run: an unknown name, a wrong card, a missing set
            or weights file. Of several rows the first is named and the others are counted.
    """
    protocol = requested_protocol(request)
    rows = read_rows(request, protocol)
    resolved = _resolve_all(request, protocol, rows)
    trains = any(row.trains for row, _, _ in resolved)
    planner = _Planner(request, protocol, folder, trains, dict(contents or {}))
    jobs = [planner.job(row, seed, cfg) for row, seed, cfg in resolved]
    return Plan(protocol, request, tuple(jobs), planner.data(resolved[0][2]))


def _resolve_all(
    request: Request, protocol: Protocol, rows: list[Row]
) -> list[tuple[Row, int, Config]]:
    found, mistakes = [], []
    for row in rows:
        # A ready checkpoint answers the same whatever the seed.
        seeds = request.seeds if row.checkpoint is None else (CHECKPOINT_SEED,)
        try:
            found += [(row, seed, row_config(request, protocol, row, seed)) for seed in seeds]
        except UserError as error:
            mistakes.append(f"{row.label}: {error}")
    if mistakes:
        more = [mistake.split(":")[0] for mistake in mistakes[1:]]
        others = f" (and {len(more)} more rows: {', '.join(more)})" if more else ""
        raise UserError(f"{mistakes[0]}{others}")
    return found


@dataclass(frozen=True)
class _Planner:
    """What the jobs of a plan have in common."""

    request: Request
    protocol: Protocol
    folder: ProtocolFolder
    trains: bool
    contents: dict[str, str]
    _data: dict[tuple[str, int | None], Data] = field(default_factory=dict)

    def data(self, cfg: Config) -> Data:
        """Return the sets as a configuration reads them; each way of reading is read once."""
        way = (cfg.pair, cfg.limit_images)
        if way not in self._data:
            self._data[way] = self._read(cfg)
        return self._data[way]

    def _read(self, cfg: Config) -> Data:
        path = f"protocol:{self.request.protocol}"
        train = read_data_path(cfg, path, "train") if self.trains else {}
        tests = {name: each_once(s) for name, s in read_data_path(cfg, path, "test").items()}
        named = {f"train:{name}": source for name, source in train.items()}
        named |= {f"test:{name}": source for name, source in tests.items()}
        prints = {name: self._prints(source) for name, source in named.items()}
        return Data(train, tests, prints)

    def _prints(self, source: Source) -> Prints:
        found = fingerprints(source)
        files = found["fingerprint"]
        if self.request.verify and files not in self.contents:
            self.contents[files] = content_fingerprint(source)
        return Prints(files, self.contents.get(files, ""), found["sizes_fingerprint"])

    def job(self, row: Row, seed: int, cfg: Config) -> Job:
        """Return the job of a row at a seed."""
        train = self._train_cell(row, seed, cfg) if row.trains else None
        weights = sha256_file(row.checkpoint) if row.checkpoint else ""
        group = self.request.group_of(row, cfg)
        test_cfg = testing_config(cfg)
        content = testing_content(test_cfg, train.identity if train else weights)
        identity = digest({"label": row.label, "group": group, **content})
        tests = self._test_cells(test_cfg, identity)
        prints = [train and train.prints.files, [cell.prints.files for cell in tests]]
        cells = digest([identity, [cell.key for cell in tests], prints])
        return Job(
            name=f"{file_name(f'{row.label}-s{seed}')}-{cells[:_SHORT]}",
            label=row.label,
            card=row.card,
            word=row.word,
            seed=seed,
            row=identity,
            series=self._series(row, cfg, group, train, weights),
            group=group,
            config=cfg,
            train=train,
            tests=tests,
            checkpoint=row.checkpoint,
            weights={name: path.name for name, path in named_weights(cfg).items()},
            data_prints=tuple(self.data(cfg).prints.values()),
        )

    def _series(
        self, row: Row, cfg: Config, group: str, train: TrainCell | None, weights: str
    ) -> str:
        """Return what a row's seeds share, on whatever kind of device and copy of the data."""
        content = without_seed(testing_content(testing_config(cfg), weights))
        if train is not None:
            training = without_device(without_seed(self._training(cfg)))
            content |= {"training": training, "data": train.prints.sizes}
        return digest({"label": row.label, "group": group, **without_device(content)})

    def _training(self, cfg: Config) -> dict[str, Any]:
        draw = self.protocol.train.draw if self.protocol.train else None
        return training_content(cfg, self.request.processes, draw)

    def _train_cell(self, row: Row, seed: int, cfg: Config) -> TrainCell:
        """Return a training: an earlier one where there is one on the same data, or a new one."""
        key = digest(self._training(cfg))
        data = self.data(cfg)
        prints = data.joined(*(("train:", "test:") if cfg.select == "test" else ("train:",)))
        identity = digest([key, prints.files])
        folder = file_name(f"{row.label}-s{seed}-{identity[:_SHORT]}")
        for name, record in self.folder.training_records(key).items():
            if prints.same(record):
                folder, identity = name, record["identity"]
                break
        return TrainCell(
            key=key,
            identity=identity,
            folder=folder,
            prints=prints,
            images=sum(len(source) for source in data.train.values()),
            epochs=cfg.epochs,
        )

    def _test_cells(self, cfg: Config, row: str) -> tuple[TestCell, ...]:
        cells = []
        data = self.data(cfg)
        for perturbation in self.protocol.test.perturbations:
            for name, source in data.tests.items():
                # A preset's values are part of it; of other perturbations the text is all.
                named = named_settings(perturbation)
                key = digest([row, name, perturbation, *([named] if named else [])])
                prints = data.prints[f"test:{name}"]
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
    made_with = None
    if train is not None:
        record = folder.training_record(train.folder)
        trained = record is not None and record["identity"] == train.identity
        weights = trained and (folder.train_folder(train.folder) / WEIGHTS).is_file()
        made_with = record["weights_sha256"] if record and trained else ""

    def is_done(cell: TestCell) -> bool:
        # Rows of weights that a repeated training has replaced are not these weights' rows.
        same = [r for r in finished.get(cell.key, []) if cell.prints.same(r)]
        return any(made_with in (None, r.get("weights_sha256")) for r in same)

    done = tuple(cell for cell in tests if is_done(cell))
    return State(trained, weights, done, tuple(cell for cell in tests if cell not in done))


def unverified(plan: Plan, folder: ProtocolFolder) -> int:
    """Return how many finished test cells have no contents to compare the data with."""
    finished = folder.finished_tests()
    count = 0
    for job in plan.jobs:
        for cell in state_of(job.train, job.tests, folder, finished).done:
            records = [r for r in finished[cell.key] if cell.prints.same(r)]
            count += not any(record.get("contents") for record in records)
    return count
