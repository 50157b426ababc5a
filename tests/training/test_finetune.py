"""Further training: it begins at the checkpoint, an update stays small and merges, and resume is exact as ever."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diptych.checkpoints.open import open_model
from diptych.core.config import LoraConfig, RunConfig, TokenizerConfig, TransformerConfig
from diptych.core.events import Event, Started, Stepped
from diptych.core.recipe import save_toml
from diptych.core.types import Batch
from diptych.models.lora import lora_layers
from diptych.nn.masks import Causal
from diptych.training.distributed import World, choose_device
from diptych.training.loop import Trainer
from diptych.training.prepare import prepare
from diptych.training.run import train

from .conftest import changed, losses, tiny_run
from .test_distributed import torchrun
from .test_loop import stop_after

Tiny = Callable[..., RunConfig]

WORLD = World(0, 1, choose_device("cpu"))


@pytest.fixture(scope="session")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run."""
    out = tmp_path_factory.mktemp("trained") / "base"
    train(changed(tiny_run(text, out), **{"train.steps": 4, "model.max_length": 192}))
    return out


@pytest.fixture
def base(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run to start from."""
    return Path(shutil.copytree(trained, tmp_path / "base"))


@pytest.fixture
def further(tiny: Tiny, base: Path) -> Tiny:
    """A recipe that starts from `base` and says nothing of the network."""

    def make(out: str, **changes: object) -> RunConfig:
        plain = {"init": str(base), "model": TransformerConfig(), "tokenizer": TokenizerConfig()}
        return changed(tiny(out), **{**plain, **changes})

    return make


UPDATE = {"lora": LoraConfig(rank=4, dropout=0.1)}
EVERYTHING = {
    **UPDATE,
    "optim.name": "muon",
    "train.dtype": "bfloat16",
    "train.ema_decay": 0.9,
    "train.micro_batch_size": 3,
}


@pytest.mark.parametrize("changes", [{}, UPDATE], ids=["full", "lora"])
def test_it_begins_where_the_checkpoint_stands(further: Tiny, base: Path, changes: dict[str, object]) -> None:
    experiment = prepare(further("run", **changes), WORLD, lambda event: None)
    opened = open_model(base)
    x = torch.randint(0, 256, (2, 9))
    assert torch.equal(experiment.model.eval()(x, mask=Causal()), opened.model(x, mask=Causal()))
    assert experiment.run.model == opened.model.config
    assert (Path(experiment.out) / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["full", "everything"])
def test_a_stopped_run_goes_on_bit_for_bit(further: Tiny, changes: dict[str, object]) -> None:
    changes = {**changes, "train.steps": 8}
    whole, parts = further("whole", **changes), further("parts", **changes)
    train(whole)
    for steps in (3, 5, 8):  # 3: at a checkpoint, 5: between two
        train(parts, stop_after(steps))
    assert losses(parts.out) == losses(whole.out)
    weights = "adapter.safetensors" if whole.lora else "model.safetensors"
    for name in (weights, "state/step-00000008/optimizer.safetensors"):
        assert (Path(whole.out) / name).read_bytes() == (Path(parts.out) / name).read_bytes()


def test_an_update_is_small_and_opens_merged(further: Tiny, base: Path) -> None:
    run, events = further("run", **UPDATE, **{"train.steps": 4}), list[Event]()
    assert train(run, events.append)
    out = Path(run.out)
    assert not (out / "model.safetensors").exists()
    saved = load_file(out / "adapter.safetensors")
    (started,) = (event for event in events if isinstance(event, Started))
    assert (
        started.parameters
        == sum(tensor.numel() for tensor in saved.values())
        == 2 * 4 * (32 + 96 + 2 * 32 + 32 + 192 + 96 + 32)
    )
    state = load_file(out / "state/step-00000004/model.safetensors")
    assert state.keys() == saved.keys()
    assert all(tensor.abs().max() > 0 for tensor in saved.values())
    opened, start = open_model(out), open_model(base)
    assert not lora_layers(opened.model) and not any(p.requires_grad for p in opened.model.parameters())
    first = "blocks.0.feed_forward.output"
    update = saved[f"{first}.up"] @ saved[f"{first}.down"] * 16.0 / 4
    weight, before = (dict(o.model.named_parameters())[f"{first}.weight"] for o in (opened, start))
    torch.testing.assert_close(weight, before + update)
    # What the run folder offers is what was scored: the trainer's own network gives the same logits.
    trainer = Trainer(prepare(run, WORLD, lambda event: None), WORLD, lambda event: None)
    trainer.resume()
    x = torch.randint(0, 256, (2, 9))
    torch.testing.assert_close(
        opened.model(x, mask=Causal()), trainer.model.eval()(x, mask=Causal()), rtol=0, atol=1e-5
    )


def test_an_update_of_an_update_opens(further: Tiny) -> None:
    first = further("first", **UPDATE, **{"train.steps": 3})
    train(first)
    second = dataclasses.replace(further("second", **UPDATE, **{"train.steps": 3}), init=first.out)
    train(second)
    x = torch.randint(0, 256, (1, 9))
    logits = [open_model(Path(run.out)).model(x, mask=Causal()) for run in (first, second)]
    assert not torch.equal(*logits)


def test_full_training_goes_on_without_the_checkpoint_and_an_update_says_that_it_is_gone(
    further: Tiny, base: Path
) -> None:
    short = {"train.steps": 5, "train.eval_every": 2}
    full, update = further("full", **short), further("update", **UPDATE, **short)
    for run in (full, update):
        train(run, stop_after(3))
    base.rename(base.with_name("elsewhere"))
    assert train(full)
    for use in (lambda: train(update), lambda: open_model(Path(update.out))):
        with pytest.raises(FileNotFoundError, match="base") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_other_weights_than_those_of_the_update_are_refused(further: Tiny, base: Path) -> None:
    run = further("run", **UPDATE, **{"train.steps": 2})
    train(run)
    path = base / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, path)
    with pytest.raises(ValueError, match="have changed since"):
        open_model(Path(run.out))
    save_file(tensors, path)
    open_model(Path(run.out))
    description = Path(run.out) / "adapter.json"
    values = json.loads(description.read_text())
    description.write_text(json.dumps({**values, "lora": {**values["lora"], "rank": 3}}))
    with pytest.raises(ValueError, match="does not fit"):
        open_model(Path(run.out))
    description.write_text(json.dumps({**values, "base": run.out}))
    with pytest.raises(ValueError, match=r"an update of .* itself"):
        open_model(Path(run.out))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": TransformerConfig(d_model=64)}, r"model\.d_model = 64, but .*base has 32"),
        ({"tokenizer": TokenizerConfig(kind="character")}, r"the tokenizer is that of .*base"),
        ({"data.sequence_length": 256}, r"data\.sequence_length=256 is longer than the 192"),
        ({"init": None, **UPDATE}, "name one with --init"),
        ({"init": None, "data.format": "chat"}, "name a model with --init"),
        ({"init": "nothing/here"}, "nothing/here"),
    ],
)
def test_a_recipe_that_disagrees_is_refused_in_one_line(further: Tiny, changes: dict[str, object], says: str) -> None:
    run = further("run", **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=says) as caught:
        train(run)
    assert "\n" not in str(caught.value)
    assert not Path(run.out).exists()


def test_of_conversations_only_the_answers_are_learnt(further: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    turns = [(f"{number}?", f"{number}!") for number in range(30)]
    with path.open("w") as file:
        for question, answer in turns:
            roles = {"user": question, "assistant": answer}
            file.write(json.dumps({"messages": [{"role": r, "content": c} for r, c in roles.items()]}) + "\n")
    source = {
        "data.format": "chat",
        "data.source": (str(path),),
        "data.sequence_length": 96,
        "data.heldout_fraction": 0.3,
    }
    run = further("run", **source, **UPDATE, **{"train.steps": 3, "train.micro_batch_size": 1})
    assert train(run)
    # The first loss by hand: each conversation of the first batch alone, the answer's bytes under the base's network.
    experiment = prepare(run, WORLD, lambda event: None)
    batch, model = experiment.train.batch(0, 4), open_model(Path(run.init)).model  # type: ignore[arg-type]
    total = count = 0
    for row in batch.x.tolist():
        text = bytes(token for token in row if token < 256).decode()
        for talk in re.findall(r"<\|im_start\|>user\n.*?<\|im_end\|>\n.*?<\|im_end\|>\n", text, re.DOTALL):
            answered = talk.index("assistant\n") + len("assistant\n")
            ids = torch.tensor([list(talk.encode())])
            log_p = model(ids[:, :-1], mask=Causal()).log_softmax(-1).gather(2, ids[:, 1:, None])[0, :, 0]
            total -= float(log_p[answered - 1 :].sum())
            count += ids.shape[1] - answered
    assert count > 4 * len("1!<|im_end|>")
    first = json.loads((Path(run.out) / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(total / count, rel=1e-4)
    assert first["bits_per_byte"] == pytest.approx(total / count / math.log(2), rel=1e-4)


def test_steps_of_which_nothing_counts_move_nothing(further: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    run = further("run", **{"train.steps": 2, "train.eval_every": 0, "optim.weight_decay": 0.0})
    trainer = Trainer(prepare(run, WORLD, lambda event: None), WORLD, lambda event: None)
    stream = trainer.experiment.train
    whole = stream.batch

    def nothing(step: int, batch_size: int, rank: int = 0, ranks: int = 1) -> Batch:
        batch = whole(step, batch_size, rank, ranks)
        return dataclasses.replace(batch, counted=torch.zeros_like(batch.x[:, 1:], dtype=torch.bool), n_bytes=0)

    monkeypatch.setattr(stream, "batch", nothing)
    before, events = [p.clone() for p in trainer.parameters], list[Event]()
    trainer.on_event = events.append
    trainer.step()
    (stepped,) = events
    assert isinstance(stepped, Stepped) and stepped.loss == 0.0 and stepped.bits_per_byte is None
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))


@pytest.mark.parametrize("changes", [{}, UPDATE], ids=["full", "lora"])
def test_how_the_model_talks_is_kept(further: Tiny, base: Path, changes: dict[str, object]) -> None:
    (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    (base / "generation_config.json").write_text('{"eos_token_id": [10, 256]}')
    run = further("run", **changes, **{"train.steps": 1})
    train(run)
    opened = open_model(Path(run.out))
    assert opened.chat_template == "{{ messages[0]['content'] }}"
    assert opened.stop_ids == (10,)


def test_dropout_is_the_recipes_own(further: Tiny, base: Path) -> None:
    experiment = prepare(further("run", model=TransformerConfig(dropout=0.3)), WORLD, lambda event: None)
    assert experiment.model.config.dropout == 0.3 == experiment.model.blocks[0].dropout
    x = torch.randint(0, 256, (1, 9))
    assert torch.equal(experiment.model.eval()(x, mask=Causal()), open_model(base).model(x, mask=Causal()))


def test_a_rehearsal_leaves_an_update_as_it_was(further: Tiny) -> None:
    trainer = Trainer(prepare(further("run", **UPDATE), WORLD, lambda event: None), WORLD, lambda event: None)
    before = [p.clone() for p in trainer.parameters]
    assert trainer.rehearse(1) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))


@pytest.mark.slow
def test_compiled_training_of_an_update_equals_eager(further: Tiny) -> None:
    update = {"lora": LoraConfig(rank=4)}
    eager, compiled = further("eager", **update), further("compiled", **update, **{"train.compile": "on"})
    train(eager)
    train(compiled)
    assert list(losses(compiled.out).values()) == pytest.approx(list(losses(eager.out).values()), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_processes_equal_one(further: Tiny, tmp_path: Path, engine: str) -> None:
    changes = {
        "lora": LoraConfig(rank=4),
        "train.distributed": engine,
        "train.micro_batch_size": 1,
        "train.dtype": "float32",
        "train.steps": 4,
    }
    two, alone = further("two", **changes), further("alone", **changes)
    save_toml(two, tmp_path / "two.toml")
    result = torchrun(tmp_path / "two.toml")
    assert result.returncode == 0, result.stderr[-2000:]
    train(alone)
    assert list(losses(two.out).values()) == pytest.approx(list(losses(alone.out).values()), rel=2e-4)
    x = torch.randint(0, 256, (1, 9))
    logits = [open_model(Path(run.out)).model(x, mask=Causal()) for run in (two, alone)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-3)
