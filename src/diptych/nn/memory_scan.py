"""How are the chunks of a neural memory read and learned at the speed of matrix products?

The recurrence of `nn/neural_memory.py`, with its gradients by hand. With u_s = -theta_s grad_s, the memory after token
t of a chunk that found M and S is M_t = a_t M + b_t S + sum over s <= t of c_{t, s} u_s, where a, b and c are sums of
products of the gates. A layer whose inputs are x_s at the keys and q_t at the queries has u_s = x_s e_s^T, so that

    M_t q_t = a_t M q_t + b_t S q_t + sum over s <= t of c_{t, s} (x_s . q_t) e_s.

All of it goes chunk by chunk, so that what a chunk needs stays in a processor's caches, and for the way back little is
kept but what took a matrix product. Rows and heads are one dimension r; a chunk has c tokens; a layer of the memory has
i inputs and o outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Tensors = list[Tensor]
silu_backward = torch.ops.aten.silu_backward


class Shares(NamedTuple):
    """How much of what came before is left within a chunk of c tokens.

    Of the updates u_s = -theta_s grad_s, of the chunk's first M and of its first S (the last two columns):
    M_t = sum over s of `memory[t, s]` u_s + `memory[t, c]` M + `memory[t, c + 1]` S, and S_t so from `momentum`.
    """

    memory: Float[Tensor, "c *n _"]
    momentum: Float[Tensor, "c *n _"]


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


class Chunk(NamedTuple):
    """Views of what belongs to one chunk, or of where its gradients go.

    Queries, keys, values; 2 theta; of `Shares` those of the updates and of the first M and S at every token, then those
    of the updates and of the first M and S at the end.
    """

    query: Float[Tensor, "r c d"]
    key: Float[Tensor, "r c d"]
    value: Float[Tensor, "r c d"]
    step: Float[Tensor, "r c 1"]
    within: Float[Tensor, "r c c"]
    first: Float[Tensor, "r c 2 1"]
    last: Float[Tensor, "r c 2 1"]
    end: Float[Tensor, "r 2 2"]


def _chunks(tokens: Sequence[Tensor], share: Float[Tensor, "c nr _"], ends: Float[Tensor, "nr _ 2"]) -> list[Chunk]:
    """Of queries, keys, values (r, t, d) and 2 theta (r, t), of `Shares.memory` and of the last rows of both shares."""
    *wide, step = tokens
    share, (length, r) = share.transpose(0, 1), (len(share), len(step))
    views = [x.unflatten(1, (-1, length)).unbind(1) for x in (*wide, step[..., None])]
    parts = share[..., :-2], share[..., -2:, None], ends[:, :-2, :, None], ends[:, -2:].mT
    views += [x.unflatten(0, (-1, r)).unbind(0) for x in parts]
    return [Chunk(*each) for each in zip(*views, strict=True)]


class Layer(NamedTuple):
    """One layer in one chunk: M and S as the chunk found them, the layer's inputs at the keys, and -theta times the
    gradients of its outputs there. Or the gradients of the three."""

    state: Float[Tensor, "r 2 i o"]
    inputs: Float[Tensor, "r c i"]
    update: Float[Tensor, "r c o"]


class Surprise(NamedTuple):
    """What took a matrix product in one chunk: of every layer but the last its outputs before SiLU and -theta times the
    gradient behind it; and v - M(k)."""

    before: Tensors
    behind: Tensors
    missing: Float[Tensor, "r c d"]

    def layers(self, states: Sequence[Tensor], chunk: Chunk) -> list[Layer]:
        """The rest of it, computed from that."""
        inputs = [chunk.key, *map(F.silu, self.before)]
        updates = [silu_backward(g, z) for g, z in zip(self.behind, self.before, strict=True)]
        return [Layer(*each) for each in zip(states, inputs, [*updates, self.missing * chunk.step], strict=True)]


def _surprise(at: Sequence[Tensor], chunk: Chunk) -> Surprise:
    """The gradients of ||M(k) - v||^2 at the memory `at`."""
    before, x = [], chunk.key
    for matrix in at[:-1]:
        before.append(torch.bmm(x, matrix))
        x = F.silu(before[-1])
    target = chunk.value if len(at) == 1 else chunk.value - chunk.key
    missing = torch.baddbmm(target, x, at[-1], alpha=-1)
    update, behind = missing * chunk.step, []
    for matrix, z in zip(reversed(at[1:]), reversed(before), strict=True):
        behind.append(torch.bmm(update, matrix.mT))
        update = silu_backward(behind[-1], z)
    return Surprise(before, behind[::-1], missing)


def _surprise_backward(
    at: Sequence[Tensor], chunk: Chunk, found: Surprise, layers: list[Layer], upstream: list[Layer], *, into: Chunk
) -> Tensors:
    """The gradient of `at` from those of all inputs and updates, which are overwritten; those of keys, values and
    2 theta are left in `into`."""
    of_at, of_before, n = [torch.empty_like(x) for x in at], [], len(at) - 1
    for i, (z, behind) in enumerate(zip(found.before, found.behind, strict=True)):
        gate, of_update = torch.sigmoid(z), upstream[i].update
        slope = gate * (1 + z * (1 - gate))
        bend = gate * (1 - gate) * (2 + z * (1 - 2 * gate))
        of_before.append(of_update * behind * bend)
        of_behind = of_update.mul_(slope)
        upstream[i + 1].update.baddbmm_(of_behind, at[i + 1])
        torch.bmm(of_behind.mT, layers[i + 1].update, out=of_at[i + 1])
    torch.sum(upstream[n].update * found.missing, -1, keepdim=True, out=into.step)
    of_missing = torch.mul(upstream[n].update, chunk.step, out=into.value)
    upstream[n].inputs.baddbmm_(of_missing, at[n].mT, alpha=-1)
    of_at[n].baddbmm_(layers[n].inputs.mT, of_missing, beta=1 if n else 0, alpha=-1)
    for i in range(n - 1, -1, -1):
        of_output = of_before[i].add_(silu_backward(upstream[i + 1].inputs, found.before[i]))
        upstream[i].inputs.baddbmm_(of_output, at[i].mT)
        of_at[i].baddbmm_(layers[i].inputs.mT, of_output, beta=1 if i else 0)
    into.key[:] = upstream[0].inputs if n == 0 else upstream[0].inputs - of_missing
    return of_at


def _spread(x: Float[Tensor, "r c i"], by: Float[Tensor, "r c 2 1"]) -> Float[Tensor, "r c _"]:
    """What meets M beside what meets S: x by its share in each."""
    return (x[:, :, None] * by).flatten(2)


def _spread_backward(upstream: Tensor, x: Tensor, by: Tensor, of_by: Float[Tensor, "r c 2 1"]) -> Tensor:
    """The gradient of `x`; that of `by` is added to `of_by`."""
    both = upstream.view(*x.shape[:2], 2, -1)
    of_by += (both * x[:, :, None]).sum(-1, keepdim=True)
    return torch.addcmul(both[:, :, 0] * by[:, :, 0], both[:, :, 1], by[:, :, 1])


class Answer(NamedTuple):
    """What took a matrix product in one chunk: of every layer but the last its outputs at the queries before SiLU, and
    of every layer its inputs at the queries times those at the keys."""

    before: Tensors
    scores: Tensors


def _answer(chunk: Chunk, layers: list[Layer]) -> tuple[Tensor, Answer]:
    """What the memory after each token makes of that token's query: layer by layer the chunk's first memory plus linear
    attention within the chunk."""
    before, scores, x = [], [], chunk.query
    for i, layer in enumerate(layers):
        if i:
            before.append(x)
            x = F.silu(x)
        scores.append(torch.bmm(x, layer.inputs.mT))
        x = torch.bmm(_spread(x, chunk.first), layer.state.flatten(1, 2))
        x.baddbmm_(scores[i] * chunk.within, layer.update)
    return x if len(layers) == 1 else x + chunk.query, Answer(before, scores)


def _answer_backward(upstream: Tensor, chunk: Chunk, kept: Answer, layers: list[Layer], into: Chunk) -> list[Layer]:
    """The gradients of the layers; those of the queries and shares are left in `into`."""
    gradients, dy = [], upstream
    for i, layer in reversed(list(enumerate(layers))):
        x = F.silu(kept.before[i - 1]) if i else chunk.query
        of_weights = torch.bmm(dy, layer.update.mT)
        into.within.addcmul_(of_weights, kept.scores[i])
        of_scores = of_weights.mul_(chunk.within)
        of_state = torch.bmm(_spread(x, chunk.first).mT, dy).view_as(layer.state)
        of_update = torch.bmm((kept.scores[i] * chunk.within).mT, dy)
        gradients.append(Layer(of_state, torch.bmm(of_scores.mT, x), of_update))
        of_spread = torch.bmm(dy, layer.state.flatten(1, 2).mT)
        dy = _spread_backward(of_spread, x, chunk.first, into.first).baddbmm_(of_scores, layer.inputs)
        if i:
            dy = silu_backward(dy, kept.before[i - 1])
    into.query[:] = dy if len(layers) == 1 else dy + upstream
    return gradients[::-1]


def _move(chunk: Chunk, layer: Layer) -> Float[Tensor, "r 2 i o"]:
    """M and S at the chunk's end."""
    new = torch.bmm(_spread(layer.inputs, chunk.last).mT, layer.update).view(len(layer.state), 2, -1)
    return new.baddbmm_(chunk.end, layer.state.flatten(2)).view_as(layer.state)


def _move_backward(upstream: Tensor, chunk: Chunk, layer: Layer, of_layer: Layer, into: Chunk) -> None:
    """Adds the gradients of all that `_move` takes to `of_layer` and `into`."""
    rows, flat = upstream.flatten(1, 2), upstream.flatten(2)
    of_layer.state.flatten(2).baddbmm_(chunk.end.mT, flat)
    into.end.add_(torch.bmm(flat, layer.state.flatten(2).mT))
    of_layer.update.baddbmm_(_spread(layer.inputs, chunk.last), rows)
    of_spread = torch.bmm(layer.update, rows.mT)
    of_layer.inputs.add_(_spread_backward(of_spread, layer.inputs, chunk.last, into.last))


class _Scan(torch.autograd.Function):
    """Queries, keys, values (r, t, d), 2 theta, eta and 1 - alpha (r, t), M and S of every layer (r, 2, i, o), the
    memories at which the first chunk takes its gradients (r, i, o): the answers (r, t, d) and the layers at the end."""

    @staticmethod
    def forward(ctx: Any, length: int, *given: Tensor) -> tuple[Tensor, ...]:
        tokens, gates, memory = given[:4], given[4:6], given[6:]
        depth, share = len(memory) // 2, shares(*(_by_chunk(gate, length) for gate in gates))
        here, at = list(memory[:depth]), list(memory[depth:])
        states, kept, out = [], [], torch.empty_like(tokens[0])
        places = out.unflatten(1, (-1, length)).unbind(1)
        for chunk, place in zip(_chunks(tokens, share.memory, _ends(share)), places, strict=True):
            found = _surprise(at, chunk)
            layers = found.layers(here, chunk)
            place[:], answer = _answer(chunk, layers)
            states += here
            kept += [*found.before, *found.behind, found.missing, *answer.before, *answer.scores]
            here = [_move(chunk, layer) for layer in layers]
            at = [x[:, 0] for x in here]
        ctx.depth, ctx.length = depth, length
        ctx.save_for_backward(*tokens, *gates, *memory[depth:], *share, *states, *kept)
        return out, *here

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        depth, length, saved = ctx.depth, ctx.length, iter(ctx.saved_tensors)
        tokens, gates, at_first, both = (list(islice(saved, n)) for n in (4, 2, depth, 2))
        share = Shares(*both)
        chunks, ends = _chunks(tokens, share.memory, _ends(share)), torch.zeros_like(_ends(share))
        states = [list(islice(saved, depth)) for _ in chunks]
        kept = [_kept(saved, depth) for _ in chunks]
        of_tokens, of_share = [torch.empty_like(x) for x in tokens], torch.zeros_like(share.memory)
        places = _chunks(of_tokens, of_share, ends)
        of_answers = upstream[0].unflatten(1, (-1, length)).unbind(1)
        of_states, of_at = list(upstream[1:]), []
        for i in range(len(chunks) - 1, -1, -1):
            chunk, into, (found, answer) = chunks[i], places[i], kept[i]
            layers = found.layers(states[i], chunk)
            of_layers = _answer_backward(of_answers[i], chunk, answer, layers, into)
            for each in zip(of_states, layers, of_layers, strict=True):
                _move_backward(each[0], chunk, *each[1:], into)
            at = [x[:, 0] for x in states[i]] if i else at_first
            of_at = _surprise_backward(at, chunk, found, layers, of_layers, into=into)
            of_states = [x.state for x in of_layers]
            if i:
                for x, y in zip(of_states, of_at, strict=True):
                    x[:, 0] += y
        of_share[-1] += ends[..., 0]
        momentum, keep = (_by_chunk(gate, length) for gate in gates)
        by_chunk = _shares_backward(share, momentum, keep, of_share, ends[..., 1])
        of_gates = (x.view(length, len(chunks), -1).permute(2, 1, 0).flatten(1) for x in by_chunk)
        return None, *of_tokens, *of_gates, *of_states, *of_at


def _by_chunk(gate: Float[Tensor, "r t"], length: int) -> Float[Tensor, "c _"]:
    by_chunk: Tensor = gate.unflatten(1, (-1, length)).permute(2, 1, 0).flatten(1)
    return by_chunk


def _ends(share: Shares) -> Float[Tensor, "nr _ 2"]:
    """The last rows of both."""
    return torch.stack((share.memory[-1], share.momentum[-1]), dim=-1)


def _kept(saved: Iterator[Tensor], depth: int) -> tuple[Surprise, Answer]:
    """Of the next chunk."""
    inner = depth - 1
    before, behind, missing, asked, scores = (list(islice(saved, n)) for n in (inner, inner, 1, inner, depth))
    return Surprise(before, behind, *missing), Answer(asked, scores)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiler would unroll the loop over chunks
def scan(
    tokens: tuple[Tensor, Tensor, Tensor],
    gates: tuple[Tensor, Tensor, Tensor],
    layers: Tensors,
    reference: Tensors,
    length: int,
) -> tuple[Float[Tensor, "r t d"], Tensors]:
    """What the memory after each token makes of its query, and M and S of every layer after the last.

    `tokens`: queries, keys and values (r, t, d), t a multiple of the chunk's `length`. `gates`: theta, eta and
    1 - alpha (r, t). `layers`: M and S of every layer (r, 2, i, o). `reference`: of every layer the memory (r, i, o) at
    which the first chunk takes its gradients; the others take them at the one that they find.
    """
    step, momentum, keep = gates
    given = *tokens, 2 * step, momentum, keep, *layers, *reference
    out, *layers = _Scan.apply(length, *given)  # type: ignore[no-untyped-call]
    return out, layers
