"""How does a network get a longer context with the weights that it has?"""

from __future__ import annotations

import torch

from diptych.core.context_extension import ContextExtension, extended
from diptych.models.language_model import LanguageModel
from diptych.models.network import TextNetwork


def extend(model: TextNetwork, extension: ContextExtension) -> LanguageModel:
    """The same network under the extended configuration; both share their weights, of which no copy is made.

    Raises ValueError as `diptych.core.context_extension.extended` does.
    """
    config = extended(model.config, extension)
    assert isinstance(model, LanguageModel)
    with torch.device("meta"):  # its own weights, which are never used, take no memory
        longer = LanguageModel(config)
    for name, child in model.named_children():
        longer.register_module(name, child)
    for name, parameter in model.named_parameters(recurse=False):
        longer.register_parameter(name, parameter)
    longer.add_tables()
    longer.checkpoint_activations = model.checkpoint_activations
    return longer.to(model.embedding.weight.device).train(model.training)
