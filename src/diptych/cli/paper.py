"""`diptych paper [show ITEM]`: the review as code."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import tomllib
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path
from typing import Annotated, Literal

import tyro

from diptych.cli.common import parse

DESCRIPTION = """The review as code: every table, equation and figure that exists here, with the reference in the
paper's symbols, the fast object that the package runs, and the test that holds the two together.

examples:
  diptych paper
  diptych paper show table-4
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych paper`."""

    action: tyro.conf.Positional[Literal["list", "show"]] = "list"
    """`list` all items, or `show` one."""
    item: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[ITEM]", help_behavior_hint="")] = ""
    """Name of the item to show, such as table-4."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One numbered item of the review."""

    title: str
    section: str
    text: str
    reference: str
    fast: str
    test: str
    slip: str = ""


def read_items() -> tuple[dict[str, Item], dict[str, str]]:
    """All items by name, and the parts that they are composed of."""
    values = tomllib.loads(resources.files("diptych").joinpath("paper.toml").read_text(encoding="utf-8"))
    parts = values.pop("parts")
    return {name: Item(**value) for name, value in values.items()}, parts


def main(arguments: list[str]) -> int:
    """Parse, then list or show."""
    options = parse(Options, arguments, "paper", DESCRIPTION)
    items, _ = read_items()
    if options.action == "list":
        _list(items)
        return 0
    if not options.item:
        raise ValueError(f"name the item to show: {', '.join(items)}")
    if options.item not in items:
        near = difflib.get_close_matches(options.item, items, 1)
        hint = f"did you mean {near[0]}?" if near else f"items: {', '.join(items)}"
        raise ValueError(f"the review has no item {options.item} here; {hint}")
    _show(options.item, items[options.item])
    return 0


def _list(items: dict[str, Item]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("item", no_wrap=True)
    # Names are there to be copied: below each other none is broken at 80 columns, and none is ever cut.
    table.add_column("title, reference, fast", overflow="fold")
    for name, item in items.items():
        table.add_row(name, f"[bold]{item.title}[/bold]\n{item.reference}\n{item.fast}")
    Console(highlight=False).print(table)


def _show(name: str, item: Item) -> None:
    from rich.console import Console
    from rich.syntax import Syntax

    console = Console(highlight=False)
    console.print(f"[bold]{name}[/bold]  {item.title}  ({item.section})\n")
    console.print(item.text, markup=False)
    if item.slip:
        console.print(f"\nSlip, mended here: {item.slip}", style="yellow", markup=False)
    module, function = item.reference.split(":")
    source = inspect.getsource(getattr(importlib.import_module(module), function))
    console.print(f"\n[bold]reference[/bold]  {item.reference}", soft_wrap=True)
    console.print(Syntax(source, "python", background_color="default", word_wrap=True))
    console.print(f"[bold]fast[/bold]       {item.fast}  ({_place(item.fast)})", soft_wrap=True)
    console.print(f"[bold]test[/bold]       {item.test}", soft_wrap=True)


def _place(target: str) -> str:
    """File and line of an object, found without importing it: the fast objects' modules are slow to import."""
    module, name = target.split(":")
    spec = util.find_spec(module)
    if spec is None or spec.origin is None:
        return module
    path = Path(spec.origin)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return f"{path}:{node.lineno}"
    return str(path)
