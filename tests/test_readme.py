"""What the documents promise exists: every command, option and target that the README names."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.cli.main import COMMANDS, GROUPS
from diptych.core.config import RECIPE
from diptych.core.recipe import save_toml
from diptych.presets import load_run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TOKENIZERS = (ROOT / "docs" / "tokenizers.md").read_text()
TRANSFORMERS = (ROOT / "docs" / "transformers.md").read_text()
STABILITY = (ROOT / "docs" / "stability.md").read_text()
ATTENTION = (ROOT / "docs" / "attention.md").read_text()
DIFFUSION = (ROOT / "docs" / "diffusion.md").read_text()
TEXT_DIFFUSION = (ROOT / "docs" / "text-diffusion.md").read_text()
COMPARISON = (ROOT / "docs" / "comparison.md").read_text()
CONTEXT = (ROOT / "docs" / "context.md").read_text()
DOCUMENTS = (
    README + TOKENIZERS + TRANSFORMERS + STABILITY + ATTENTION + DIFFUSION + TEXT_DIFFUSION + COMPARISON + CONTEXT
)
CALLS = sorted(set(re.findall(r"^(?:torchrun .* -m )?diptych (.+)$", DOCUMENTS, re.MULTILINE)))


def test_there_are_calls_for_every_command_but_review() -> None:
    assert {shlex.split(call)[0] for call in CALLS} | {"review"} == set(COMMANDS)
    called = {tuple(shlex.split(call)[:2]) for call in CALLS}
    assert {(group, command) for group, commands in GROUPS.items() for command in commands} <= called


def test_the_programs_in_the_page_on_tokenizers_run(tmp_path: Path) -> None:
    programs = re.findall(r"```python\n(.*?)```", TOKENIZERS, re.DOTALL)
    assert len(programs) == 2
    program = "\n".join([*programs, "assert text == 'Sun rises'\n"])
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_every_picture_of_the_documents_exists() -> None:
    pages = (TOKENIZERS, STABILITY, ATTENTION)
    for folder, text in ((ROOT, README), *((ROOT / "docs", page) for page in pages)):
        pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
        assert pictures and all((folder / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("call", CALLS)
def test_every_option_of_a_call_is_known(call: str, tmp_path: Path) -> None:
    """Runs of some kinds have options of their own, so each recipe's run is there as far as its recipe."""
    for recipe in (ROOT / "recipes").glob("*.toml"):
        save_toml(load_run(str(recipe)), tmp_path / load_run(str(recipe)).out / RECIPE)
    words = shlex.split(call)
    command = words[: 2 if words[0] in GROUPS else 1]
    model = [word for word in words[len(command) :][:1] if (tmp_path / word / RECIPE).is_file()]
    help_text = subprocess.run(
        [sys.executable, "-m", "diptych", *command, *model, "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout
    for word in words[len(command) :]:
        if word.startswith("--"):
            assert word.replace("_", "-") in help_text, word


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "recipes").glob("*.toml")))
def test_every_recipe_is_valid(recipe: str) -> None:
    load_run(str(ROOT / "recipes" / recipe))


def test_the_recipe_in_the_readme_is_valid(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "r.toml").write_text(text)
    run = load_run(str(tmp_path / "r.toml"))
    assert run.model.n_layers == 6 and run.model.d_model == 128 and run.optim.name == "muon"


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    documents = README + (ROOT / "CONTRIBUTING.md").read_text()
    for target in set(re.findall(r"make (\w+)", documents)) - {"or"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
