"""The network that is trained: two streams that a mirror of the book flips and keeps, and attention over a sliding window of steps.

A market seen in a mirror (bid and ask swapped, buys for sells) should move the other way. Every vector here is a pair: an odd part that
changes sign under the mirror and an even part that does not. Linear maps keep the parts apart, products obey odd * odd = even and
odd * even = odd, and the head reads each part by its own weights. So f = f_odd + f_even, f_odd flips exactly, and a market that keeps the
symmetry needs f_odd alone. It costs no more than an ordinary network with half the parameters; averaging f(x) - f(mirror x) would cost
twice the time, augmentation twice the epochs for a law that holds about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu


@dataclass(frozen=True, slots=True)
class Sizes:
    """Shape of a network: channels in, width of each stream, heads, layers, feed-forward units a stream, window in steps."""

    n_odd: int
    n_even: int
    width: int
    heads: int
    layers: int
    hidden: int
    window: int


def rope_frequencies(sizes: Sizes) -> Tensor:
    """Radians a step, float64[width / heads / 2]: geometric from 1 (a period of 6 steps) to 1 / (2 window) (Su et al. 2021)."""
    pairs = sizes.width // sizes.heads // 2
    return torch.exp(
        torch.linspace(0.0, 1.0, pairs, dtype=torch.float64) * -torch.log(torch.tensor(2.0 * sizes.window, dtype=torch.float64))
    )


def banded_mask(window: int) -> Tensor:
    """bool[W, 2W]: a query of one block sees itself and the W - 1 tokens before it, in its own block and the one before."""
    query = torch.arange(window)[:, None] + window
    key = torch.arange(2 * window)[None, :]
    return (key <= query) & (key > query - window)


def weight(*shape: int, gain: float = 1.0) -> nn.Parameter:
    """Normal weights [..., in, out] of variance gain^2 / in."""
    return nn.Parameter(torch.randn(*shape) * (gain * shape[-2] ** -0.5))


# Inputs start small: what grows is what the labels pull up, and the selection of channels decides before the rest has fitted the noise.
EMBED_GAIN = 0.2


class Layer(nn.Module):
    """Pre-norm attention and a gated feed-forward over blocks of `window` tokens; the first block is context and does not come out.

    x is [2, B, L, D] (odd, even), L a multiple of the window; the result is [2, B, L - window, D]. Each token that comes out has seen just
    the W tokens up to itself, so a stack of layers over L = layers * W + n tokens gives n outputs without an edge.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, hidden = sizes.width, sizes.hidden
        self.heads, self.window = sizes.heads, sizes.window
        self.gain_attention = nn.Parameter(torch.ones(2, width))
        self.query = weight(2, width, width)
        self.key_value = weight(2, width, 2 * width)
        self.attention_out = nn.Parameter(torch.zeros(2, width, width))
        self.gain_feed = nn.Parameter(torch.ones(2, width))
        self.gate = weight(width, 2 * hidden)
        self.value = weight(2, width, hidden)
        self.partner = weight(width, hidden)
        self.odd_out = weight(hidden, width)
        self.even_out = weight(2 * hidden, width)

    def forward(self, x: Tensor, turn: Tensor, mask: Tensor) -> Tensor:
        """turn: [2, B, L, 1, P] cosine and sine of each token's place; mask: bool[B, 1, L / W - 1, W, 2W] of the keys each query sees."""
        w = self.window
        keys = normed(x, self.gain_attention)
        x = x[:, :, w:]
        q = rotated(self.split(keys[:, :, w:], self.query), turn[:, :, w:])
        k, v = self.split(keys, self.key_value).chunk(2, dim=-1)
        k = rotated(k, turn)
        q, k, v = (self.by_head(a) for a in (q, k, v))
        attended = scaled_dot_product_attention(q.unflatten(2, (-1, w)), self.pairs(k), self.pairs(v), attn_mask=mask)
        attended = attended.flatten(2, 3).unflatten(-1, (2, -1)).permute(3, 0, 2, 1, 4).flatten(3)  # [2, B, L - W, D]
        x = x + mixed(attended, self.attention_out)
        odd, even = normed(x, self.gain_feed)
        gate = silu(even @ self.gate)
        gate_odd, gate_even = gate.chunk(2, dim=-1)
        value_odd = torch.tanh(odd @ self.value[0])
        odd_hidden = gate_odd * value_odd
        even_hidden = torch.cat([gate_even * (even @ self.value[1]), value_odd * torch.tanh(odd @ self.partner)], dim=-1)
        return x + torch.stack([odd_hidden @ self.odd_out, even_hidden @ self.even_out])

    def split(self, x: Tensor, matrix: Tensor) -> Tensor:
        """[2, B, L, D] through one matrix a stream, then [2, B, L, heads, ...]."""
        return mixed(x, matrix).unflatten(-1, (self.heads, -1))

    def by_head(self, x: Tensor) -> Tensor:
        """[2, B, L, heads, E] to [B, heads, L, 2E]: a head's score adds odd * odd and even * even, both even."""
        return x.permute(1, 3, 2, 0, 4).flatten(3)

    def pairs(self, x: Tensor) -> Tensor:
        """[B, heads, L, E] to [B, heads, L / W - 1, 2W, E]: each block of keys after the one before it."""
        blocks = x.unflatten(2, (-1, self.window))
        return torch.cat([blocks[:, :, :-1], blocks[:, :, 1:]], dim=3)


class Network(nn.Module):
    """Steps of one symbol in, f out: the part of the next move that the base leaves, in standard deviations of it. f is 0 before a fit."""

    frequencies: Tensor
    band: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed_odd = weight(sizes.n_odd, sizes.width, gain=EMBED_GAIN)
        self.embed_even = weight(sizes.n_even, sizes.width, gain=EMBED_GAIN)
        self.embed_bias = nn.Parameter(torch.zeros(sizes.width))
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.head = nn.Parameter(torch.zeros(2, sizes.width))
        self.register_buffer("frequencies", rope_frequencies(sizes), persistent=False)
        self.register_buffer("band", banded_mask(sizes.window), persistent=False)

    def forward(self, tokens: Tensor, place: Tensor, real: Tensor) -> Tensor:
        """The two parts of f, [2, B, L - layers * W] (odd, even), whose sum is f.

        tokens [B, L, n_odd + n_even], place float64[B, L] in steps of the clock, real bool[B, L] (False: padding). L a multiple of W.
        """
        w = self.sizes.window
        odd, even = tokens.split([self.sizes.n_odd, self.sizes.n_even], dim=-1)
        x = torch.stack([odd @ self.embed_odd, even @ self.embed_even + self.embed_bias])
        angle = (place[..., None] * self.frequencies)[:, :, None]
        turn = torch.stack([angle.cos(), angle.sin()]).to(x.dtype)
        seen = real.unflatten(1, (-1, w))
        seen = torch.cat([seen[:, :-1], seen[:, 1:]], dim=2)[:, None, :, None, :]
        # A padded query sees itself, so that no softmax is over nothing; no real token sees padding.
        itself = torch.eye(2 * w, dtype=torch.bool, device=x.device)[w:]
        mask = (self.band & seen) | itself
        for layer in self.layers:
            x = layer(x, turn, mask)
            turn, mask = turn[:, :, w:], mask[:, :, 1:]
        return torch.einsum("sbld,sd->sbl", x, self.head)

    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters as the kernel takes them: one array a name, layers stacked, keys and values apart."""
        sizes = self.sizes

        def stacked(name: str) -> np.ndarray:
            return np.stack([getattr(layer, name).detach().cpu().float().numpy() for layer in self.layers])

        key, value = np.split(stacked("key_value").reshape(sizes.layers, 2, sizes.width, sizes.heads, -1), 2, axis=-1)
        square = (sizes.layers, 2, sizes.width, sizes.width)
        outer = {name: getattr(self, name).detach().cpu().float().numpy() for name in ("embed_odd", "embed_even", "embed_bias", "head")}
        inner = {theirs: stacked(ours) for ours, theirs in INNER.items()}
        return outer | inner | {"key": key.reshape(square), "value": value.reshape(square)}


# Names of a layer's parameters here and in the kernel.
INNER = {
    "gain_attention": "gain_attention",
    "query": "query",
    "attention_out": "attention_out",
    "gain_feed": "gain_feed",
    "gate": "feed_gate",
    "value": "feed_value",
    "partner": "feed_partner",
    "odd_out": "odd_out",
    "even_out": "even_out",
}


def normed(x: Tensor, gain: Tensor) -> Tensor:
    """Soft root-mean-square norm of both streams together, x / sqrt(1 + mean x^2); gain [2, D].

    With a tiny constant in place of the 1 (Zhang, Sennrich 2019) a vector's length would not matter and no penalty on inputs would bite.
    """
    return x * torch.rsqrt(x.square().mean(dim=(0, 3), keepdim=True) + 1.0) * gain[:, None, None]


def mixed(x: Tensor, matrix: Tensor) -> Tensor:
    """[2, B, L, D] times [2, D, E], a stream at a time."""
    return torch.bmm(x.flatten(1, 2), matrix).unflatten(1, x.shape[1:3])


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary position: [2, B, L, heads, 2P] turned by [2, B, L, 1, P]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = turn
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
