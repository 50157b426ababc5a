"""What must be made before the first step: tokenizer, token stores, network, objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from diptych.checkpoints.image_model import fit_images
from diptych.checkpoints.open import OpenedModel
from diptych.checkpoints.run_folder import CONFIG, TOKENIZER, check_vocabulary, load_recipe, save_chat_format
from diptych.core.config import RECIPE, RunConfig, TokenizerConfig, TransformerConfig
from diptych.core.events import Handler, ignore
from diptych.core.recipe import differences, save_json, save_toml
from diptych.core.types import Objective
from diptych.data.images import ImageStream
from diptych.data.pixels import pixel_tokenizer
from diptych.data.recall import check_recall, recall_tokenizer
from diptych.data.stream import Stream
from diptych.models.network import Network
from diptych.objectives.autoregressive import Autoregressive
from diptych.objectives.cross_entropy import slice_loss
from diptych.objectives.gaussian import GaussianDiffusion
from diptych.objectives.masked_diffusion import MaskedDiffusion
from diptych.objectives.masked_lm import mask_id_of, masked_language_model
from diptych.objectives.uniform_diffusion import UniformDiffusion
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.simple import ByteTokenizer
from diptych.tokenizers.train import train_tokenizer
from diptych.training.beginning import first_network, open_init, with_network_of_init
from diptych.training.distributed import World
from diptych.training.streams import build_streams, image_streams, training_texts

MAY_CHANGE = {
    "out",
    "train.steps",
    "train.micro_batch_size",
    "train.compile",
    "train.checkpoint_activations",
    "train.eval_every",
    "train.save_every",
    "train.device",
    "train.distributed",
    "train.tensorboard",
}
"""Keys that an existing run may be continued with other values of."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run made ready."""

    run: RunConfig
    out: Path
    words: Tokenizer | None
    """The tokenizer; None: the run learns from images."""
    train: Stream
    heldout: Stream
    model: Network

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of a run that learns from text."""
        assert self.words is not None, "images have no tokenizer"
        return self.words


def prepare(run: RunConfig, world: World, on_event: Handler) -> Experiment:
    """Make or find everything that training needs; what is already in the run folder is used again.

    Raises ValueError where the folder holds a run of another recipe.
    """
    out = Path(run.out)
    _check_images(run)
    run = _agree_with_folder(with_network_of_init(run, out), out)
    _check_parts(run)
    if run.objective == "gaussian":
        return _prepare_images(run, out, world, on_event)
    opened = open_init(run, out)
    _check_mask(run, out, opened)
    if world.first:
        out.mkdir(parents=True, exist_ok=True)
        save_toml(run, out / RECIPE)
        tokenizer = build_tokenizer(run, out, on_event, opened)
        if opened is not None:
            save_chat_format(out, opened.chat_template, opened.stop_ids)
        build_streams(run, out, tokenizer, on_event)
    world.wait()
    tokenizer = load_tokenizer(out / TOKENIZER)
    config = fit_vocabulary(run.model, tokenizer, out)
    if world.first:
        save_json(config, out / CONFIG)
    train, heldout = build_streams(run, out, tokenizer, ignore)  # what there is to say has been said
    model = first_network(run, config, opened)
    return Experiment(run=run, out=out, words=tokenizer, train=train, heldout=heldout, model=model)


def _prepare_images(run: RunConfig, out: Path, world: World, on_event: Handler) -> Experiment:
    if world.first:
        image_streams(run, out, on_event)
        save_toml(run, out / RECIPE)
    world.wait()
    train, heldout = image_streams(run, out, ignore)
    config = fit_images(run.model, train.images)
    if world.first:
        save_json(config, out / CONFIG)
    model = first_network(run, config, None)
    return Experiment(run=run, out=out, words=None, train=train, heldout=heldout, model=model)


def _agree_with_folder(run: RunConfig, out: Path) -> RunConfig:
    if not (out / RECIPE).is_file():
        return run
    if changed := sorted(set(differences(load_recipe(out), run)) - MAY_CHANGE):
        raise ValueError(
            f"{out} holds a run of another recipe (it differs in {', '.join(changed)}); choose another --out, "
            "delete the folder, or give the same recipe to continue"
        )
    return run


def _check_parts(run: RunConfig) -> None:
    """Raises ValueError where network, data and objective do not fit together."""
    if run.model.n_encoder_layers and run.data.format != "pairs":
        raise ValueError(
            f"an encoder-decoder learns from pairs, not from data.format = '{run.data.format}'; set data.format = "
            "'pairs' and name a source of pairs, or set model.n_encoder_layers = 0"
        )
    if run.data.format == "pairs" and not run.model.n_encoder_layers:
        raise ValueError("pairs are learnt by an encoder-decoder; set model.preset = 'vanilla-2017-tiny', for example")
    kinds = set(run.model.attention)
    is_packed = run.data.format not in ("recall", "pixels")
    if any(kind.startswith("titans") for kind in kinds) and run.data.document_mask and is_packed:
        raise ValueError("a Titans memory does not begin anew within a sequence; set data.document_mask = false")
    if run.objective == "masked_lm" and (one_way := kinds - {"softmax", "linear"}):
        raise ValueError(f"masked words are learnt from both sides, and {min(one_way)} reads from left to right only")
    if run.objective == "masked_lm" and run.data.format != "text":
        raise ValueError(f"masked words are learnt from running text, not from data.format = '{run.data.format}'")
    if run.objective in ("masked_diffusion", "uniform_diffusion"):
        _check_text_diffusion(run)
    if run.data.format == "recall":
        check_recall(run.data)
    if run.data.format in ("recall", "pixels") and run.tokenizer != TokenizerConfig():
        brought = "words" if run.data.format == "recall" else "levels"
        raise ValueError(
            f"data.format = '{run.data.format}' brings a tokenizer of its own {brought}; leave [tokenizer] out of the "
            "recipe"
        )


def _check_text_diffusion(run: RunConfig) -> None:
    """Raises ValueError where network and data do not suit a denoiser of text or pixels."""
    if run.data.format not in ("text", "pixels"):
        raise ValueError(
            f"{run.objective} learns from running text or pixels, not from data.format = '{run.data.format}'"
        )
    if run.data.format == "text" and run.data.document_mask:  # an image has its row for itself
        raise ValueError(
            "a denoiser reads both sides, so a mask of documents would tell it where they end; set "
            "data.document_mask = false"
        )
    blocks = run.text_diffusion.block_length is not None
    if blocks and run.objective == "uniform_diffusion":
        raise ValueError("uniform_diffusion has no blocks; leave block_length out")
    if one_way := set(run.model.attention) - ({"softmax"} if blocks else {"softmax", "linear"}):
        raise ValueError(f"{run.objective} reads both sides, and {min(one_way)} reads from left to right only")
    if blocks and run.model.position == "alibi":
        raise ValueError("block diffusion reads two copies of a text, between which ALiBi tells no distance; use rope")
    if blocks and (run.model.mask or run.model.window is not None):
        raise ValueError("block diffusion brings a mask of its own; leave model.mask and model.window out")


def _check_images(run: RunConfig) -> None:
    """Raises ValueError where only some of data, network and objective are about images."""
    if len({run.objective == "gaussian", run.data.format == "images", run.model.patches is not None}) > 1:
        raise ValueError(
            "images are learnt by objective = 'gaussian' with data.format = 'images' and a network over "
            "[model.patches]; set all three, as recipes/digits.toml does, or none"
        )
    if run.objective == "gaussian" and (run.init is not None or run.lora is not None):
        raise ValueError("a diffusion of images begins from fresh weights; leave init and lora out of the recipe")
    if run.objective == "gaussian" and run.tokenizer != TokenizerConfig():
        raise ValueError("images have no tokenizer; leave [tokenizer] out of the recipe")


def build_objective(experiment: Experiment, *, compiled: bool = False) -> Objective:
    """The paradigm's forward process. Raises ValueError where it needs a mask token that the tokenizer lacks."""
    run = experiment.run
    if run.objective == "gaussian":
        patches = experiment.model.config.patches
        assert patches is not None and isinstance(experiment.train, ImageStream)
        return GaussianDiffusion(run.diffusion, experiment.train.images.levels, patches.n_classes or 0)
    tokenizer = experiment.tokenizer
    match run.objective:
        case "autoregressive":
            # Where not every target counts, how many do differs from step to step.
            varies = run.data.format not in ("text", "pixels") or tokenizer.opening_id != tokenizer.eos_id
            kernel = torch.compile(slice_loss, dynamic=varies) if compiled else slice_loss
            return Autoregressive(kernel, run.train.label_smoothing)
        case "masked_lm":
            # How many positions are selected differs from step to step, which a kernel of fixed shapes does not bear.
            return masked_language_model(tokenizer)
        case "masked_diffusion" | "uniform_diffusion":
            return text_diffusion(run, tokenizer)


def text_diffusion(run: RunConfig, tokenizer: Tokenizer) -> MaskedDiffusion | UniformDiffusion:
    """The forward process of a run that denoises text. Raises ValueError where it needs a mask token and there is
    none."""
    if run.objective == "uniform_diffusion":
        return UniformDiffusion(run.text_diffusion, tokenizer.vocab_size)
    return MaskedDiffusion(run.text_diffusion, mask_id_of(tokenizer, run.text_diffusion.mask_token))


def build_tokenizer(run: RunConfig, out: Path, on_event: Handler, opened: OpenedModel | None = None) -> Tokenizer:
    """The tokenizer of the run folder; else one that is given (`_given_tokenizer`), copied there; else that of pixels'
    levels, or one trained on the training text."""
    path = out / TOKENIZER
    if path.is_file():
        return load_tokenizer(path)
    tokenizer = _given_tokenizer(run, opened)
    if tokenizer is None and run.data.format == "pixels":
        tokenizer = pixel_tokenizer(image_streams(run, out, on_event)[0].images.levels)
    if tokenizer is None:
        tokenizer = train_tokenizer(training_texts(run, on_event), run.tokenizer, on_event)
    tokenizer.save(path)
    return tokenizer


def _given_tokenizer(run: RunConfig, opened: OpenedModel | None) -> Tokenizer | None:
    """That of the checkpoint to start from, of the recipe's file, or of a made-up task's words; None: the data makes
    it."""
    if opened is not None:
        return opened.tokenizer
    if run.tokenizer.path is not None:
        given = Path(run.tokenizer.path)
        # Of all files only ranks do not say how text is split.
        return load_tokenizer(given, run.tokenizer.split if given.suffix == ".tiktoken" else None)
    return recall_tokenizer(run.data.recall) if run.data.format == "recall" else None


def _check_mask(run: RunConfig, out: Path, opened: OpenedModel | None) -> None:
    """Raises ValueError where what hides tokens finds no token for that, before a tokenizer is trained."""
    if run.objective not in ("masked_lm", "masked_diffusion"):
        return
    tokenizer = load_tokenizer(out / TOKENIZER) if (out / TOKENIZER).is_file() else _given_tokenizer(run, opened)
    if tokenizer is None:
        # The data decides what the tokens are, the recipe which special ones stand beside them.
        special = run.tokenizer.special_tokens
        tokenizer = pixel_tokenizer(2) if run.data.format == "pixels" else ByteTokenizer(special)
    mask_id_of(tokenizer, run.text_diffusion.mask_token if run.objective == "masked_diffusion" else None)


def fit_vocabulary(config: TransformerConfig, tokenizer: Tokenizer, out: Path) -> TransformerConfig:
    """The network's configuration with a vocabulary for this tokenizer; 0 becomes the tokenizer's own size."""
    if config.vocab_size == 0:
        return replace(config, vocab_size=tokenizer.vocab_size)
    check_vocabulary(config, tokenizer, out)
    return config
