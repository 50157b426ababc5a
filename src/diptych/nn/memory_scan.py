"""How are the chunks of a neural memory read and learned at the speed of matrix products?

What `nn/neural_memory.py` says in equations, with the gradients written out: chunk by chunk, so that what a chunk needs
stays in a processor's caches, in place, and with little kept for the way back but what took a matrix product. Rows and
heads are one dimension r; a chunk has c tokens; a layer of the memory has i inputs and o outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Layers = list[Tensor]


class Shares(NamedTuple):
    """How much of what came before is left within a chunk of c tokens.

    Of the updates u_s = -theta_s grad_s, of the chunk's first M and of its first S (the last two columns):
    M_t = sum over s of `memory[t, s]` u_s + `memory[t, c]` M + `memory[t, c + 1]` S, and S_t so from `momentum`.
    """

    memory: Float[Tensor, "c *n c+2"]
    momentum: Float[Tensor, "c *n c+2"]


def shares(momentum: Float[Tensor, "c *n"], keep: Float[Tensor, "c *n"]) -> Shares:
    """From eta and 1 - alpha: every row is the one before it times a gate, so that nothing is ever divided."""
    c = len(keep)
    of_memory = keep.new_zeros(*keep.shape, c + 2)
    of_momentum = torch.zeros_like(of_memory)
    momentum, keep = momentum[..., None], keep[..., None]
    of_memory[0, ..., c], of_momentum[0, ..., c + 1] = keep[0, ..., 0], momentum[0, ..., 0]
    of_momentum.diagonal(dim1=0, dim2=-1).fill_(1)
    of_memory[0] += of_momentum[0]
    for t in range(1, c):
        of_momentum[t].addcmul_(of_momentum[t - 1], momentum[t])
        torch.addcmul(of_momentum[t], of_memory[t - 1], keep[t], out=of_memory[t])
    return Shares(of_memory, of_momentum)


def _shares_backward(
    share: Shares, momentum: Tensor, keep: Tensor, of_memory: Tensor, of_momentum: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of eta and of 1 - alpha from those of all of `share.memory`, which are overwritten, and of the last
    row of `share.momentum`."""
    c = len(keep)
    d_momentum, d_keep = torch.empty_like(momentum), torch.empty_like(keep)
    for t in range(c - 1, -1, -1):
        of_momentum = of_momentum + of_memory[t]
        if t:
            torch.sum(of_memory[t] * share.memory[t - 1], -1, out=d_keep[t])
            torch.sum(of_momentum * share.momentum[t - 1], -1, out=d_momentum[t])
            of_memory[t - 1].addcmul_(of_memory[t], keep[t, ..., None])
            of_momentum.mul_(momentum[t, ..., None])
    d_keep[0], d_momentum[0] = of_memory[0, ..., c], of_momentum[..., c + 1]
    return d_momentum, d_keep


class _Chunk(NamedTuple):
    """Of one chunk: queries, keys and values (r, c, d), 2 theta (r, c, 1), and rows of `Shares`: all of memory's, and the
    last of both."""

    query: Float[Tensor, "r c d"]
    key: Float[Tensor, "r c d"]
    value: Float[Tensor, "r c d"]
    step: Float[Tensor, "r c 1"]
    share: Float[Tensor, "r c c+2"]
    last: Float[Tensor, "r 2 c+2"]


def _chunks(tokens: tuple[Tensor, ...], share: Shares) -> list[_Chunk]:
    """Views of queries, keys, values (r, t, d) and theta (r, t)."""
    length = len(share.memory)
    query, key, value, step = (x.unflatten(1, (-1, length)).unbind(1) for x in tokens)
    step = (2 * tokens[3][..., None]).unflatten(1, (-1, length)).unbind(1)
    return [_Chunk(*parts) for parts in zip(query, key, value, step, *_rows(share, len(tokens[0])), strict=True)]


def _rows(share: Shares, r: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    last = torch.stack((share.memory[-1], share.momentum[-1]), dim=1)
    return share.memory.transpose(0, 1).unflatten(0, (-1, r)).unbind(0), last.unflatten(0, (-1, r)).unbind(0)


def _spread(x: Float[Tensor, "r c i"], by: Float[Tensor, "r c 2"]) -> Float[Tensor, "r c 2i"]:
    """What meets M beside what meets S: x by its share in each."""
    return (x[:, :, None] * by[..., None]).flatten(2)


def _spread_backward(upstream: Tensor, x: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    both = upstream.unflatten(2, (2, -1))
    of_x = torch.addcmul(both[:, :, 0] * by[..., :1], both[:, :, 1], by[..., 1:])
    return of_x, (both * x[:, :, None]).sum(-1)


class Surprise(NamedTuple):
    """What took a matrix product in one chunk, of every layer but the last: its outputs before SiLU, and what comes back
    to that place, -theta times the gradient behind the SiLU; and v - M(k)."""

    before: Layers
    behind: Layers
    missing: Tensor

    def steps(self, key: Tensor, step: Tensor) -> tuple[Layers, Layers]:
        """Of every layer, the inputs, and -theta times the gradients of its outputs. `step`: 2 theta (r, c, 1)."""
        updates = [torch.ops.aten.silu_backward(g, z) for g, z in zip(self.behind, self.before, strict=True)]
        return [key, *map(F.silu, self.before)], [*updates, self.missing * step]


def _surprise(at: Layers, key: Tensor, value: Tensor, step: Tensor) -> Surprise:
    """The gradients of ||M(k) - v||^2 at the memory `at`."""
    before, x = [], key
    for matrix in at[:-1]:
        before.append(x @ matrix)
        x = F.silu(before[-1])
    missing = torch.baddbmm(value if len(at) == 1 else value - key, x, at[-1], alpha=-1)
    update, behind = missing * step, []
    for layer in range(len(before) - 1, -1, -1):
        behind.insert(0, update @ at[layer + 1].mT)
        if layer:
            update = torch.ops.aten.silu_backward(behind[0], before[layer])
    return Surprise(before, behind, missing)


def _surprise_backward(
    at: Layers, found: Surprise, step: Tensor, inputs: Layers, updates: Layers, of_inputs: Layers, of_updates: Layers
) -> tuple[Tensor, Tensor, Tensor, Layers]:
    """The gradients of keys, values, 2 theta and the memory from those of all inputs and updates, which are
    overwritten."""
    of_at, of_before = [torch.empty_like(x) for x in at], []
    for layer, (z, behind) in enumerate(zip(found.before, found.behind, strict=True)):
        gate = torch.sigmoid(z)
        slope = gate * (1 + z * (1 - gate))
        bend = gate * (1 - gate) * (2 + z * (1 - 2 * gate))
        of_before.append(of_updates[layer] * behind * bend)
        of_behind = of_updates[layer].mul_(slope)
        of_updates[layer + 1].baddbmm_(of_behind, at[layer + 1])
        torch.bmm(of_behind.mT, updates[layer + 1], out=of_at[layer + 1])
    of_step, of_value = (of_updates[-1] * found.missing).sum(-1), of_updates[-1].mul_(step)
    of_inputs[-1].baddbmm_(of_value, at[-1].mT, alpha=-1)
    torch.baddbmm(of_at[-1], inputs[-1].mT, of_value, beta=min(len(at) - 1, 1), alpha=-1, out=of_at[-1])
    for layer in range(len(at) - 2, -1, -1):
        upstream = of_before[layer].add_(torch.ops.aten.silu_backward(of_inputs[layer + 1], found.before[layer]))
        of_inputs[layer].baddbmm_(upstream, at[layer].mT)
        torch.baddbmm(of_at[layer], inputs[layer].mT, upstream, beta=min(layer, 1), out=of_at[layer])
    of_key = of_inputs[0] if len(at) == 1 else of_inputs[0] - of_value
    return of_key, of_value, of_step, of_at


class Answer(NamedTuple):
    """What took a matrix product in one chunk: each inner layer's outputs before SiLU, and each layer's inputs at the
    queries times those at the keys."""

    before: Layers
    scores: Layers


def _answer(
    query: Tensor, states: Layers, inputs: Layers, updates: Layers, share: Float[Tensor, "r c c+2"]
) -> tuple[Tensor, Answer]:
    """What the memory after each token makes of that token's query: layer by layer the chunk's first memory plus linear
    attention within the chunk. `share`: of `Shares.memory`."""
    within, first = share[..., :-2], share[..., -2:]
    before, scores, x = [], [], query
    for layer, (state, given, update) in enumerate(zip(states, inputs, updates, strict=True)):
        if layer:
            before.append(x)
            x = F.silu(x)
        scores.append(x @ given.mT)
        x = (_spread(x, first) @ state.flatten(1, 2)).baddbmm_(scores[-1] * within, update)
    return x if len(states) == 1 else x + query, Answer(before, scores)


def _answer_backward(
    upstream: Tensor,
    chunk: _Chunk,
    kept: Answer,
    states: Layers,
    inputs: Layers,
    updates: Layers,
    of_share: Tensor,
) -> tuple[Tensor, Layers, Layers, Layers]:
    """The gradients of queries, states, inputs and updates; that of `share` is added to `of_share`."""
    query, within, first = chunk.query, chunk.share[..., :-2], chunk.share[..., -2:]
    of_states, of_inputs, of_updates, dy = [], [], [], upstream
    for layer in range(len(states) - 1, -1, -1):
        x = F.silu(kept.before[layer - 1]) if layer else query
        of_updates.insert(0, (kept.scores[layer] * within).mT @ dy)
        of_weights = dy @ updates[layer].mT
        of_scores = of_weights * within
        of_share[..., :-2].addcmul_(of_weights, kept.scores[layer])
        of_x, of_first = _spread_backward(dy @ states[layer].flatten(1, 2).mT, x, first)
        of_share[..., -2:] += of_first
        of_states.insert(0, (_spread(x, first).mT @ dy).view_as(states[layer]))
        of_inputs.insert(0, of_scores.mT @ x)
        dy = of_x.baddbmm_(of_scores, inputs[layer])
        if layer:
            dy = torch.ops.aten.silu_backward(dy, kept.before[layer - 1])
    return dy if len(states) == 1 else dy + upstream, of_states, of_inputs, of_updates


def _move(state: Tensor, given: Tensor, update: Tensor, last: Float[Tensor, "r 2 c+2"]) -> Tensor:
    """M and S of one layer at the chunk's end."""
    new = torch.bmm(_spread(given, last[..., :-2].mT).mT, update).view(len(state), 2, -1)
    return new.baddbmm_(last[..., -2:], state.flatten(2)).view_as(state)


def _move_backward(
    last: Tensor,
    of_last: Tensor,
    upstream: Tensor,
    state: Tensor,
    given: Tensor,
    update: Tensor,
    of_state: Tensor,
    of_given: Tensor,
    of_update: Tensor,
) -> None:
    """Adds the gradients of all that `_move` takes."""
    by, flat, long = last[..., :-2].mT, upstream.flatten(1, 2), upstream.flatten(2)
    of_state.view(len(state), 2, -1).baddbmm_(last[..., -2:].mT, long)
    of_last[..., -2:].baddbmm_(long, state.flatten(2).mT)
    of_update.baddbmm_(_spread(given, by), flat)
    of_x, of_by = _spread_backward(update @ flat.mT, given, by)
    of_given += of_x
    of_last[..., :-2] += of_by.mT


class _Scan(torch.autograd.Function):
    """Queries, keys, values (r, t, d), theta, eta and 1 - alpha (r, t), M and S of every layer (r, 2, i, o), the
    memories at which the first chunk takes its gradients (r, i, o): the answers (r, t, d) and the layers at the end."""

    @staticmethod
    def forward(ctx: Any, length: int, *given: Tensor) -> tuple[Tensor, ...]:
        tokens, gates, memory = given[:4], given[4:6], given[6:]
        layers, at = memory[: len(memory) // 2], list(memory[len(memory) // 2 :])
        share = shares(*(_by_chunk(gate, length) for gate in gates))
        chunks, here = _chunks(tokens, share), list(layers)
        states, kept, out = [], [], torch.empty_like(tokens[0])
        for chunk, to in zip(chunks, out.unflatten(1, (-1, length)).unbind(1), strict=True):
            found = _surprise(at, chunk.key, chunk.value, chunk.step)
            inputs, updates = found.steps(chunk.key, chunk.step)
            answer, products = _answer(chunk.query, here, inputs, updates, chunk.share)
            to.copy_(answer)
            states += here
            kept += [*found.before, *found.behind, found.missing, *products.before, *products.scores]
            here = [_move(*parts, chunk.last) for parts in zip(here, inputs, updates, strict=True)]
            at = [x[:, 0] for x in here]
        ctx.depth, ctx.length = len(layers), length
        ctx.save_for_backward(*given[:6], *memory[len(layers) :], *share, *states, *kept)
        return out, *here

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        depth, length, saved = ctx.depth, ctx.length, iter(ctx.saved_tensors)
        tokens, gates, at_first, share = (list(islice(saved, n)) for n in (4, 2, depth, 2))
        chunks = _chunks(tuple(tokens), Shares(*share))
        states = [list(islice(saved, depth)) for _ in chunks]
        products = [_kept(saved, depth) for _ in chunks]
        of_share, into = torch.zeros_like(share[0]), [torch.empty_like(x) for x in tokens]
        of_last = of_share.new_zeros(of_share.shape[1], 2, length + 2)
        views = [x.unflatten(1, (-1, length)).unbind(1) for x in (*into, upstream[0])]
        views += [x.unflatten(0, (len(chunks), -1)).unbind(0) for x in (of_share.transpose(0, 1), of_last)]
        of_states, of_at = list(upstream[1:]), []
        for i in range(len(chunks) - 1, -1, -1):
            at = [x[:, 0] for x in states[i]] if i else at_first
            *to, of_answer, of_rows, of_end = (x[i] for x in views)
            found, answer = products[i]
            inputs, updates = found.steps(chunks[i].key, chunks[i].step)
            after = of_states
            to[0][:], of_states, of_inputs, of_updates = _answer_backward(
                of_answer, chunks[i], answer, states[i], inputs, updates, of_rows
            )
            given = zip(after, states[i], inputs, updates, of_states, of_inputs, of_updates, strict=True)
            for parts in given:
                _move_backward(chunks[i].last, of_end, *parts)
            to[1][:], to[2][:], to[3][:], of_at = _surprise_backward(
                at, found, chunks[i].step, inputs, updates, of_inputs, of_updates
            )
            if i:
                for x, y in zip(of_states, of_at, strict=True):
                    x[:, 0] += y
        of_share[-1] += of_last[:, 0]
        of_gates = _shares_backward(Shares(*share), *(_by_chunk(x, length) for x in gates), of_share, of_last[:, 1])
        by_row = (x.view(length, len(chunks), -1).permute(2, 1, 0).flatten(1) for x in of_gates)
        return None, *into[:3], 2 * into[3], *by_row, *of_states, *of_at


def _kept(saved: Iterator[Tensor], depth: int) -> tuple[Surprise, Answer]:
    """Of the next chunk."""
    before, behind, missing, asked, scores = (list(islice(saved, n)) for n in (depth - 1, depth - 1, 1, depth - 1, depth))
    return Surprise(before, behind, *missing), Answer(asked, scores)


def _by_chunk(gate: Float[Tensor, "r t"], length: int) -> Float[Tensor, "c n*r"]:
    return gate.unflatten(1, (-1, length)).permute(2, 1, 0).flatten(1)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiler would unroll the loop over chunks
def scan(
    query: Float[Tensor, "r t d"],
    key: Float[Tensor, "r t d"],
    value: Float[Tensor, "r t d"],
    gates: tuple[Tensor, Tensor, Tensor],
    layers: Layers,
    reference: Layers,
    length: int,
) -> tuple[Float[Tensor, "r t d"], Layers]:
    """t / length chunks; `gates`: theta, eta and 1 - alpha (r, t)."""
    out, *layers = _Scan.apply(length, query, key, value, *gates, *layers, *reference)  # type: ignore[no-untyped-call]
    return out, layers
