"""`benco test`: test a checkpoint on one set or several."""

from pathlib import Path


def run(argv: list[str]) -> int:
    """Test as the command line says.

    Args:
        argv: The words after `test`.

    Returns:
        The exit code.

    Raises:
        UserError: If something that the user gave cannot be used.
    """
    from sparsevit_plugin.harness.options import help_text, parse

    if parse("test", argv).help:
        print(help_text("test"))
        return 0
    from sparsevit_plugin.harness.config import resolve
    from sparsevit_plugin.harness.devices import is_main_process, launch_processes, under_torchrun
    from sparsevit_plugin.harness.testing import (
        checkpoint_files,
        evaluate_checkpoints,
        recorded_settings,
    )

    cfg = resolve("test", argv, recorded=recorded_settings)
    if cfg.print_config:
        cfg.print()
        return 0
    if cfg.devices > 1 and not under_torchrun():
        checkpoint_files(cfg.checkpoint)
        return launch_processes(cfg.devices, ["test", *argv])
    evaluate_checkpoints(cfg)
    if is_main_process():
        print_results(Path(cfg.output_dir), cfg.perturbation)
    return 0


def print_results(folder: Path, perturbation: str) -> None:
    """Print the cross-dataset table of a run's folder, and say where its rows are."""
    from sparsevit_plugin.results.store import load

    results = load(folder)
    table = results.table(metric="pixel_f1", perturbation=perturbation)
    if not table.is_empty:
        table.print()
    print(f"rows, histograms and manifests: {folder / 'results'}")
    print(f"more tables: benco table {folder} --metric pixel_auc --format markdown")
