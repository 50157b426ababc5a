"""How are the chunks of a neural memory read and learned at the speed of matrix products?

What `nn/neural_memory.py` says in equations, with the gradients written out: chunk by chunk, so that what a chunk needs
stays in a processor's caches, in place, and with little kept for the way back but what took a matrix product. Rows and
heads are one dimension r; a chunk has c tokens; a layer of the memory has i inputs and o outputs.
"""

from __future__ import annotations

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
    query: Tensor,
    kept: Answer,
    states: Layers,
    inputs: Layers,
    updates: Layers,
    share: Tensor,
    of_share: Tensor,
) -> tuple[Tensor, Layers, Layers, Layers]:
    """The gradients of queries, states, inputs and updates; that of `share` is added to `of_share`."""
    within, first = share[..., :-2], share[..., -2:]
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


def _move(state: Tensor, given: Tensor, update: Tensor, last: Float[Tensor, "r 2 c+2"], out: Tensor) -> None:
    """M and S of one layer at the chunk's end."""
    new = out.view(len(out), 2, -1)
    torch.bmm(_spread(given, last[..., :-2].mT).mT, update, out=out.flatten(1, 2))
    new.baddbmm_(last[..., -2:], state.flatten(2))


def _move_backward(
    after: Tensor,
    state: Tensor,
    given: Tensor,
    update: Tensor,
    last: Tensor,
    of_state: Tensor,
    of_given: Tensor,
    of_update: Tensor,
    of_last: Tensor,
) -> None:
    """Adds the gradients of all that `_move` takes."""
    by, flat = last[..., :-2].mT, after.flatten(1, 2)
    of_state.view(len(state), 2, -1).baddbmm_(last[..., -2:].mT, after.flatten(2))
    of_last[..., -2:].baddbmm_(after.flatten(2), state.flatten(2).mT)
    of_update.baddbmm_(_spread(given, by), flat)
    of_x, of_by = _spread_backward(update @ flat.mT, given, by)
    of_given += of_x
    of_last[..., :-2] += of_by.mT


class _Chunks(NamedTuple):
    """Views of a chunk's tokens: queries, keys and values (r, c, d), 2 theta (r, c, 1), and the rows of `Shares`: all of
    memory's (r, c, c + 2), the last of both (r, 2, c + 2)."""

    query: Tensor
    key: Tensor
    value: Tensor
    step: Tensor
    share: Tensor
    last: Tensor


class _Scan(torch.autograd.Function):
    """Queries, keys, values (r, t, d), theta, eta and 1 - alpha (r, t), M and S of every layer (r, 2, i, o), the
    memories at which the first chunk takes its gradients (r, i, o): the answers (r, t, d) and the layers at the end."""

    @staticmethod
    def forward(ctx: Any, length: int, *given: Tensor) -> tuple[Tensor, ...]:
        query, key, value, step, momentum, keep, *memory = given
        layers, reference = memory[: len(memory) // 2], memory[len(memory) // 2 :]
        share = shares(_by_chunk(momentum, length), _by_chunk(keep, length))
        n = query.shape[1] // length
        states = [x.new_empty(n + 1, *x.shape) for x in layers]
        for state, x in zip(states, layers, strict=True):
            state[0] = x
        out, kept = torch.empty_like(query), []
        for i in range(n):
            part = _part(i, length, query, key, value, step, share)
            at = [state[i, :, 0] for state in states] if i else reference
            found = _surprise(at, part.key, part.value, part.step)
            inputs, updates = found.steps(part.key, part.step)
            for state, x, update in zip(states, inputs, updates, strict=True):
                _move(state[i], x, update, part.last, state[i + 1])
            answer, products = _answer(part.query, [state[i] for state in states], inputs, updates, part.share)
            out[:, i * length : (i + 1) * length] = answer
            kept += [*found.before, *found.behind, found.missing, *products.before, *products.scores]
        ctx.length = length
        ctx.save_for_backward(*given[:6], *reference, *states, *share, *kept)
        return out, *(state[-1] for state in states)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        length, depth = ctx.length, len(upstream) - 1
        query, key, value, step, momentum, keep, *rest = ctx.saved_tensors
        reference, states, share, kept = (
            rest[:depth],
            rest[depth : 2 * depth],
            Shares(*rest[2 * depth : 2 * depth + 2]),
            rest[2 * depth + 2 :],
        )
        of_query, of_key, of_value, of_step = (torch.empty_like(x) for x in (query, key, value, step))
        of_memory = torch.zeros_like(share.memory)
        of_last = of_memory.new_zeros(2, *of_memory.shape[1:])
        after = [x.contiguous() for x in upstream[1:]]
        n, size = query.shape[1] // length, len(kept) * length // query.shape[1]
        of_at: Layers = []
        for i in range(n - 1, -1, -1):
            part = _part(i, length, query, key, value, step, share)
            found, products = _unpack(kept[i * size : (i + 1) * size], depth)
            here = [state[i] for state in states]
            at = [x[:, 0] for x in here] if i else reference
            inputs, updates = found.steps(part.key, part.step)
            rows = slice(i * len(query), (i + 1) * len(query))
            tokens = slice(i * length, (i + 1) * length)
            of_query[:, tokens], of_here, of_inputs, of_updates = _answer_backward(
                upstream[0][:, tokens],
                part.query,
                products,
                here,
                inputs,
                updates,
                part.share,
                of_memory[:, rows].transpose(0, 1),
            )
            for layer in range(depth):
                _move_backward(
                    after[layer],
                    here[layer],
                    inputs[layer],
                    updates[layer],
                    part.last,
                    of_here[layer],
                    of_inputs[layer],
                    of_updates[layer],
                    of_last[:, rows].transpose(0, 1),
                )
            of_key[:, tokens], of_value[:, tokens], of_step[:, tokens], of_at = _surprise_backward(
                at, found, part.step, inputs, updates, of_inputs, of_updates
            )
            if i:
                for x, y in zip(of_here, of_at, strict=True):
                    x[:, 0] += y
            after = of_here
        of_memory[-1] += of_last[0]
        by_chunk = _by_chunk(momentum, length), _by_chunk(keep, length)
        of_gates = _shares_backward(share, *by_chunk, of_memory, of_last[1])
        of_momentum, of_keep = (x.view(length, n, -1).permute(2, 1, 0).reshape(len(query), -1) for x in of_gates)
        return None, of_query, of_key, of_value, 2 * of_step, of_momentum, of_keep, *after, *of_at


def _by_chunk(gate: Float[Tensor, "r t"], length: int) -> Float[Tensor, "c n*r"]:
    return gate.unflatten(1, (-1, length)).permute(2, 1, 0).flatten(1)


def _part(i: int, length: int, query: Tensor, key: Tensor, value: Tensor, step: Tensor, share: Shares) -> _Chunks:
    rows = slice(i * len(query), (i + 1) * len(query))
    query, key, value, step = (x[:, i * length : (i + 1) * length] for x in (query, key, value, step))
    last = torch.stack((share.memory[-1, rows], share.momentum[-1, rows]), dim=1)
    return _Chunks(query, key, value, 2 * step[..., None], share.memory[:, rows].transpose(0, 1), last)


def _unpack(kept: Layers, depth: int) -> tuple[Surprise, Answer]:
    inner = depth - 1
    before, behind, (missing,), asked, scores = (
        kept[start:end]
        for start, end in (
            (0, inner),
            (inner, 2 * inner),
            (2 * inner, depth + inner),
            (depth + inner, depth + 2 * inner),
            (depth + 2 * inner, None),
        )
    )
    return Surprise(before, behind, missing), Answer(asked, scores)


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
