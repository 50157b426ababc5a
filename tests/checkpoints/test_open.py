"""MODEL, whatever it is: found by what lies there, opened with all that comes with it, or refused in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.checkpoints import weights
from diptych.checkpoints.gguf_export import write_gguf
from diptych.checkpoints.hugging_face import open_hugging_face
from diptych.checkpoints.hugging_face_export import export_hugging_face
from diptych.checkpoints.open import OpenedModel, find, open_config, open_model
from diptych.checkpoints.run_folder import save_weights
from diptych.checkpoints.weights import save_tensors
from diptych.cli.main import main
from diptych.core.config import TransformerConfig
from diptych.models.language_model import LanguageModel
from diptych.models.network import build_network, build_unfilled, initialize
from diptych.nn.masks import Causal
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.hugging_face_folder import save_hugging_face
from diptych.tokenizers.simple import ByteTokenizer
from tests.checkpoints import families

CONFIG = TransformerConfig(vocab_size=264, d_model=16, n_layers=1, n_heads=2, max_length=32)
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_network(CONFIG).eval()
    initialize(model, torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("open") / "m"
    export_hugging_face(OpenedModel(model=model, tokenizer=ByteTokenizer()), folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "m"))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    model = build_network(CONFIG).eval()
    initialize(model, torch.Generator().manual_seed(0))
    path = tmp_path / "run"
    save_weights(dict(model.named_parameters()), CONFIG, path)
    ByteTokenizer().save(path / "tokenizer.json")
    return path


def refusal(path: Path) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        open_model(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def set_json(path: Path, **values: Any) -> None:
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**old, **values}))


def test_a_run_folder_and_a_hugging_face_folder_are_the_same_network(folder: Path, run_folder: Path) -> None:
    assert find(folder) == ("Hugging Face folder", folder) and find(run_folder) == ("run folder", run_folder)
    left, right = open_model(folder), open_model(run_folder)
    x = families.tokens()
    assert torch.equal(left.model(x, mask=Causal()), right.model(x, mask=Causal()))
    assert open_config(folder) == left.model.config and open_config(run_folder) == CONFIG
    assert not left.model.training and not any(p.requires_grad for p in left.model.parameters())


def test_precision_of_a_run_folder(run_folder: Path) -> None:
    model = open_model(run_folder, dtype=torch.bfloat16).model
    assert model.unembedding.dtype == torch.bfloat16
    assert model.rope is not None and model.rope.dtype == torch.float32  # angles of rounded frequencies would be off


def test_a_gguf_file_alone_or_in_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF" + bytes(20))
    assert find(file) == find(tmp_path) == ("GGUF file", file)
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    assert "several GGUF files; name one" in refusal(tmp_path)


def test_ends_of_a_text(folder: Path) -> None:
    eos = ByteTokenizer().eos_id
    set_json(folder / "generation_config.json", eos_token_id=[eos, 5, 9, 5])
    set_json(folder / "config.json", eos_token_id=7)
    assert open_model(folder).stop_ids == (5, 9, 7)
    set_json(folder / "generation_config.json", eos_token_id=[-1, 10**9, True, None, "x", 8])
    assert open_model(folder).stop_ids == (8, 7)
    (folder / "generation_config.json").unlink()
    assert open_model(folder).stop_ids == (7,)


def test_chat_templates(folder: Path) -> None:
    assert open_model(folder).chat_template is None
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    set_json(folder / "tokenizer_config.json", chat_template=several)
    assert open_model(folder).chat_template == "d"
    set_json(folder / "tokenizer_config.json", chat_template="one")
    assert open_model(folder).chat_template == "one"
    (folder / "chat_template.jinja").write_text("file")
    assert open_model(folder).chat_template == "file"
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    assert "is not UTF-8" in refusal(folder)


def test_an_encoder_says_what_it_is_for(tmp_path: Path) -> None:
    families.save(families.theirs("bert"), tmp_path)
    save_hugging_face(ByteTokenizer(), tmp_path)
    assert open_model(tmp_path).objective == "masked_lm"


def test_a_tokenizer_may_have_fewer_tokens_than_the_embedding_has_rows_never_more(tmp_path: Path) -> None:
    small = families._llama(vocab_size=100)
    families.save(small, tmp_path)
    save_hugging_face(ByteTokenizer(), tmp_path)
    assert "embeds only 100" in refusal(tmp_path)


def test_what_is_no_model_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    assert "there is no run folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no model: MODEL is a run folder, a Hugging Face folder" in refusal(tmp_path / "empty")
    assert f"name its folder, {folder}" in refusal(folder / "model.safetensors")
    assert "is no model" in refusal(Path(os.devnull))
    (folder / "config.json").write_text('{"model_type": "llama", "model_type": "gpt2"}')
    assert "stands twice" in refusal(folder)
    (folder / "config.json").write_text("[" * 100_000)
    assert "no valid JSON" in refusal(folder)
    (folder / "config.json").write_text("{}")
    assert "embeds only 0" in refusal(folder)


def test_pickles_are_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "holds neither model.safetensors nor" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "only as a pickle" in refusal(folder) and "save_pretrained" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "C:x.safetensors", "..\\x.safetensors"],
)
def test_an_index_cannot_leave_its_folder(name: str, folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "secret.safetensors")
    (folder / "sub").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "sub" / "x.safetensors")
    (folder / "model.safetensors").unlink()
    set_json(folder / INDEX, weight_map={"model.norm.weight": name})
    assert "no safetensors file in its folder; refused" in refusal(folder)


def test_an_index_cannot_lead_out_by_a_link_but_within_hugging_faces_cache(folder: Path, tmp_path: Path) -> None:
    tensors = set(json.loads(_header(folder / "model.safetensors"))) - {"__metadata__"}
    (tmp_path / "blobs").mkdir()
    shutil.move(folder / "model.safetensors", tmp_path / "blobs" / "0123")
    (folder / "a.safetensors").symlink_to(tmp_path / "blobs" / "0123")
    set_json(folder / INDEX, weight_map=dict.fromkeys(tensors, "a.safetensors"))
    assert "a link that leads out of its folder" in refusal(folder)
    (tmp_path / "snapshots").mkdir()
    assert open_model(Path(shutil.move(folder, tmp_path / "snapshots" / "rev"))).model.config.n_layers == 1


def _header(path: Path) -> bytes:
    data = path.read_bytes()
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def test_an_index_that_does_not_fit_its_files(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    names = set(json.loads(_header(folder / "a.safetensors"))) - {"__metadata__"}
    good = dict.fromkeys(names, "a.safetensors")
    set_json(folder / INDEX, weight_map=good)
    assert open_model(folder).model.config.n_layers == 1
    for bad, fragment in [
        ({**good, "other": "a.safetensors"}, "which does not hold it"),
        ({**good, "other": "b.safetensors"}, "which is missing"),
        ([], "weight_map is no object"),
        ({**good, "other": 3}, "weight_map is no object"),
    ]:
        set_json(folder / INDEX, weight_map=bad)
        assert fragment in refusal(folder)
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    set_json(folder / INDEX, weight_map={**good, "model.norm.weight": "b.safetensors"})
    assert "stands in two of its files" in refusal(folder)


def test_a_run_folder_that_claims_more_than_it_holds_makes_nothing(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diptych.checkpoints.run_folder.build_unfilled", pytest.fail)
    for values, fragment in [
        ({"n_layers": 10**9}, "describes a network of"),
        ({"n_layers": 10**9, "attention": ["titans_gate", "softmax"]}, "describes a network of"),
        ({"vocab_size": 10**15}, "describes a network of"),
        ({"d_ff": 10**30}, "describes a network of more than"),
        ({"d_ff": -5}, "d_ff=-5 must be at least 1"),
        ({"n_kv_heads": -2}, "n_kv_heads=-2 must be at least 1"),
        ({"n_encoder_layers": -1}, "must not be negative"),
        ({"position": "sinusoidal", "max_length": 10**12}, "table of positions"),
    ]:
        set_json(run_folder / "config.json", **{**dataclasses.asdict(CONFIG), **values})
        assert fragment in refusal(run_folder)


def test_tensors_of_a_run_folder_that_do_not_fit(run_folder: Path) -> None:
    good = weights.load_tensors(run_folder / "model.safetensors")
    for change, fragment in [
        ({"extra": torch.ones(2)}, "does not have"),
        (
            {"final_norm.weight": torch.ones(15), "pad": torch.ones(1)},
            "has shape (15,), but config.json asks for (16,)",
        ),
    ]:
        save_tensors({**good, **change}, run_folder / "model.safetensors")
        assert fragment in refusal(run_folder)
    renamed = {name.replace("final", "last"): tensor for name, tensor in good.items()}
    save_tensors(renamed, run_folder / "model.safetensors")
    assert "lacks the tensor final_norm.weight" in refusal(run_folder)


def test_opening_takes_the_memory_of_the_weights_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor as large as a matrix is made beside the parameters themselves."""
    made: list[int] = []
    empty = torch.empty

    def counting(*size: Any, **options: Any) -> torch.Tensor:
        out = empty(*size, **options)
        if out.device.type != "meta":
            made.append(out.numel())
        return out

    monkeypatch.setattr(torch, "empty", counting)
    model = open_hugging_face(folder)
    assert sorted(made) == sorted(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal", "sinusoidal_halves", "alibi", "none"])
@pytest.mark.parametrize("encoders", [0, 1])
def test_an_unfilled_network_computes_as_one_that_was_built(position: Any, encoders: int) -> None:
    if encoders and position == "alibi":
        return
    config = TransformerConfig(
        vocab_size=264, d_model=16, n_layers=1, n_heads=2, max_length=32, position=position, n_encoder_layers=encoders
    )
    built = build_network(config).eval()
    initialize(built, torch.Generator().manual_seed(0))
    unfilled = build_unfilled(config, device="cpu", dtype=torch.float32)
    unfilled.load_state_dict(built.state_dict())
    x = families.tokens()
    assert torch.equal(families.our_logits(unfilled, x), families.our_logits(built, x))


def test_commands_take_a_hugging_face_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(folder), "--prompt", "ab", "--max-new-tokens", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["ids"]) <= 3
    (folder.parent / "text.txt").write_text("some text to score, long enough for two windows")
    assert main(["evaluate", str(folder), str(folder.parent / "text.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_byte"] > 0


def test_only_what_is_trained_here_or_has_its_own_token_begins_with_an_opening_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = train_bpe(["the sun rises in the east, the sun sets in the west "] * 9, 300)
    config = TransformerConfig(vocab_size=300, d_model=32, n_layers=1, n_heads=2, max_length=64)
    model = LanguageModel(config)
    initialize(model, torch.Generator().manual_seed(0))
    write_gguf(tmp_path / "m.gguf", model, tokenizer, file_type="F32", chat_template="{{ messages }}")
    opened = open_model(tmp_path / "m.gguf")
    assert not opened.opens
    assert main(["generate", str(tmp_path / "m.gguf"), "--prompt", "the sun", "--temperature", "0", "--json"]) == 0
    ids = json.loads(capsys.readouterr().out)["ids"]
    context = tokenizer.encode_list("the sun")
    with torch.inference_mode():
        assert ids[0] == int(model(torch.tensor([context]), mask=Causal())[0, -1].argmax())
