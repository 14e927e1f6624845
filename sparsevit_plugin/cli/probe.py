"""Whether a registered model can be built here: one child process a model, without a network.

Run as a module it is the child: it builds the model named on its command line and prints one line
of JSON.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from inspect import Parameter, signature
from typing import Any, NoReturn

_LONGEST_REASON = 160
# Nothing listens on the discard port: what does not use Python's sockets fails at once too.
_NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class ProbeResult:
    """What became of one attempt to build a model.

    Attributes:
        name: The registered name.
        ok: Whether it was built.
        parameters: Number of its parameters, None unless built.
        seconds: Time of the constructor alone; of the whole child where it was stopped.
        reason: What is missing, in one line; empty when it was built.
    """

    name: str
    ok: bool
    parameters: int | None
    seconds: float
    reason: str = ""


def probe(
    names: Iterable[str], *, timeout: float, jobs: int, imports: list[str]
) -> Iterator[ProbeResult]:
    """Try to build models, and yield each result in the order of `names`.

    Args:
        names: Registered names.
        timeout: Seconds that a child may take, the import of its libraries included.
        jobs: Children at a time.
        imports: What `--import` was given; the children need the same models.
    """
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda name: _run_child(name, timeout, imports), names)


def _run_child(name: str, timeout: float, imports: list[str]) -> ProbeResult:
    command = [sys.executable, "-m", "sparsevit_plugin.cli.probe", name, *imports]
    blocked = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), _NOWHERE)
    blocked |= {key.lower(): value for key, value in blocked.items()}
    environment = {**os.environ, **blocked, "NO_PROXY": "", "no_proxy": "", "HF_HUB_OFFLINE": "1"}
    start = time.monotonic()
    try:
        child = subprocess.run(  # noqa: S603 - this interpreter and registered names
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return ProbeResult(name, False, None, timeout, f"stopped after {timeout:g} s")
    try:
        return ProbeResult(**json.loads(child.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        last = (child.stderr.strip().splitlines() or [f"ended with code {child.returncode}"])[-1]
        return ProbeResult(name, False, None, time.monotonic() - start, shorten(last))


def shorten(text: str) -> str:
    """Return a message as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 3]}..."


def missing_arguments(constructor: Callable[..., Any], given: Iterable[str]) -> list[str]:
    """Return the constructor's arguments that have neither a default nor a value in `given`."""
    variable = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return [
        name
        for name, parameter in signature(constructor).parameters.items()
        if parameter.default is Parameter.empty
        and parameter.kind not in variable
        and name not in given
    ]


def build_and_measure(
    name: str, constructor: Callable[..., Any], arguments: dict[str, Any]
) -> ProbeResult:
    """Build a model in this process and count its parameters."""
    missing = missing_arguments(constructor, arguments)
    if missing:
        return ProbeResult(name, False, None, 0.0, f"needs a value for {', '.join(missing)}")
    start = time.monotonic()
    try:
        model = constructor(**arguments)
    except (Exception, SystemExit) as error:  # constructors of other people's models raise anything
        reason = shorten(f"{type(error).__name__}: {error}")
        return ProbeResult(name, False, None, time.monotonic() - start, reason)
    seconds = time.monotonic() - start
    return ProbeResult(name, True, sum(p.numel() for p in model.parameters()), seconds)


def block_network() -> None:
    """Make every connection and look-up of a name fail at once in this process."""

    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        raise OSError("the network is blocked while a model is probed")

    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        setattr(socket, name, refuse)


def _child(name: str, imports: list[str]) -> None:
    from sparsevit_plugin.registration import import_user, register_all, resolve_model

    block_network()
    register_all()
    import_user(imports)
    card, registered = resolve_model(name)
    result = build_and_measure(name, registered.constructor, card.arguments if card else {})
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2:])
