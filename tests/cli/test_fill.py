"""`diptych train` of an encoder, `diptych fill`, and what the other commands say to an encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diptych.checkpoints.open import open_model
from diptych.cli.fill import fill, request_of
from diptych.cli.main import main
from diptych.tokenizers.simple import ByteTokenizer, WordTokenizer

SUBJECTS = {"sun": "shines", "moon": "glows", "rain": "falls", "wind": "blows"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of texts in which each word decides the other: the sun shines, the moon glows."""
    folder = tmp_path_factory.mktemp("fill")
    texts = folder / "texts"
    texts.mkdir()
    for index in range(40):
        for subject, verb in SUBJECTS.items():
            (texts / f"{subject}{index}.txt").write_text(f"The {subject} {verb} {index}")
    (folder / "recipe.toml").write_text(
        f"""
out = "{folder / "run"}"
objective = "masked_lm"
[model]
preset = "bert-tiny"
n_layers = 1
d_model = 32
n_heads = 2
max_length = 32
dropout = 0.0
[tokenizer]
kind = "word"
vocab_size = 280
special_tokens = ["<|mask|>"]
[data]
source = ["{texts}"]
sequence_length = 32
heldout_fraction = 0.2
[optim]
lr = 1e-2
warmup_steps = 20
[train]
steps = 250
batch_size = 16
eval_every = 125
compile = "off"
dtype = "float32"
"""
    )
    assert main(["train", str(folder / "recipe.toml")]) == 0
    return folder


def test_it_learns_which_word_goes_with_which(trained: Path) -> None:
    opened = open_model(trained / "run")
    assert opened.objective == "masked_lm"
    for subject, verb in SUBJECTS.items():
        found = fill(opened, f"The {subject} <|mask|> 7")
        assert found.text == f"The {subject} {verb} 7"
        assert found.masks[0][0].token == f" {verb}" and found.masks[0][0].probability > 0.8
        found = fill(opened, f"The [MASK] {verb} 12")
        assert found.masks[0][0].token == f" {subject}" and found.masks[0][0].probability > 0.8
    # Two masks at once agree with each other.
    both = fill(opened, "The [MASK] [MASK] 12").text.split()
    assert SUBJECTS[both[1]] == both[2]


def test_metrics_give_no_bits_per_byte(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    scored = [line for line in lines if line["kind"] in ("step", "evaluation")]
    assert len(scored) >= 250 and all(line["bits_per_byte"] is None for line in scored)


def test_the_command(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    text = "The [MASK] <|mask|> 7"
    assert main(["fill", str(trained / "run"), "--text", text, "--candidates", "3"]) == 0
    shown = capsys.readouterr().out
    assert "mask 1" in shown and "mask 2" in shown
    last = shown.strip().splitlines()[-1]
    _, subject, verb, _ = last.split()
    assert last == f"The {subject} {SUBJECTS[subject]} 7"
    assert main(["fill", str(trained / "run"), "--text", text, "--candidates", "3", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["filled"] == last
    assert [[row[0]["token"], len(row)] for row in record["masks"]] == [[f" {subject}", 3], [f" {verb}", 3]]


def test_guesses_are_scored_beside_frequencies(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["fill", str(trained / "run"), "--data", str(trained / "texts"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["right"] > 1.5 * record["most_frequent"]
    assert record["nats"] < 0.6 * record["unigram_nats"]
    assert main(["fill", str(trained / "run"), "--heldout"]) == 0
    assert "guessed right" in capsys.readouterr().out


def test_spaces_go_with_the_mask_where_tokens_begin_with_them() -> None:
    words = WordTokenizer(["the", " sun", " rises"], ["<|mask|>"])
    request, start = request_of(words, "the [MASK] rises")
    mask, eos = words.special_tokens["<|mask|>"], words.eos_id
    assert (list(request.ids), start) == ([eos, *words.encode("the"), mask, *words.encode(" rises")], 1)
    data = ByteTokenizer(["<|mask|>"])
    assert data.decode(list(request_of(data, "a [MASK]c")[0].ids[1:3])) == "a "


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "RUN", "--prompt", "The"], "is an encoder"),
        (["evaluate", "RUN", "TEXTS"], "is an encoder"),
        (["fill", "RUN"], "give one of --text with masks, --data"),
        (["fill", "RUN", "--text", "no mask"], "nothing is masked"),
        (["fill", "RUN", "--text", "[MASK]" + " day" * 60], "32"),
        (["fill", "RUN", "--text", "[MASK]", "--candidates", "0"], "at least 1"),
        (["fill", "no/such", "--text", "[MASK]"], "no/such"),
    ],
)
def test_wrong_input_is_one_line(
    trained: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"RUN": str(trained / "run"), "TEXTS": str(trained / "texts")}
    capsys.readouterr()
    assert main([names.get(a, a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("diptych: ") and error.count("\n") == 1


def test_a_tokenizer_without_a_mask_is_told_in_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = (trained / "recipe.toml").read_text().replace('special_tokens = ["<|mask|>"]', "")
    (tmp_path / "recipe.toml").write_text(recipe)
    capsys.readouterr()
    assert main(["train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diptych: ")]
    assert len(lines) == 1 and "no mask token" in lines[0]


def test_a_bert_of_hugging_face_fills_as_transformers_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, "the", "sun", "rises", "in", "east", "moon", "##s", "west", "."]
    theirs = transformers.BertTokenizerFast(vocab={word: place for place, word in enumerate(words)})
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    network = transformers.BertForMaskedLM(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    theirs.save_pretrained(tmp_path)
    network.save_pretrained(tmp_path)
    batch = theirs("The [MASK] rises in the east.", return_tensors="pt")
    at = (batch["input_ids"][0] == special.index("[MASK]")).nonzero()[0, 0]
    probabilities = network(**batch).logits[0, at].softmax(-1)
    expected = [i for i in probabilities.argsort(descending=True).tolist() if i >= len(special)]

    opened = open_model(tmp_path)
    assert opened.objective == "masked_lm"
    (row,) = fill(opened, "The [MASK] rises in the east.", candidates=6).masks
    assert [candidate.id for candidate in row] == expected[:6]
    for candidate in row:
        assert candidate.probability == pytest.approx(float(probabilities[candidate.id]), rel=1e-4)
