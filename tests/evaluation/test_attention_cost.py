"""What the forms of attention compute and cost: their layers, the memory of their scores, and a measurement that is
stopped and goes on. Nothing is asserted about times."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diptych.core.events import Event, Message, Progressed
from diptych.core.recipe import load_json
from diptych.evaluation import attention_cost
from diptych.evaluation.attention_cost import CostCell, CostConfig, CostResult, measure_cost, review_cost_config
from diptych.evaluation.attention_layers import KINDS, FormLayer, LayerSize, score_bytes
from diptych.evaluation.peak_memory import PeakMemory

SMALL = LayerSize(d_model=16, n_heads=2)
CPU = torch.device("cpu")


def output(form: str, length: int, size: LayerSize = SMALL) -> torch.Tensor:
    layer = FormLayer(form, size, CPU)
    with torch.no_grad():
        return layer._forward(layer.input(length), layer.given(length))


def test_naive_and_tiled_attention_are_one_function() -> None:
    torch.testing.assert_close(output("naive", 50), output("full", 50))
    torch.testing.assert_close(output("causal", 50), output("full", 50), atol=0, rtol=0)
    torch.testing.assert_close(output("window(60)", 50), output("full", 50))
    assert (output("window(5)", 50) - output("full", 50)).abs().max() > 1e-5


@pytest.mark.parametrize("form", ["naive", "full", "window(4)", *KINDS])
@pytest.mark.parametrize("train", [False, True])
def test_every_form_runs_is_causal_and_leaves_no_gradients(form: str, train: bool) -> None:
    size = replace(SMALL, train=train)
    layer = FormLayer(form, size, CPU)
    x = layer.input(40)
    layer.run(x, layer.given(40))
    assert x.grad is None and all(parameter.grad is None for parameter in layer.layer.parameters())
    with torch.no_grad():
        before = layer._forward(x, layer.given(40))
        x[:, 30:] += 1
        after = layer._forward(x, layer.given(40))
    assert torch.equal(before[:, :30], after[:, :30]) and not torch.equal(before[:, 30:], after[:, 30:])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is told by Linux's /proc")
def test_memory_of_naive_grows_with_the_square_and_tiled_memory_with_the_length() -> None:
    size, lengths = LayerSize(d_model=32, n_heads=2), (1024, 2048)
    with PeakMemory(size, CPU) as memory:
        naive = [memory.measure("naive", length) or 0 for length in lengths]
        full = [memory.measure("full", length) or 0 for length in lengths]
    for length, n_bytes in zip(lengths, naive, strict=True):
        # The scores and their softmax; the mask and what is linear in the length come on top.
        assert score_bytes(length, size) == 2 * 4 * size.n_heads * length**2
        assert score_bytes(length, size) <= n_bytes < 1.5 * score_bytes(length, size)
    assert 3.5 < naive[1] / naive[0] < 4.5
    assert full[1] < naive[1] / 10
    # Query, key, value, what is mixed, its heads side by side and the output: six times the input, tiles aside.
    assert 5 * 4 * 32 * lengths[1] < full[1] < 6 * 4 * 32 * lengths[1] + 2**20


def test_a_form_that_fails_in_its_process_is_one_line() -> None:
    with PeakMemory(SMALL, CPU) as memory:
        with pytest.raises(ValueError, match=r"nonsense at 8 positions could not be run: ValueError"):
            memory.measure("nonsense", 8)
        assert memory.measure("full", 8) is not None  # the next one has a process of its own


@pytest.fixture
def without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: PeakMemory, form: str, length: int) -> int:
        if form == "linear":
            raise MemoryError(f"{form} at {length:,} positions was stopped: it takes more memory than there is")
        return length**2 if form == "naive" else 100 * length

    monkeypatch.setattr(PeakMemory, "measure", measure)
    monkeypatch.setattr(attention_cost, "SHORTEST", 1e-4)


def config(**values: object) -> CostConfig:
    return replace(CostConfig(forms=("naive", "full"), lengths=(8, 16, 32), repeats=2, size=SMALL), **values)


@pytest.mark.usefixtures("without_processes")
def test_a_measurement_is_stopped_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progressed) and event.done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_cost(config(), tmp_path / "c", stop)
    kept = load_json(CostResult, tmp_path / "c" / "cost.json")
    assert [len(cell.seconds) for cell in kept.cells] == [1, 1, 1, 0, 0, 0]
    measured: list[str] = []
    timed = attention_cost._Timer.seconds
    monkeypatch.setattr(attention_cost._Timer, "seconds", lambda self: measured.append("") or timed(self))
    events: list[Event] = []
    result = measure_cost(config(), tmp_path / "c", events.append)
    assert len(measured) == 12 - 3 and all(len(cell.seconds) == 2 for cell in result.cells)
    assert result.cells[0].seconds[0] == kept.cells[0].seconds[0]
    progress = [event for event in events if isinstance(event, Progressed)]
    assert (progress[-1].done, progress[-1].total) == (18, 18)
    assert load_json(CostResult, tmp_path / "c" / "cost.json") == result
    rows = list(csv.reader((tmp_path / "c" / "cost.csv").open()))
    assert rows[0] == ["form", "length", "seconds", "bytes"] and len(rows) == 7
    assert rows[1][:2] == ["naive", "8"] and float(rows[1][2]) == result.cells[0].median and rows[1][3] == "64"
    # Further forms, lengths and repeats go on from there, and measure nothing twice.
    measured.clear()
    more = measure_cost(config(forms=("full", "window(4)"), lengths=(8, 16, 64), repeats=3), tmp_path / "c")
    assert len(measured) == 2 * 1 + 3 + 3 * 3 and set(result.cells[:1]) <= set(more.cells)
    with pytest.raises(ValueError, match=r"another kind \(it differs in size.d_model\)"):
        measure_cost(config(size=replace(SMALL, d_model=32)), tmp_path / "c")
    monkeypatch.setattr(attention_cost, "machine_of", lambda device: "another")
    with pytest.raises(ValueError, match="differs in machine"):
        measure_cost(config(), tmp_path / "c")


@pytest.mark.usefixtures("without_processes")
def test_what_does_not_fit_is_left_out_and_said() -> None:
    events: list[Event] = []
    asked = config(forms=("naive", "linear", "full"))
    result = measure_cost(asked, None, events.append, memory_budget=score_bytes(16, SMALL))
    said = [event.text for event in events if isinstance(event, Message)]
    assert len(said) == 4 and "naive is left out at 32 positions" in said[2]
    assert "linear at 8 positions was stopped" in said[0]
    assert [cell.length for cell in result.timed("naive")] == [8, 16] and not result.timed("linear")
    assert result.time_law("linear") is None and result.memory_law("linear") is None
    progress = [event for event in events if isinstance(event, Progressed)]
    assert progress[-1].done == progress[-1].total


def test_laws_of_a_result() -> None:
    cells = [CostCell(form="full", length=n, seconds=(n**2, n**2, 1e9), n_bytes=3 * n) for n in (8, 16, 32)]
    cells.append(CostCell(form="full", length=64, seconds=(64.0**3,), n_bytes=None))
    result = CostResult(config=config(lengths=(8, 16, 32, 64)), machine="", cells=tuple(cells))
    time, memory = result.time_law("full"), result.memory_law("full")
    assert time is not None and memory is not None
    # Exponents 6, 8, 10 and 18 of 2: the line through them rises by (-1.5 * 6 - 0.5 * 8 + 0.5 * 10 + 1.5 * 18) / 5.
    assert time.lengths == (8, 16, 32, 64) and time.exponent == pytest.approx(3.8)
    assert memory.lengths == (8, 16, 32) and memory.exponent == pytest.approx(1)
    upper = result.time_law("full", 32)
    assert upper is not None and upper.exponent == pytest.approx(8)  # 64^3 / 32^2 = 2^8
    assert result.time_law("full", 64) is None and result.time_law("naive") is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"forms": ()}, "forms is empty"),
        ({"lengths": (8, 8)}, "names a value twice"),
        ({"lengths": (16, 8)}, "rise"),
        ({"repeats": 0}, "measures nothing"),
        ({"forms": ("nonsense",)}, "nonsense is no form: naive, one of linear"),
        ({"forms": ("windw(3)",)}, "did you mean window"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_wrong_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of n_heads"):
        LayerSize(d_model=10, n_heads=4)


def test_the_reviews_measurement_is_small() -> None:
    asked = review_cost_config()
    assert max(asked.lengths) <= 8192 and len(asked.forms) <= 5
