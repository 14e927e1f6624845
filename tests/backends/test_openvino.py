"""The `openvino` backend leaves the process that uses it able to take signals."""

import subprocess
import sys
import textwrap

PROGRAM = """
    import faulthandler, gc, os, signal, sys, threading
    from pathlib import Path

    faulthandler.enable()  # a stack for signals, as the tests' own process and many services have
    import openvino as ov
    import torch
    from sparsevit_plugin.backends.openvino import FILE, OpenVinoGraph

    folder = Path(sys.argv[1])
    convolution = ov.convert_model(
        torch.nn.Conv2d(3, 4, 3), example_input=torch.zeros(1, 3, 16, 16), input=[1, 3, 16, 16]
    )
    ov.save_model(convolution, folder / FILE)
    name = convolution.inputs[0].get_any_name()
    got = []
    signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))

    def signalled():
        os.kill(os.getpid(), signal.SIGUSR1)
        return len(got)

    for turn in (1, 2):
        kept = [OpenVinoGraph(folder, "32")]
        assert kept[0]({name: torch.zeros(2, 3, 16, 16)})[0].shape == (2, 4, 14, 14)
        assert signalled() == 2 * turn - 1
        thread = threading.Thread(target=lambda: (kept.clear(), gc.collect()))
        thread.start()
        thread.join()
        assert signalled() == 2 * turn
    print("alive")
"""


def test_signals_reach_a_process_whose_graph_another_thread_gave_up(tmp_path):
    """On processors with AMX its stack for signals was unmapped, and a loader's end was fatal."""
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM), str(tmp_path)]
    run = subprocess.run(program, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("alive\n")
