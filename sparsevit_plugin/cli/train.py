"""`benco train`: train a registered model and test the selected checkpoint."""

from pathlib import Path

from sparsevit_plugin.cli.test import print_results


def run(argv: list[str]) -> int:
    """Train as the command line says.

    Args:
        argv: The words after `train`.

    Returns:
        The exit code.

    Raises:
        UserError: If something that the user gave cannot be used.
    """
    from sparsevit_plugin.harness.options import help_text, parse

    if parse("train", argv).help:
        print(help_text("train"))
        return 0
    from sparsevit_plugin.harness.config import resolve
    from sparsevit_plugin.harness.devices import is_main_process, launch_processes, under_torchrun

    cfg = resolve("train", argv)
    if cfg.print_config:
        cfg.print()
        return 0
    from sparsevit_plugin.harness.train import read_training_data, train

    if cfg.devices > 1 and not under_torchrun():
        read_training_data(cfg)  # bad input is found here once, not once in every process
        return launch_processes(cfg.devices, ["train", *argv])
    train(cfg)
    if is_main_process():
        print(f"weights: {Path(cfg.output_dir) / 'best.safetensors'}")
        if cfg.test_data_path:
            print_results(Path(cfg.output_dir), cfg.perturbation)
    return 0
