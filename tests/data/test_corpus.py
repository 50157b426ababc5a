"""Do training and held-out text share nothing, and is a budget a fair sample?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.config import DataConfig
from diptych.data.corpus import all_documents, heldout_documents, is_heldout, training_documents
from diptych.data.mixing import at_most, interleave, mix
from diptych.data.sources import Document


def documents(texts: list[str]) -> list[Document]:
    return [Document(text, str(i)) for i, text in enumerate(texts)]


@pytest.fixture
def corpus(tmp_path: Path) -> DataConfig:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": f"document number {i}"}) + "\n" for i in [*range(1000), *range(50)]))
    return DataConfig(source=(str(path),), heldout_fraction=0.1)


def sides(config: DataConfig) -> tuple[list[str], list[str]]:
    return [d.text for d in training_documents(config)], [d.text for d in heldout_documents(config)]


def test_sides_share_no_text_and_lose_none(corpus: DataConfig) -> None:
    train, heldout = sides(corpus)
    assert not set(train) & set(heldout)
    assert len(train) + len(heldout) == 1050
    assert len(set(train) | set(heldout)) == 1000
    assert 70 < len(set(heldout)) < 130  # 100 expected, standard deviation 9.5


def test_sides_are_the_same_in_every_process_and_grow_with_the_share() -> None:
    texts = [f"text {i}" for i in range(400)]
    # By coreutils: printf 'text %d' $i | b2sum -l 64, below a tenth of 2^64.
    assert [i for i, text in enumerate(texts[:60]) if is_heldout(text, 0.1)] == [2, 3, 6, 18, 33, 38, 43, 44, 58]
    small, large = ({t for t in texts if is_heldout(t, share)} for share in (0.1, 0.3))
    assert small < large


def test_a_budget_is_a_mix_of_everything(corpus: DataConfig) -> None:
    config = DataConfig(source=corpus.source, max_bytes=2000, heldout_fraction=0.1)
    train, heldout = sides(config)
    assert sum(map(len, train)) == 2000
    assert sum(map(len, heldout)) == 200
    numbers = [int(text.split()[-1]) for text in train[:-1]]  # the last one may be cut
    assert min(numbers) < 100
    assert max(numbers) > 900
    assert train[:-1] == sides(corpus)[0][: len(train) - 1]


def test_one_file_has_its_end_held_out(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("".join(f"line {i}\n" for i in range(1000)))
    train, heldout = sides(DataConfig(source=(str(path),), heldout_fraction=0.05))
    assert "".join(train + heldout) == path.read_text()
    assert 0.04 < len(heldout[0]) / path.stat().st_size < 0.06
    assert heldout[0].startswith("line ")


def test_a_held_out_file_leaves_all_of_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("training text")
    (tmp_path / "b").write_text("other text")
    config = DataConfig(source=(str(tmp_path / "a"),), heldout=str(tmp_path / "b"))
    assert sides(config) == (["training text"], ["other text"])


def test_sources_take_turns(tmp_path: Path) -> None:
    long, short = documents(["x" * 10] * 6), documents(["y" * 5] * 4)
    assert "".join(d.text[0] for d in interleave([long, short])) == "xyyxyyxxxx"


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(max_size=6), max_size=30), held=st.integers(1, 60), cut=st.integers(1, 100))
def test_mixing_loses_nothing_and_a_budget_is_kept(texts: list[str], held: int, cut: int) -> None:
    mixed = list(mix([documents(texts[::2]), documents(texts[1::2])], held))
    assert sorted(d.text for d in mixed) == sorted(texts)
    whole = "".join(d.text for d in mixed)
    kept = "".join(d.text for d in at_most(mixed, cut))
    assert whole.startswith(kept)
    assert min(cut, len(whole.encode())) - 3 <= len(kept.encode()) <= cut


def test_the_order_depends_on_the_texts_alone() -> None:
    texts = [f"text {i}" for i in range(50)]
    one = [d.text for d in mix([documents(texts)])]
    assert one == [d.text for d in mix([documents(texts[::-1])])]
    assert one != texts


@pytest.mark.parametrize(
    ("files", "options", "says"),
    [
        ({}, {}, "holds no text to train on"),
        ({"a": ""}, {}, "holds no text to train on"),
        ({"a": "one", "b": "two"}, {"heldout_fraction": 1e-9}, "data.heldout"),
        ({"a": "one", "b": "two"}, {"heldout_fraction": 0.0}, "data.heldout"),
        ({"a": "one", "b": "two"}, {"heldout_fraction": 1.0}, "data.heldout_fraction=1.0"),
        ({"a": "one", "b": "two"}, {"heldout_fraction": 0.999999}, "holds no text to train on"),
        ({"a": "one"}, {"max_bytes": 0}, "data.max_bytes=0"),
        ({"a": "one"}, {"source": ()}, "data.source is empty"),
    ],
)
def test_an_empty_side_says_what_to_do(
    files: dict[str, str], options: dict[str, object], says: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    config = DataConfig(**{"source": (str(tmp_path),), **options})  # type: ignore[arg-type]
    with pytest.raises(ValueError) as caught:
        sides(config)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_held_out_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    config = DataConfig(source=("stdlib",), heldout=str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"empty holds no text to score on.*data\.heldout"):
        list(heldout_documents(config))
    with pytest.raises(ValueError, match="holds no text to score"):
        list(all_documents([str(tmp_path)], "text"))
