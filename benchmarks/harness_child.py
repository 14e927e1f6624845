"""One run of `benco test` or `benco train`, or of IMDLBenCo's script for the same work, timed.

`benchmarks/harness.py` starts this in a process of its own, with a JSON object as its only
argument, and reads the last line that it prints. Functions are timed from outside, by wrapping
them: the packages know nothing of it.

IMDLBenCo 0.1.45 crashes without a GPU and a process group. It is mended in memory, see `main`,
`prepare_upstream` and `run_mended`; nothing that its loops compute is changed.
"""

import contextlib
import functools
import importlib
import inspect
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STAGES = ("decode", "transform", "waiting", "model", "metrics", "writing")
"""Decoding and transforms happen where the loader is; the others, and waiting for a batch, in the
main process, whose time is theirs and what is left over."""


class Stopwatch:
    """Adds up seconds by stage, over this process and the loader processes that it forks."""

    def __init__(self) -> None:
        self._seconds = {name: multiprocessing.Value("d", 0.0) for name in (*STAGES, "item")}

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        total = self._seconds[stage]
        with total.get_lock():
            total.value += seconds

    def wrap(self, owner: Any, name: str, stage: str) -> None:  # noqa: ANN401 - class or module
        """Time a function, under the name that its callers use."""
        call = getattr(owner, name)

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.add(stage, time.perf_counter() - start)

        setattr(owner, name, timed)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage."""
        found = {name: total.value for name, total in self._seconds.items()}
        found["transform"] = found.pop("item") - found["decode"]
        return found


class Loop:
    """Times the loop proper, within a command that also reads, builds and stores."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, owner: Any, name: str) -> None:  # noqa: ANN401 - class or module
        """Time a function as the loop."""
        call = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            start = time.perf_counter()
            answer = call(*args, **kwargs)
            self.seconds += time.perf_counter() - start
            return answer

        setattr(owner, name, timed)


def wrap_shared(watch: Stopwatch) -> None:
    """Time what both sides call: the loader's batches, the backward pass, the optimiser."""
    import torch
    from torch.utils.data import DataLoader

    watch.wrap(torch.Tensor, "backward", "model")
    watch.wrap(torch.optim.AdamW, "step", "model")
    begin = DataLoader.__iter__

    def batches(loader: DataLoader) -> Iterator[Any]:
        iterator = begin(loader)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            watch.add("waiting", time.perf_counter() - start)
            if batch is None:
                return
            yield batch

    DataLoader.__iter__ = batches  # type: ignore[method-assign, assignment]


def prepare_ours(watch: Stopwatch, loop: Loop, verb: str, model: type) -> None:
    """Time the stages of `benco`."""
    from sparsevit_plugin.harness import datasets, evaluate, pipeline, train
    from sparsevit_plugin.results.store import Store

    watch.wrap(datasets, "read_pair", "decode")
    watch.wrap(datasets.SeededDataset, "__getitem__", "item")
    watch.wrap(evaluate, "evaluate_batch", "metrics")
    watch.wrap(evaluate, "native_map", "metrics")
    watch.wrap(Store, "write", "writing")
    watch.wrap(train, "save_state", "writing")
    watch.wrap(train, "save_safetensors", "writing")
    if verb == "test":
        evaluate_set = pipeline.evaluate_set

        def watched(fabric: Any, predictor: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            watch.wrap(predictor, "forward", "model")
            return evaluate_set(fabric, predictor, *args, **kwargs)

        pipeline.evaluate_set = watched  # type: ignore[assignment]
        loop.wrap(pipeline, "evaluate_set")
    else:
        watch.wrap(model, "forward", "model")
        loop.wrap(train.Trainer, "_train_epoch")


def run_ours(verb: str, plan: dict[str, Any]) -> None:
    """Run the command."""
    from sparsevit_plugin.cli.main import main

    words = ["--model", plan["model"], "--image-size", plan["image_size"], "--fit", "resize"]
    words += ["--device", "cpu", "--precision", "32", "--output-dir", plan["out"]]
    words += ["--num-workers", plan["workers"], "--recipe", "none"]
    if verb == "test":
        words += ["--test-data-path", plan["data"], "--test-batch-size", plan["batch_size"]]
        words += ["--checkpoint", plan["checkpoint"]]
    else:
        words += ["--data-path", plan["data"], "--batch-size", plan["batch_size"]]
        words += ["--epochs", 1, "--warmup-epochs", 0, "--accum-iter", 1, "--lr", 1e-4]
        words += ["--augmentation", "benco", "--select", "last"]
    code = main([verb, *map(str, words)])
    if code:
        raise SystemExit(code)


def prepare_upstream(watch: Stopwatch, loop: Loop, verb: str, figures: str) -> Callable[[], None]:
    """Mend IMDLBenCo's script, time its stages, and return what runs it."""
    import torch
    from IMDLBenCo.datasets.abstract_dataset import AbstractDataset
    from IMDLBenCo.evaluation import PixelF1
    from torch.utils.tensorboard import SummaryWriter

    script: Any = importlib.import_module(f"IMDLBenCo.training_scripts.{verb}")
    watch.wrap(AbstractDataset, "_get_image", "decode")
    watch.wrap(AbstractDataset, "__getitem__", "item")
    for name in ("add_scalar", "add_scalars", "add_images", "flush"):
        watch.wrap(SummaryWriter, name, "writing")
    watch.wrap(script.misc, "save_model", "writing")
    evaluator = _all_figures() if figures == "same" else PixelF1
    watch.wrap(evaluator, "batch_update", "metrics")
    script.PixelF1 = evaluator
    loop.wrap(script, "test_one_epoch" if verb == "test" else "train_one_epoch")
    torch.cuda.synchronize = lambda *args: None  # train.py calls it whatever the device
    return functools.partial(run_mended, script)


def _all_figures() -> type:
    """Return an evaluator of all pixel-level figures that IMDLBenCo has, where its script has F1.

    The script's list of evaluators is a literal with one entry, to be edited by its user.
    """
    from IMDLBenCo.evaluation import PixelAccuracy, PixelAUC, PixelF1, PixelIOU

    class AllFigures(PixelF1):
        def __init__(self, threshold: float = 0.5, mode: str = "origin") -> None:
            super().__init__(threshold=threshold, mode=mode)
            kinds = (PixelAUC, PixelIOU, PixelAccuracy)
            self.others = [kind(threshold=threshold) for kind in kinds]

        def batch_update(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            for other in self.others:
                other.batch_update(*args, **kwargs)
            return super().batch_update(*args, **kwargs)

    return AllFigures


def run_mended(script: Any) -> None:  # noqa: ANN401 - a module
    """Run the `main` of a script of IMDLBenCo with the rank set that only a process group sets."""
    source, anchor = inspect.getsource(script.main), "device = torch.device(args.device)\n"
    if source.count(anchor) != 1:
        raise RuntimeError("IMDLBenCo's script is not the one that this benchmark mends")
    mended = source.replace(anchor, f"{anchor}    global_rank = 0\n")
    exec(compile(mended, script.__file__, "exec"), script.__dict__)
    arguments = script.get_args_parser()
    Path(arguments[0].output_dir).mkdir(exist_ok=True)  # as the script's last lines do
    with contextlib.suppress(SystemExit):  # test.py ends so
        script.main(*arguments)


def upstream_words(verb: str, plan: dict[str, Any]) -> list[str]:
    """Return the command line of IMDLBenCo's script for the same work."""
    words = ["--model", plan["model"], "--image_size", plan["image_size"], "--if_resizing"]
    words += ["--device", "cpu", "--num_workers", plan["workers"], "--no_pin_mem"]
    words += ["--output_dir", plan["out"], "--log_dir", plan["out"]]
    words += ["--test_batch_size", plan["batch_size"]]
    if verb == "test":
        words += ["--test_data_json", plan["data_json"], "--checkpoint_path", plan["checkpoints"]]
    else:
        words += ["--data_path", plan["data"], "--test_data_path", plan["few"]]
        words += ["--batch_size", plan["batch_size"], "--epochs", 1, "--warmup_epochs", 0]
        words += ["--accum_iter", 1, "--lr", 1e-4, "--if_not_amp"]
    return [str(word) for word in words]


def main() -> None:
    """Run one side once; print what was measured as the last line."""
    plan = json.loads(sys.argv[1])
    verb, watch, loop = plan["verb"], Stopwatch(), Loop()
    start = time.perf_counter()
    from sparsevit_plugin.registration import get_model_class

    model = type(get_model_class(plan["model"])())
    wrap_shared(watch)
    if plan["side"] == "ours":
        prepare_ours(watch, loop, verb, model)
        run: Callable[[], None] = functools.partial(run_ours, verb, plan)
    else:
        watch.wrap(model, "forward", "model")
        # test.py asks for the module inside the wrapper that only a process group gives.
        model.module = property(lambda self: self)
        run = prepare_upstream(watch, loop, verb, plan["figures"])
        sys.argv = [f"{verb}.py", *upstream_words(verb, plan)]
    imported = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        run()
    total = time.perf_counter() - imported
    facts = {"imports": imported - start, "total": total, "loop": loop.seconds}
    # IMDLBenCo replaces `print` by one that puts the time before everything.
    sys.stdout.write(json.dumps({**facts, **watch.seconds()}) + "\n")


if __name__ == "__main__":
    main()
