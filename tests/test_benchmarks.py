"""`python -m benchmarks` on tiny rows: what it writes, what it refuses, its arithmetic. Nothing depends on a time."""

import importlib.util
import json
import math
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from suite import first_quick, slow

import torchconv.functional
from benchmarks import __main__ as command
from benchmarks import escnn, inference, inference_networks, loader, measure, steps, summary
from benchmarks.measure import BOTH, Result
from benchmarks.row import LAYOUTS, Row
from benchmarks.rows import rows
from benchmarks.steps import NETWORKS, StepResult

ROWS = ["rest.lenet.5x5.1-6@32.p0", "rest.1d3.64-128@500", "3x3.48-48@4", "pool.lenet.6@28", "depthwise.256@14"]
ROWS += [TRANSPOSED := "transposed.2x2.64-32@56.s2"]
SHORT = ["--batch", "1", "--repeats", "1", "--least", "0", "--seconds", "0", "--threads", "1"]
PLOT = importlib.util.find_spec("matplotlib") is not None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One short run over a row of each group and a step: the JSON it wrote, and its other files as Paths."""
    directory = tmp_path_factory.mktemp("bench")
    files = {option: directory / option for option in ("json", "markdown", *["plot.png"] * PLOT)}
    arguments = [part for option, file in files.items() for part in (f"--{option.partition('.')[0]}", str(file))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "peak_memory", lambda *_: 12_000_000)
        assert command.main([*SHORT, *arguments, "--rows", *ROWS, "step.lenet5"]) == 0
    return {**files, **json.loads(files["json"].read_text())}


def test_json_has_every_row_layout_and_direction(run):
    expected = {
        (row.name, layout, direction)
        for row in rows()
        if row.name in ROWS
        for layout in row.layouts
        for direction in (*row.directions, BOTH)
    }
    assert {(r["name"], r["layout"], r["direction"]) for r in run["rows"]} == expected
    assert len(run["rows"]) == len(expected)
    assert all(set(r) == {field.name for field in fields(Result)} for r in run["rows"])
    assert [(s["name"], s["layout"], s["memory"]) for s in run["steps"]] == [
        ("step.lenet5", layout, 12_000_000) for layout in LAYOUTS
    ]
    assert {"cpu", "capability", "torch", "peak", "copy"} <= set(run["machine"])


def test_ratios_and_sums_in_json(run):
    by_key = {(r["name"], r["layout"], r["direction"]): r for r in run["rows"]}
    for (name, layout, direction), r in by_key.items():
        both = [by_key[name, one, direction]["built_in"] for one in LAYOUTS if (name, one, direction) in by_key]
        assert math.isclose(r["ratio"], r["built_in"] / r["torchconv"])
        assert math.isclose(r["better_ratio"], min(both) / r["torchconv"])
        parts = [p for (n, one, d), p in by_key.items() if (n, one) == (name, layout) and d != BOTH]
        if direction == BOTH:
            assert math.isclose(r["torchconv"], sum(p["torchconv"] for p in parts))
            assert math.isclose(r["built_in"], sum(p["built_in"] for p in parts))
            assert r["error"] == max(p["error"] for p in parts)


def test_rates_count_the_definition(run):
    (row,) = (r for r in run["rows"] if (r["name"], r["layout"], r["direction"]) == (ROWS[0], LAYOUTS[0], "forward"))
    flops = 2 * 6 * 28 * 28 * 25
    assert math.isclose(row["gflops"], flops / (1e-3 * row["torchconv"]) / 1e9)
    assert math.isclose(row["peak_share"], row["gflops"] / run["machine"]["peak"]["1"])
    (row,) = (r for r in run["rows"] if (r["name"], r["layout"], r["direction"]) == (TRANSPOSED, LAYOUTS[0], "forward"))
    flops = 2 * 64 * 32 * 4 * 56 * 56  # a tap meets each position of the input
    assert math.isclose(row["gflops"], flops / (1e-3 * row["torchconv"]) / 1e9)
    assert all((r["gflops"] is None) == r["name"].startswith("pool.") for r in run["rows"])


def test_files_for_people(run):
    text = run["markdown"].read_text()
    assert text.startswith("# ")
    assert all(name in text for name in (*ROWS, "step.lenet5", "## Summary", run["machine"]["cpu"]))
    if PLOT:
        assert run["plot.png"].read_bytes().startswith(b"\x89PNG")


def test_summary_in_json_covers_the_groups(run):
    groups = {"3x3", "rest", "transposed", "pool", "depthwise", "step.lenet5"}
    assert {line["group"] for line in run["summary"]} == groups


@pytest.mark.parametrize(
    "arguments",
    [["--rows", "nothing"], ["--no-steps", "--rows", "step.*"], ["--threads", "0"], ["--threads", "two"]]
    + [["--batch", "0"], ["--repeats", "0"], ["--layouts", "rows-first"], ["--dtype", "float16"]]
    + [["--layouts", "channels-last", "--rows", "*.1d*"]],
)
def test_bad_options_are_one_sentence(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert err.startswith("python -m benchmarks: ")
    assert arguments[-1] in err


def test_escnn_is_asked_for_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "escnn", None)  # cannot be imported
    assert escnn.main(["--no-times"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert err.startswith("python -m benchmarks.escnn: needs escnn, which cannot be imported (")


def test_loader_beside_the_fastest_network(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["loader", "--batches", "2"])
    monkeypatch.setattr(loader, "keep_freed_memory", lambda: None)  # of this process
    loader.main()
    _, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [[k, a] for k in ("grey", "colour") for a in ("default", "every")]
    for _, _, found, network, ratio in lines:
        loaded, trained = (float(text.replace(",", "")) for text in (found, network))
        assert abs(float(ratio) - loaded / trained) < 0.06


def test_a_wrong_result_stops_the_run(monkeypatch, capsys):
    monkeypatch.setattr(measure, "relative_error", lambda *_: math.nan)
    assert command.main([*SHORT, "--rows", ROWS[0]]) == 1
    assert "contiguous, forward by" in capsys.readouterr().err


def test_threads_are_numbers_or_all():
    everything = torch.get_num_threads()
    assert command.thread_counts("1,all") == tuple(dict.fromkeys((1, everything)))
    assert command.thread_counts("3,1,3") == (3, 1)


def test_quick_can_be_overruled():
    assert command.options(["--quick"])[1].batch == command.QUICK["batch"]
    assert command.options(["--quick", "--batch", "2"])[1].batch == 2
    assert command.options([])[1].batch is None


def test_rows_are_what_their_group_promises():
    table = rows()
    assert len({row.name for row in table}) == len(table)
    for row in table:
        if row.name.startswith("3x3."):
            assert row.weight is not None
            assert row.weight[2:] == (3, 3)
            assert row.options.get("stride", 1) == 1
            assert all(4 <= side <= 57 for side in row.input[2:])
            assert all(48 <= maps // row.options.get("groups", 1) <= 512 for maps in (row.input[1], row.weight[0]))
    assert {row.input[0] for row in rows(3)} == {3}


@pytest.mark.parametrize("row", [row for row in rows(1) if row.name in ROWS], ids=lambda row: row.name)
def test_explained_for_every_direction(row: Row):
    for layout in row.layouts:
        assert set(row.directions) <= set(measure.explain(row, layout, torch.float32))


def test_explained_is_what_runs():
    """Of the row's batch: one sample alone is another matter."""
    (row,) = (row for row in rows(16) if row.name == "3x3.320-320@9")
    operands = row.operands("contiguous", torch.float32)
    explained = measure.explain(row, "contiguous", torch.float32)["forward"].algorithm
    by_name = torchconv.functional.conv2d(*operands, **row.options, algorithm=explained)
    assert torch.equal(row.call(torchconv.functional)(*operands), by_name)


def test_ratios():
    assert measure.ratios({"contiguous": 6.0, "channels-last": 4.0}, "contiguous", 2.0) == (3.0, 2.0)


def test_relative_error_is_the_largest():
    one, two = torch.tensor([3.0, 4.0]), torch.tensor([1.0])
    assert measure.relative_error((one, two), (one.double(), two.double() * 2)) == 0.5
    assert math.isnan(measure.relative_error((one, two * math.nan), (one.double(), two.double())))


def result(name: str, layout: str, ratio: float, direction: str = "forward") -> Result:
    return Result(name, layout, direction, 2, 1.0, 1.0, 1.0, ratio, None, None, "direct", 0, 0.0, ratio, None)


def test_summary_arithmetic():
    first, last = LAYOUTS
    table = [result("3x3.a", first, 4.0), result("3x3.b", first, 1.44), result("3x3.a", last, 2.0)]
    table += [result("3x3.b", last, 8.0), result("rest.c", first, 0.5), result("rest.c", first, 9.0, "input grad")]
    lines = {(line.group, line.layout): line for line in summary.summarise(table)}
    assert len(lines) == 5
    line = lines["3x3", first]
    assert (line.rows, line.worst, line.worst_row, line.met) == (2, 1.44, "3x3.b", "yes")
    assert math.isclose(line.mean, 2.4)
    assert math.isclose(lines["3x3", last].mean, 4.0)
    better = lines["3x3", summary.BETTER]
    assert math.isclose(better.mean, 32**0.5)
    assert (better.worst, better.worst_row) == (4.0, "3x3.a")
    assert lines["rest", first].met == "no"
    assert lines["rest", first].mean == 0.5


def test_summary_of_steps():
    timed = [2.0, 1.0, 3.0, 1.0, 1.5, 2.0, 0.0, 0.0, None, None]
    lines = summary.summarise([], [StepResult("step.lenet5", layout, 2, 64, *timed) for layout in LAYOUTS])
    assert [line.layout for line in lines] == [LAYOUTS[0], summary.BETTER, LAYOUTS[1]]
    assert {(line.mean, line.met) for line in lines} == {(1.5, "yes")}


@pytest.mark.parametrize("name", first_quick(reversed(NETWORKS)))
def test_whole_networks_agree(name):
    ours, theirs = steps.check(name, LAYOUTS[1], 4, torch.float32)
    assert 0 < ours < 1e-3
    assert 0 < theirs < 1e-3


def test_a_wrong_network_is_refused(monkeypatch):
    monkeypatch.setattr(steps, "relative_error", lambda *_: math.nan)
    with pytest.raises(measure.Wrong, match="lenet5, contiguous: gradients have relative error nan"):
        steps.check("lenet5", LAYOUTS[0], 1, torch.float32)


def test_vgg_has_batch_norm():
    modules = list(steps.NETWORKS["vgg16_bn"][0](torch.nn, 3).modules())
    kinds = [sum(isinstance(m, kind) for m in modules) for kind in (torch.nn.Conv2d, torch.nn.BatchNorm2d)]
    assert kinds == [13, 13]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="not Linux")
@slow
def test_memory_of_a_step_in_a_process_of_its_own():
    held = steps.peak_memory("lenet5", "torchconv", LAYOUTS[0], 64, 1, torch.float32)
    assert held is not None
    # The first convolution's output, and its gradient in the backward, are held at once.
    assert held > 64 * 6 * 28 * 28 * 4


# ---- inference ----


@slow
def test_inference_times_every_side_and_layout(tmp_path, capsys):
    file = tmp_path / "inference.json"
    short = ["--networks", "lenet5", "--batches", "1", "--seconds", "0", "--threads", "1", "--json", str(file)]
    assert inference.main([*short, "--sides", "built-in", "torchconv"]) == 0
    found = json.loads(file.read_text())
    took = [(r["network"], r["batch"], r["side"], r["layout"]) for r in found["results"]]
    assert took == [("lenet5", 1, side, layout) for side in ("built-in", "torchconv") for layout in LAYOUTS]
    assert all(r["error"] < 1e-5 and r["milliseconds"] > 0 and r["note"] == "" for r in found["results"])
    (ratio,) = found["ratios"]
    best = {
        side: min(r["milliseconds"] for r in found["results"] if r["side"] == side)
        for side in ("built-in", "torchconv")
    }
    assert ratio["ratio"] == best["built-in"] / best["torchconv"]
    assert "built-in" in capsys.readouterr().out


def test_a_side_that_does_not_run_is_said_in_its_row(monkeypatch):
    monkeypatch.setattr(inference, "PAUSE", 0)
    took = inference.taken("lenet5", 1, "nonsense", "sideways", 1, 0.0)
    assert took.milliseconds is None
    assert "sideways" in took.note
    assert list(inference.ratios([took])) == []


@pytest.mark.parametrize("name", inference_networks.NETWORKS)
def test_networks_of_inference_answer(name):
    network = inference_networks.NETWORKS[name]
    maps, *sides = network.input
    assert network.batches[0] == 1
    with torch.no_grad():
        y = inference_networks.made(name)(torch.zeros(1, maps, *(min(side, 64) for side in sides)))
    assert y.isfinite().all()


def test_inference_refuses_in_a_sentence(capsys):
    with pytest.raises(SystemExit) as ended:
        inference.main(["--batches", "0"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "python -m benchmarks.inference: --threads and --batches must be at least 1\n"
