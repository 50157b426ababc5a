"""The map of the review is complete: every item, its reference, its fast object and its test exist."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import diptych.reference
from diptych.cli.main import main
from diptych.cli.paper import read_items

ROOT = Path(__file__).parent.parent
ITEMS, PARTS = read_items()


def test_every_item_of_the_review_is_there() -> None:
    tables = ["table-1", "table-2", "table-3", "table-4"]
    section_2 = [*tables, "figure-2", "equation-1", "equation-2", "figure-1", "table-5-left"]
    assert list(ITEMS) == [*section_2, "section-3.1", "section-3.2"]
    assert (ROOT / "docs" / "paper.toml").read_bytes() == (ROOT / "src" / "diptych" / "paper.toml").read_bytes()


def resolve(target: str) -> object:
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", ITEMS)
def test_reference_fast_object_and_test_exist(name: str) -> None:
    item = ITEMS[name]
    assert callable(resolve(item.reference)) and callable(resolve(item.fast))
    label = name.replace("-", " ")
    assert label.capitalize() in (inspect.getdoc(resolve(item.reference)) or ""), "the docstring names its item"


@pytest.mark.parametrize("name", ITEMS)
def test_the_test_of_an_item_calls_its_reference_and_its_fast_object(name: str) -> None:
    item = ITEMS[name]
    path, _, function = item.test.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert function in defined
    imported = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    used = {node.id for node in ast.walk(defined[function]) if isinstance(node, ast.Name)}
    assert {item.reference, item.fast} <= {imported[name] for name in used & set(imported)}


def test_every_function_of_the_reference_has_its_place() -> None:
    named = {item.reference for item in ITEMS.values()} | set(PARTS.values())
    found = set()
    for module in pkgutil.iter_modules(diptych.reference.__path__, "diptych.reference."):
        for name, value in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            if value.__module__ == module.name:
                found.add(f"{module.name}:{name}")
    assert found <= named, f"in neither an item nor [parts]: {found - named}"
    for target in PARTS.values():
        assert callable(resolve(target))


def test_every_slip_is_in_the_document() -> None:
    text = (ROOT / "docs" / "review.md").read_text()
    for name, item in ITEMS.items():
        assert f"### {name}" in text
        assert bool(item.slip) == (
            f"### {name}" in text and "**Slip.**" in text.split(f"### {name}")[1].split("### ")[0]
        )


def test_listing_and_showing_import_no_torch() -> None:
    code = "import sys; from diptych.cli.paper import main; main([]); main(['show', 'table-4'])"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("columns", [40, 80])
def test_names_are_whole_in_the_list_and_beside_an_item(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list breaks names where a terminal is too narrow for them, but loses no letter; an item breaks none."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["paper"]) == 0
    listed = capsys.readouterr().out
    listed = listed if columns == 80 else "".join(listed.split())
    for name, item in ITEMS.items():
        assert item.reference in listed and item.fast in listed
        assert main(["paper", "show", name]) == 0
        shown = capsys.readouterr().out
        assert item.reference in shown and item.fast in shown and item.test in shown


def test_help_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["paper", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("diptych paper show table-4", "list", "show", "ITEM", "--help"))


def test_the_command_lists_shows_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ITEMS)
    assert main(["paper", "show", "table-3"]) == 0
    shown = capsys.readouterr().out
    assert "def layer_norm" in shown and "Slip" in shown and "normalization.py" in shown
    assert main(["paper", "show", "tabel-3"]) == 2
    assert "did you mean table-3?" in capsys.readouterr().err
    assert main(["paper", "show"]) == 2
    assert "table-1" in capsys.readouterr().err
