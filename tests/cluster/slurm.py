"""A Slurm cluster of this one machine, from Debian's packages: `python -m tests.cluster.slurm DIR`.

    apt-get install slurm-wlm munge

Everything but munge's socket is below DIR: configuration, state, logs. The daemons run as root (the
job accounting and cgroups of a real cluster are left out), on ports that are free now. The command
prints the line that points sbatch and squeue to the cluster, and ends it on Ctrl-C.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun")
MUNGE_RUN = Path("/run/munge")
START_SECONDS = 30.0

CONFIGURATION = """\
ClusterName=lab
SlurmctldHost={host}
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=300
SchedulerParameters=batch_sched_delay=1,sched_interval=1
NodeName={host} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Return why a cluster cannot be started here; empty where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} (apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "Slurm's daemons are started as root here"
    return ""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run a cluster in a folder, and yield the environment in which its commands find it.

    Raises:
        RuntimeError: A daemon does not come up; holds what its log says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("state", "spool"):
        (folder / part).mkdir(exist_ok=True)
    host = socket.gethostname().split(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=host,
            folder=folder,
            cpus=os.cpu_count(),
            controller=free_port(),
            node=free_port(),
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    daemons: list[subprocess.Popen] = []
    munge = start_munge()
    try:
        for name in ("slurmctld", "slurmd"):
            log = (folder / f"{name}.out").open("wb")
            command = [name, "-D", "-f", str(configuration)]
            daemons.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
        wait_for_node(folder, environment)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
        if munge is not None:
            munge.terminate()
            munge.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def start_munge() -> subprocess.Popen | None:
    """Start munge, which signs Slurm's messages; None where it runs already."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return None
    user = pwd.getpwnam("munge")
    for path in (MUNGE_RUN, Path("/var/log/munge"), Path("/var/lib/munge")):
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, user.pw_uid, user.pw_gid)
    MUNGE_RUN.chmod(0o755)
    command = ["munged", "--force", "--foreground"]
    daemon = subprocess.Popen(
        command,
        user="munge",
        group="munge",
        extra_groups=[],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + START_SECONDS
    while subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode:
        if time.monotonic() > until or daemon.poll() is not None:
            raise RuntimeError("munged does not answer")
        time.sleep(0.2)
    return daemon


def wait_for_node(folder: Path, environment: dict[str, str]) -> None:
    """Wait until the cluster's node takes jobs."""
    until = time.monotonic() + START_SECONDS
    command = ["sinfo", "--noheader", "--format=%t"]
    said = ""
    while time.monotonic() < until:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        said = run.stdout.strip() or run.stderr.strip()
        if said == "idle":
            return
        time.sleep(0.5)
    logs = [path.read_text(errors="replace")[-500:] for path in sorted(folder.glob("*.log"))]
    raise RuntimeError(f"the node does not come up ({said}): {' '.join(logs)}")


def main() -> None:
    """Run a cluster until Ctrl-C."""
    reason = why_not()
    if reason:
        sys.exit(reason)
    with cluster(Path(sys.argv[1]).absolute()) as environment:
        print(f"export SLURM_CONF={environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
