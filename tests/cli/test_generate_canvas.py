"""`diptych generate` of runs that denoise text: gaps, what is given, films and pages, and bad calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from diptych.cli.generate_canvas import canvas_of
from diptych.cli.main import main
from diptych.report.canvas import Canvas, Piece, save_film, save_page, terminal_text
from diptych.tokenizers.simple import ByteTokenizer
from tests.text_runs import train_text_runs

HIDDEN = 257


def test_gaps_stand_where_they_are_written() -> None:
    tokenizer = ByteTokenizer(("<|mask|>",))
    eos = tokenizer.eos_id
    assert canvas_of("ab", tokenizer, HIDDEN, 3) == [eos, 97, 98, HIDDEN, HIDDEN, HIDDEN]
    assert canvas_of("a<|gap:2|>b<|gap:1|>", tokenizer, HIDDEN, 3) == [eos, 97, HIDDEN, HIDDEN, 98, HIDDEN]
    with pytest.raises(ValueError, match="holds no token"):
        canvas_of("a<|gap:0|>", tokenizer, HIDDEN, 3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return train_text_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def masked(runs: dict[str, Path]) -> Path:
    return runs["masked"]


@pytest.mark.parametrize("kind", ["block", "uniform"])
def test_the_other_denoisers_write_too(runs: dict[str, Path], kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(runs[kind]), "--prompt", "the ", "--length", "9", "--steps", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"].startswith("the ") and 4 < len(found["ids"]) <= 13


@pytest.mark.parametrize("kind", ["masked", "block", "uniform"])
def test_a_bound_is_called_so(runs: dict[str, Path], kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = runs[kind].parent / "texts"
    assert main(["evaluate", str(runs[kind]), str(texts / "00.txt"), "--draws", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "bound" and found["standard_error"] > 0.0
    n_bytes = len((texts / "00.txt").read_bytes())
    assert found["n_bytes"] == n_bytes and found["n_tokens"] == n_bytes + 1  # and the end


def test_what_is_given_stays_and_gaps_are_filled(
    masked: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    film, page = tmp_path / "a.gif", tmp_path / "a.html"
    call = ["generate", str(masked), "--prompt", "x = <|gap:4|> + 1", "--steps", "2", "--json"]
    assert main([*call, "--film", str(film), "--page", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"].startswith("x = ") and found["text"].endswith(" + 1") and found["steps"] == 2
    with Image.open(film) as picture:
        assert picture.n_frames == 2
    assert "<script>" in page.read_text()
    assert main(call) == 0
    assert json.loads(capsys.readouterr().out) == found  # the seed decides


@pytest.mark.parametrize(("arguments", "message"), [
    (["--prompt", "a<|gap:0|>"], "holds no token"),
    (["--length", "100000"], "longer than"),
    (["--film", "a.mp4"], "must end in .gif or .apng"),
    (["--samples", "0"], "must be at least 1"),
])  # fmt: skip
def test_bad_calls_end_in_one_line(
    masked: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(masked), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_page_cannot_be_broken_by_its_text(tmp_path: Path) -> None:
    canvas: Canvas = (Piece("</script><b>", "new"), Piece("\n" * 3, "old"), Piece("x" * 200, "given"))
    save_page([canvas], tmp_path / "a.html", title="<i>")
    text = (tmp_path / "a.html").read_text()
    assert text.count("</script>") == 1 and "<i>" not in text
    save_film([canvas, canvas], tmp_path / "a.gif")
    assert terminal_text(canvas).plain == "</script><b>\n\n\n" + "x" * 200
    with pytest.raises(ValueError, match="at least one"):
        save_page([], tmp_path / "b.html", title="")
    assert not (tmp_path / "b.html").exists()
