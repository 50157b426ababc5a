"""Is the living review one self-contained page that shows what was measured and nothing else?"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markupsafe import escape
from matplotlib.figure import Figure
from matplotlib.text import Text
from tests.report.reading import read

from diptych.report.page import SECTIONS, page, render
from diptych.report.results import (
    Attention,
    Candidate,
    ClassImages,
    NextTokenStep,
    ReviewResults,
    Sample,
    TranslationExample,
    load_results,
    save_results,
)

LABEL = "<b>&$x$\x00"
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}&lt;\"'$x^2$\x00\x1b]0;"


def test_the_page_is_well_formed_and_loads_nothing(full: ReviewResults) -> None:
    html = page(full)
    reader = read(html)
    assert len(reader.ids) == len(set(reader.ids))
    targets = {f"#{name}" for name in reader.ids} | {"data:,"}
    pictures = [load for load in reader.loads if load.startswith("data:image/png;base64,")]
    # Three digits at three levels, two with their beliefs in two steps, two of each class.
    assert full.image_diffusion and len(pictures) == 9 + 8 + 20
    assert set(pictures) == {f"data:image/png;base64,{full.image_diffusion.forward[0].images[0]}"}
    assert set(reader.loads) - set(pictures) <= targets
    assert set(re.findall(r"url\((.*?)\)", html)) <= targets
    assert not re.search(r"https?://|@import|<script|<iframe|<object|<embed", html)
    assert "default-src 'none'" in html


def test_sections_stand_in_the_order_of_the_review(full: ReviewResults) -> None:
    names = [section.name for section in SECTIONS]
    assert [name for name in read(page(full)).ids if name in names] == names
    numbers = [section.number for section in SECTIONS if section.number]
    assert numbers == sorted(numbers)


@pytest.fixture
def _sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawings are made, and their words kept, but not laid out, which takes most of a page's time."""

    def words(figure: Figure, name: str) -> str:
        said = " ".join(text.get_text() for text in figure.findobj(Text))
        return f'<svg id="{name}"><text>{escape(said)}</text></svg>'

    monkeypatch.setattr("diptych.report.plots.svg", words)


@pytest.mark.usefixtures("_sketched")
@pytest.mark.parametrize(
    ("field", "section"),
    [
        ("model", "transformer"),
        ("next_token", "generation"),
        ("samples", "samples"),
        ("lengths", "lengths"),
        ("tokenizer", "tokenization"),
        ("image_diffusion", "forward backward"),
        ("paradigms", "paradigms"),
        ("training", "training"),
    ],
)
def test_what_was_not_measured_is_absent(full: ReviewResults, field: str, section: str) -> None:
    emptied = dataclasses.replace(full, **{field: () if isinstance(getattr(full, field), tuple) else None})
    ids = read(page(emptied)).ids
    absent = set(section.split())
    assert {s.name for s in SECTIONS} & set(ids) == {s.name for s in SECTIONS} - absent


def contexts_of(full: ReviewResults, bare: ReviewResults) -> ReviewResults:
    """A review of nothing but contexts, which is quick to draw."""
    return dataclasses.replace(
        bare, effective_context=full.effective_context, pretrained_context=full.pretrained_context
    )


def test_of_two_models_contexts_either_may_be_missing(full: ReviewResults, bare: ReviewResults) -> None:
    own, pretrained = "runs/small, single key", "pretrained.gguf, single key"
    for field, shown, absent in (("pretrained_context", own, pretrained), ("effective_context", pretrained, own)):
        text = read(page(dataclasses.replace(contexts_of(full, bare), **{field: None}))).text
        assert shown in text and absent not in text and "None" not in text
        assert ("--pretrained" in text) == (field == "pretrained_context")  # said where there is none


def test_a_context_of_which_nothing_was_answered_has_no_drawings(full: ReviewResults, bare: ReviewResults) -> None:
    both = contexts_of(full, bare)
    assert both.effective_context and both.pretrained_context
    task = dataclasses.replace(both.effective_context.tasks[0], state="undecided", passed=None, failed=None)
    nothing = (dataclasses.replace(task, cells=(), distances=(), distance=None, contexts=0),)
    html = page(
        dataclasses.replace(
            both,
            effective_context=dataclasses.replace(both.effective_context, tasks=nothing, saturation=None),
            pretrained_context=dataclasses.replace(both.pretrained_context, tasks=nothing),
        )
    )
    assert '<div class="plot ' in page(both) and '<div class="plot ' not in html
    text = read(html).text
    assert "pretrained.gguf, single key: effective context length undecided" in text
    assert "To choose the wording took all of its time" in text and "when its time was spent" not in text


def test_without_the_distances_of_the_training_there_is_no_table_5(full: ReviewResults, bare: ReviewResults) -> None:
    both = contexts_of(full, bare)
    assert both.effective_context
    unknown = dataclasses.replace(both.effective_context, positions=None)
    assert "Table 5, right" in page(both)
    assert "Table 5, right" not in page(dataclasses.replace(both, effective_context=unknown))


def test_a_review_without_measurements_is_still_a_page(bare: ReviewResults) -> None:
    reader = read(page(bare))
    assert [name for name in reader.ids if name in {s.name for s in SECTIONS}] == ["method"]
    assert not re.search(r"None|nan|n/a|TODO|not yet", reader.text)


@pytest.mark.usefixtures("_sketched")
@pytest.mark.parametrize(
    "field",
    [
        "model",
        "tokenizer",
        "translation",
        "stability",
        "attention_cost",
        "image_diffusion",
        "paradigms",
        "data",
        "machine",
        "score",
        "mfu",
        "budget_seconds",
    ],
)
def test_every_part_may_be_missing_alone(full: ReviewResults, field: str) -> None:
    assert "None" not in read(page(dataclasses.replace(full, **{field: None}))).text


@pytest.mark.usefixtures("_sketched")
@pytest.mark.parametrize("field", ["heldout", "yardsticks", "stages", "masks", "recall"])
def test_every_list_may_be_empty_alone(full: ReviewResults, field: str) -> None:
    read(page(dataclasses.replace(full, **{field: ()})))


def test_texts_cannot_carry_markup(full: ReviewResults) -> None:
    step = NextTokenStep(
        context=HOSTILE, candidates=(Candidate(text=HOSTILE, probability=0.5), *full.next_token[0].candidates), chosen=0
    )
    sample = Sample(prompt=HOSTILE, continuation=HOSTILE, settings=HOSTILE)
    assert full.tokenizer and full.data and full.machine and full.translation and full.image_diffusion
    example = TranslationExample(source=HOSTILE, translation=HOSTILE, reference=HOSTILE + "!")
    assert full.paradigms and full.pretrained_context
    beside = full.paradigms.comparison
    written = dataclasses.replace(beside.texts[0], texts=(HOSTILE,))
    trained = dataclasses.replace(beside.trained[0], run=LABEL)
    attention = Attention(source=(HOSTILE, "b"), target=(LABEL,), weights=((0.5, 0.5),))
    hostile = dataclasses.replace(
        full,
        samples=(sample,),
        next_token=(step,),
        command=HOSTILE,
        tokenizer=dataclasses.replace(full.tokenizer, example=(HOSTILE,)),
        data=dataclasses.replace(full.data, name=HOSTILE),
        lengths=(dataclasses.replace(full.lengths[0], name=HOSTILE),),
        translation=dataclasses.replace(full.translation, task=HOSTILE, examples=(example,), attention=attention),
        machine=dataclasses.replace(full.machine, processor=HOSTILE),
        image_diffusion=dataclasses.replace(
            full.image_diffusion,
            generated=(ClassImages(name=HOSTILE, images=(f'"{HOSTILE}',)), *full.image_diffusion.generated),
        ),
        paradigms=dataclasses.replace(
            full.paradigms,
            comparison=dataclasses.replace(
                beside, trained=(trained, *beside.trained[1:]), texts=(written, *beside.texts[1:]), machine=HOSTILE
            ),
        ),
        pretrained_context=dataclasses.replace(full.pretrained_context, model=HOSTILE),
        stages=(dataclasses.replace(full.stages[0], name=LABEL),),
        yardsticks=(dataclasses.replace(full.yardsticks[0], name=LABEL),),
    )
    reader = read(page(hostile))
    assert "script" not in reader.tags and not reader.handlers
    assert reader.tags.count("img") == read(page(full)).tags.count("img") + 1  # the hostile class has one picture
    assert sorted(set(reader.tags)) == sorted(set(read(page(full)).tags))
    assert "<script>alert(1)</script>" in reader.text and "{{ 7*7 }}" in reader.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", page(hostile))


def test_figures_shown_are_the_measured_ones(full: ReviewResults) -> None:
    text = " ".join(read(page(full)).text.replace("\u00a0", " ").split())
    for shown in (
        "1.250",
        "1.600",
        "1.200",
        "4,500,000",
        "3.46 bytes",
        "290,000",
        "diptych review --budget 60",
        "75 %",
        "76 % of all pairs",
        "987,654 parameters",
        "93.5 % came out exactly right",
        "no: twelve",
        "Of 12 trainings 2 diverged",
        "4,434",
        "Books3, published",
        "of 765,432 parameters, learned so from 1,449 digits of 8 × 8 pixels in 901 steps",
        "at σ = 0.28 it is 0.065 on held-out digits, where the best linear denoiser has 0.035 and the network 0.023",
        "FD(clf)0.7500.688 to 0.8120.5000.375 to 0.625",
        "takes 7.9 % of the drawn digits for another one",
        "2.062 ± 0.063 bits a pixel by the variational bound, and 1.914 ± 0.035 by the flow",
        "a transformer of 731,776 parameters over 1,023 tokens learned each of them from the same 3.91 MB of text",
        "reads 64 positions left-to-right, 65 positions any-order and 129 positions block-by-block: block by block",
        "the text was gone through 1.00, 1.03 and 0.49 times.",
        "left-to-right: autoregressive7.36 trillion8011.8750, exact––",
        "any-order: masked diffusion7.36 trillion826≤ 2.2500 ± 0.0078+0.6347 ± 0.0156+20.0 %",
        "block-by-block: block diffusion, blocks of 47.36 trillion392≤ 2.0000 ± 0.0156+0.3174 ± 0.0156+10.0 %",
        "block diffusion, blocks of 4 (BD3-LM), published (Arriola et al. 2025)––––+6.8 %",
        "over compute, no crossing within the runs: any-order stays behind left-to-right",
        "any-order44,9362.75 ± 0.123.50 ± 0.06",
        "held-out text––2.75 ± 0.123.50 ± 0.06",
        "801 steps from left to right, 1.64 million targets",
        "pretrained.gguf, single key: effective context length 1,024 to 1,218 tokens (",
        "in the wording that suits it best (plain)",
        "186 contexts and 234,567 tokens were read for that in 1 min 23 s, when its time was spent.",
        "The same answers say at other thresholds: tau 0.5 certified to 1,218, fails at 2,048; each holds for itself",
    ):
        assert shown in text
    assert text.index("5-gram") < text.index("this transformer")
    for run in ("left-to-right", "any-order", "block-by-block"):
        assert f"{run} wrote 1 at a time" in text and f"{run} wrote 4 at a time" not in text


def test_drawn_again_from_the_disk_it_is_identical(full: ReviewResults, tmp_path: Path) -> None:
    save_results(full, tmp_path / "results.json")
    assert render(full, tmp_path / "one" / "index.html").read_bytes() == page(full).encode()
    render(load_results(tmp_path / "results.json"), tmp_path / "two" / "index.html")
    assert (tmp_path / "one" / "index.html").read_bytes() == (tmp_path / "two" / "index.html").read_bytes()
    figures = sorted(path.name for path in (tmp_path / "one" / "figures").iterdir())
    drawings = (
        "attention_cost",
        "diffusion_loss",
        "diffusion_schedules",
        "effective_context",
        "lengths",
        "masks",
        "next_token",
        "paradigms",
        "pretrained_depths",
        "pretrained_distances",
        "recall",
        "schemes",
        "stability",
        "stages",
        "training_curve",
        "training_distances",
        "translation",
        "yardsticks",
    )
    assert figures == [f"{name}.png" for name in drawings]
    for figure in (tmp_path / "one" / "figures").iterdir():
        assert figure.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["figures", "index.html"]


def test_drawings_are_well_formed_and_follow_the_scheme(full: ReviewResults) -> None:
    drawings = re.findall(r'<div class="plot \w+">(<svg.*?</svg>)</div>', page(full), re.DOTALL)
    assert len(drawings) == 34
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "var(--ink)" in drawing
        if "0–20 %" in drawing:
            continue  # a map by depth, whose colours are the scores'
        assert not re.search(r"(fill|stroke): #[0-9a-f]{6}", drawing), "a colour that does not follow the scheme"
