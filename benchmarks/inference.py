"""``python -m benchmarks.inference``: whole networks in evaluation, beside every way there is to run them on a CPU.

The sides are the built-in operators, `torch.compile` with frozen weights, ONNX Runtime and OpenVINO (``pip install
torchconv[rivals]``; a side that cannot be imported is left out, and the table says so), and torchconv. Each is timed in
a process of its own after a pause, since other runtimes' threads spin for a while after a call and slow down what comes
next. Answers are compared before they are timed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import torchconv

from .inference_networks import NETWORKS, made
from .machine import describe
from .report import Column, Table
from .row import memory_format
from .steps import resident

TOLERANCE = 1e-4  # of answers, relative to float64: what fifty layers of float32 make of 2^-24
SIDES = {
    "built-in": ("contiguous", "channels-last"),
    "compiled": ("contiguous", "channels-last"),
    "onnxruntime": ("contiguous",),
    "openvino": ("contiguous",),
    "torchconv": ("contiguous", "channels-last"),
}
PAUSE = 0.5  # seconds before each process


@dataclass(frozen=True)
class Took:
    """One network, batch, side and layout: the median of its calls, and what it holds."""

    network: str
    batch: int
    side: str
    layout: str
    threads: int
    milliseconds: float | None  # a median; None: it did not run, and `note` says why
    error: float | None  # relative to float64
    memory: int | None  # bytes that are resident after some calls and were not before the model was made
    note: str = ""


TABLE = Table(
    Column("network", "<19", "network"),
    Column("batch", ">5", "batch"),
    Column("side", "<12", "side"),
    Column("layout", "<13", "layout"),
    Column("ms", ">9.3f", "milliseconds"),
    Column("MB", ">7.1f", lambda took: None if took.memory is None else took.memory / 1e6),
    Column("error", ">8.1e", "error"),
    Column("note", "", "note"),
)


@dataclass(frozen=True)
class Ratio:
    network: str
    batch: int
    ours: float
    best: float
    rival: str
    ratio: float  # of the best rival's time to ours


RATIOS = Table(
    Column("network", "<19", "network"),
    Column("batch", ">5", "batch"),
    Column("torchconv ms", ">12.3f", "ours"),
    Column("best rival ms", ">13.3f", "best"),
    Column("rival", "<28", "rival"),
    Column("ratio", ">6.2f", "ratio"),
)


# ---- one side, in a process of its own ----


def runner(side: str, layout: str, model: Any, x: Tensor) -> Callable[[], Any]:
    """What answers `x`, when called."""
    if layout not in SIDES.get(side, ()):
        raise ValueError(f"no side {side!r} in layout {layout!r}")
    if side == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(exported(model, x), options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x.numpy()}
        return lambda: session.run(None, feed)[0]
    if side == "openvino":
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = openvino.Core().compile_model(exported(model, x), "CPU", settings)
        request, inputs = compiled.create_infer_request(), [x.numpy()]
        return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)[0]
    model = model.to(memory_format=memory_format(layout, 2))
    if side == "torchconv":
        model = torchconv.convert(model)
    if side == "compiled":
        model = torch.compile(model, options={"freezing": True})
    return lambda: model(x)


def exported(model: Any, x: Tensor) -> str:
    """A file of the model for ONNX's runtimes, which lasts as long as this process."""
    path = Path(tempfile.mkdtemp(prefix="torchconv-")) / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), dynamo=False, opset_version=17)
    return str(path)


def take(network: str, batch: int, side: str, layout: str, threads: int, seconds: float) -> Took:
    """Times one side in this process."""
    torch.set_num_threads(threads)
    with torch.no_grad():
        if side != "compiled":  # libraries' code and threads are not the model's memory
            small = torch.randn(1, *NETWORKS["lenet5"].input)
            runner(side, layout, made("lenet5"), small)()
    before = resident()
    model = made(network)
    x = torch.randn(batch, *NETWORKS[network].input, generator=torch.Generator().manual_seed(1))
    x = x.contiguous(memory_format=memory_format(layout, 2))
    with torch.no_grad():
        call = runner(side, layout, model, x)
        for _ in range(3):
            answer = torch.as_tensor(call())[:4].double()
        del model
        memory = resident() - before
        expected = made(network).double()(x[:4].double())
        error = float((answer - expected).norm() / expected.norm())
        if not error <= TOLERANCE:
            return Took(network, batch, side, layout, threads, None, error, None, "its answers are wrong")
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return Took(network, batch, side, layout, threads, 1e3 * statistics.median(times), error, memory)


def taken(network: str, batch: int, side: str, layout: str, threads: int, seconds: float) -> Took:
    """Times one side in a fresh process, after a pause."""
    time.sleep(PAUSE)
    arguments = [network, str(batch), side, layout, str(threads), str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.inference", "--one", *arguments], capture_output=True, text=True
    )
    if done.returncode == 0:
        return Took(**json.loads(done.stdout.splitlines()[-1]))
    why = done.stderr.strip().splitlines()[-1:] or [f"ended with status {done.returncode}"]
    return Took(network, batch, side, layout, threads, None, None, None, why[0][:120])


# ---- all of them ----


def ratios(results: Sequence[Took]) -> Iterator[Ratio]:
    """Ours in the better layout, beside the fastest of all others, for each network and batch where both ran."""
    for network, batch in dict.fromkeys((r.network, r.batch) for r in results):
        ran = [
            (r.milliseconds, f"{r.side}, {r.layout}")
            for r in results
            if (r.network, r.batch) == (network, batch) and r.milliseconds is not None
        ]
        ours = [time for time, who in ran if who.startswith("torchconv")]
        others = [(time, who) for time, who in ran if not who.startswith("torchconv")]
        if ours and others:
            best, rival = min(others)
            yield Ratio(network, batch, min(ours), best, rival, best / min(ours))


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME", help=", ".join(NETWORKS))
    add("--batches", nargs="+", type=int, default=[1, 8, 64], metavar="N", help="of 1, 8 and 64; a U-Net takes no 64")
    add("--sides", nargs="+", default=list(SIDES), choices=SIDES, metavar="SIDE", help=", ".join(SIDES))
    add("--threads", type=int, default=torch.get_num_threads())
    add("--seconds", type=float, default=2.0, help="of calls that a median is taken of, for each side and layout")
    add("--json", type=Path, metavar="FILE", help="everything, for programs")
    add("--one", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.threads < 1 or min(given.batches) < 1:
        parser.exit(2, f"{parser.prog}: --threads and --batches must be at least 1\n")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    given = options(arguments)
    if given.one:
        network, batch, side, layout, threads, seconds = given.one
        print(json.dumps(asdict(take(network, int(batch), side, layout, int(threads), float(seconds)))))
        return 0
    machine = describe([given.threads], torch.float32)
    print(machine, "", TABLE.head(), sep="\n", flush=True)
    results = []
    for name in given.networks:
        for batch in sorted(set(given.batches) & set(NETWORKS[name].batches)):
            for side in given.sides:
                for layout in SIDES[side]:
                    results.append(taken(name, batch, side, layout, given.threads, given.seconds))
                    print(TABLE.line(results[-1]), flush=True)
    lines = list(ratios(results))
    print("", RATIOS.text(lines), sep="\n")
    if given.json:
        everything = {"machine": machine, "results": results, "ratios": lines}
        given.json.write_text(json.dumps(everything, indent=1, default=asdict) + "\n")
    return any(r.note == "its answers are wrong" for r in results)


if __name__ == "__main__":
    sys.exit(main())
