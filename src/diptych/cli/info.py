"""`diptych info MODEL`: what a model is and what it costs, before anything large is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from diptych.cli.common import parse

if TYPE_CHECKING:
    from diptych.core.config import RunConfig, TransformerConfig
    from diptych.core.diffusion_config import DiffusionConfig, PatchConfig
    from diptych.models.cost import Cost
    from diptych.training.state import Counters

DESCRIPTION = """Parameters by part, FLOPs per token, key-value cache and memory of a model, from its configuration
alone; of a run folder also how far its training is, and of one that makes images what they are like.

MODEL is a run folder, a Hugging Face folder, a GGUF file, or a preset's name.

examples:
  diptych info runs/tiny
  diptych info runs/digits
  diptych info SmolLM2-135M-Instruct.Q4_1.gguf --context 8192
  diptych info llama-3 --context 131072 --dtype bfloat16
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych info`."""

    model: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder, a GGUF file, or the name of a preset."""
    context: int | None = None
    """Length in tokens at which FLOPs and memory are stated; None: the model's max_length."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of weights and cache."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What MODEL is; nothing large has been read."""

    kind: str
    config: TransformerConfig
    file_bytes: int | None = None
    """What its weights take on the disk."""
    is_encoder: bool = False
    recipe: RunConfig | None = None
    """Of a run folder."""
    training: Training | None = None
    """Of a run folder that keeps a state."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How far a run is."""

    counters: Counters
    states: tuple[int, ...]
    """Steps from which it can go on."""
    averages: dict[str, tuple[int, ...]]
    """Of each relative width, the steps at which the average was kept."""


def main(arguments: list[str]) -> int:
    """Parse, compute from the configuration, print."""
    options = parse(Options, arguments, "info", DESCRIPTION)
    if options.context is not None and options.context < 1:
        raise ValueError(f"--context {options.context} must be at least 1")
    found = _open(options.model)
    record = _images(options, found) if found.config.patches is not None else _text(options, found)
    if options.json:
        print(json.dumps(record))
    return 0


def _text(options: Options, found: Found) -> dict[str, Any]:
    from diptych.models.cost import cost_of

    config = found.config
    context = options.context or config.max_length
    cost = cost_of(config, context, _element_size(options), cached=not found.is_encoder)
    if not options.json:
        _heading(options, found)
        print(f"  {_shape(config)}")
        _progress(found)
        _parts(cost)
        print(
            f"  {cost.forward_flops_per_token / 1e6:,.1f} MFLOPs a token, forward, at a context of {context:,} tokens"
        )
        if not found.is_encoder:
            print(f"  {cost.cache_bytes_per_token:,} bytes of key-value cache a token in {options.dtype}")
            if cost.cache_bytes_fixed:
                print(f"  {cost.cache_bytes_fixed:,} bytes of cache in {options.dtype} that do not grow with the text")
        what = "weights" if found.is_encoder else f"weights and the cache of one sequence of {context:,} tokens"
        print(f"  {cost.memory_bytes / 1e6:,.1f} MB in {options.dtype} for {what}")
    return {
        **_common(options, found, cost),
        "forward_flops_per_token": cost.forward_flops_per_token,
        "cache_bytes_per_token": cost.cache_bytes_per_token,
        "cache_bytes_fixed": cost.cache_bytes_fixed,
        "context": context,
    }


def _images(options: Options, found: Found) -> dict[str, Any]:
    from diptych.models.cost import cost_of
    from diptych.models.layers import sized_patches

    patches = sized_patches(found.config)
    rows, columns = patches.grid
    if options.context is not None:
        raise ValueError(f"--context counts tokens, and an image here has {rows * columns} patches; leave it out")
    cost = cost_of(found.config, rows * columns, _element_size(options))
    flops = cost.forward_flops_per_token * rows * columns
    classes = _classes(options.model, found, patches)
    if not options.json:
        _heading(options, found)
        named = f"{len(classes)} classes ({', '.join(classes[:12])}{', ...' if len(classes) > 12 else ''})"
        print(f"  images of {_pixels(patches)}, {named if classes else 'no classes'}")
        print(f"  {_shape(found.config)}")
        if found.recipe is not None:
            print(f"  {_process(found.recipe.diffusion)}")
        _progress(found)
        _parts(cost)
        print(f"  {flops / 1e6:,.1f} MFLOPs an image, forward: one evaluation of the network")
        print(f"  {cost.memory_bytes / 1e6:,.1f} MB in {options.dtype} for weights")
    return {
        **_common(options, found, cost),
        "image": {"channels": patches.channels, "height": patches.height, "width": patches.width, "classes": classes},
        "patches": {"size": patches.size, "rows": rows, "columns": columns},
        "diffusion": None if found.recipe is None else asdict(found.recipe.diffusion),
        "forward_flops_per_image": flops,
    }


def _element_size(options: Options) -> int:
    return 4 if options.dtype == "float32" else 2


def _common(options: Options, found: Found, cost: Cost) -> dict[str, Any]:
    """What the JSON object says of every model."""
    return {
        "model": options.model,
        "kind": found.kind,
        "file_bytes": found.file_bytes,
        "config": asdict(found.config),
        "parameters": {**cost.parameters, "total": cost.total},
        "dtype": options.dtype,
        "memory_bytes": cost.memory_bytes,
        "training": None if found.training is None else asdict(found.training),
    }


def _heading(options: Options, found: Found) -> None:
    size = "" if found.file_bytes is None else f", {found.file_bytes / 1e6:,.1f} MB on the disk"
    print(f"{options.model} ({found.kind}{size})")


def _parts(cost: Cost) -> None:
    width = max(map(len, cost.parameters)) + 2
    for name, count in [*cost.parameters.items(), ("total", cost.total)]:
        print(f"  {name.replace('_', ' '):<{width}}{count:>16,} parameters  {count / max(1, cost.total):6.1%}")


def _progress(found: Found) -> None:
    if found.recipe is None or found.training is None:
        return
    counters = found.training.counters
    best = "" if counters.best_loss is None else f", best held-out loss {counters.best_loss:.4f}"
    states = ", ".join(f"{step:,}" for step in found.training.states)
    print(
        f"  trained {counters.step:,} of {found.recipe.train.steps:,} steps in {counters.seconds:,.0f} s{best}; "
        f"states of steps {states}"
    )
    for length, steps in found.training.averages.items():
        print(f"  average of relative width {length} kept {len(steps)} times, from step {steps[0]:,} to {steps[-1]:,}")


def _open(name: str) -> Found:
    """What MODEL is, from its configuration and the names of its files."""
    from diptych.presets import PRESETS

    path = Path(name)
    if name in PRESETS and not path.exists():
        return Found(kind="preset", config=PRESETS[name], is_encoder=PRESETS[name].head_transform)
    from diptych.checkpoints.open import find, objective_of, open_config
    from diptych.checkpoints.run_folder import load_recipe
    from diptych.core.config import RECIPE

    kind, place = find(path)
    files = [place] if place.is_file() else [*place.glob("*.safetensors")]
    is_run = kind == "run folder" and (place / RECIPE).is_file()
    return Found(
        kind=kind,
        config=open_config(path),
        file_bytes=sum(file.stat().st_size for file in files),
        is_encoder=objective_of(path) == "masked_lm",
        recipe=load_recipe(place) if is_run else None,
        training=_training(place) if is_run else None,
    )


def _training(folder: Path) -> Training | None:
    """How far a run is, by the newest state that it keeps; None where it keeps none."""
    from diptych.training.post_hoc import AVERAGES, read_snapshots
    from diptych.training.state import Counters

    states = sorted((folder / "state").glob("step-*/state.json"))
    if not states:
        return None
    try:
        counters = Counters(**json.loads(states[-1].read_bytes())["counters"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{states[-1]} is damaged ({error}); delete its folder to go on from an older one") from None
    averages: dict[str, tuple[int, ...]] = {}
    if (folder / AVERAGES).is_dir():
        for snapshot in read_snapshots(folder):
            length = f"{snapshot.length:g}"
            averages[length] = (*averages.get(length, ()), snapshot.step)
    steps = tuple(int(file.parent.name.removeprefix("step-")) for file in states)
    return Training(counters=counters, states=steps, averages=averages)


def _classes(name: str, found: Found, patches: PatchConfig) -> list[str]:
    """Names of the classes that the network knows; their numbers where the run's images are gone."""
    from diptych.data.images import has_images, load_images

    kept = Path(name) / "data" / "train"
    if not patches.n_classes:
        return []
    if found.kind == "run folder" and has_images(kept):
        return list(load_images(kept).classes)
    return [str(number) for number in range(patches.n_classes)]


def _pixels(patches: PatchConfig) -> str:
    plural = "s" * (patches.channels != 1)
    return f"{patches.height} x {patches.width} pixels of {patches.channels} channel{plural}"


def _process(config: DiffusionConfig) -> str:
    """The forward process and what the network learns of it."""
    return (
        f"schedule {config.schedule}, parameterization {config.parameterization}, weighting {config.weighting}, "
        f"noise levels from {config.sigma_min:g} to {config.sigma_max:g}"
    )


def _shape(config: TransformerConfig) -> str:
    """The network in a line."""
    layers = f"{config.n_layers} layers"
    if config.n_encoder_layers:
        layers = f"{config.n_encoder_layers} encoder and {config.n_layers} decoder layers"
    heads = f"{config.n_heads} heads"
    if config.kv_heads != config.n_heads:
        heads = f"{config.n_heads} query and {config.kv_heads} key-value heads"
    window = f", a window of {config.window:,}" if config.window else ""
    window += f", masks {', '.join(config.mask)} in turn" if config.mask else ""
    if config.attention != ("softmax",):
        window += f", layers of {', '.join(config.attention)} in turn"
    if config.patches is None:
        read = f"vocabulary {config.vocab_size:,}, {config.max_length:,} tokens"
    else:
        (rows, columns), size = config.patches.grid, config.patches.size
        read = f"{rows} x {columns} patches of {size} x {size} pixels"
    return (
        f"{layers}, d_model {config.d_model:,}, {heads} of {config.head_width}, {config.feed_forward} of "
        f"{config.inner_width:,}, {config.norm} normalization ({config.norm_placement}), {config.position} positions, "
        f"{read}{window}"
    )
