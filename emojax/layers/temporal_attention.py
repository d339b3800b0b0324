"""Fusing sequences of several rates around anchors, as EMMA-Net and its ablations do it.

An anchor is one tick of the window with its own feature, before any temporal encoder. Every
modality brings an encoded sequence whose rows span ``ticks`` ticks each. A fusion turns both
into one vector z for each anchor.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from emojax.layers.attention import AttentionWeights
from emojax.ops.masking import summing_dtype
from emojax.types import Array


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One modality's encoded rows, as the anchors see them.

    Attributes:
        rows_BSH: encoded rows, zero on padding.
        mask_BS: bool, False on padding.
        ticks: ticks of the window in each row, so T = S * ticks.
        causal: an anchor sees only rows that end at its tick or before.
    """

    rows_BSH: Array
    mask_BS: Array
    ticks: int
    causal: bool

    def visible(self) -> np.ndarray:
        """Returns (T, S) bool, True if the anchor at tick t may see row s."""
        rows = self.mask_BS.shape[1]
        last_S = (np.arange(rows) + 1) * self.ticks - 1
        if not self.causal:
            return np.ones((rows * self.ticks, rows), bool)
        return last_S[None] <= np.arange(rows * self.ticks)[:, None]

    def distance(self) -> np.ndarray:
        """Returns (T, S) float32, the ticks from the anchor at tick t to the middle of row s."""
        rows = self.mask_BS.shape[1]
        middle_S = (np.arange(rows) + 0.5) * self.ticks - 0.5
        return np.abs(np.arange(rows * self.ticks)[:, None] - middle_S[None]).astype(np.float32)

    def at_anchors(self) -> Array:
        """Returns (B, T, H), each anchor's row: the row whose span holds its tick.

        If causal, the last row that has ended by then, and zeros where none has: the row that
        holds the tick is made from the ticks after it too.
        """
        return self._hold(self.rows_BSH)

    def real_at_anchors(self) -> Array:
        """Returns (B, T) bool, True if ``at_anchors`` is a real row."""
        return self._hold(self.mask_BS)

    def _hold(self, x_BS: Array) -> Array:
        held_BT = jnp.repeat(x_BS, self.ticks, axis=1)
        if not self.causal or self.ticks == 1:
            return held_BT
        late = self.ticks - 1
        before_BT = jnp.zeros_like(held_BT[:, :late])
        return jnp.concatenate([before_BT, held_BT[:, :-late]], axis=1)


def attend(scores_BTS: Array, sequence: Sequence, name: str) -> tuple[Array, Array]:
    """Returns the softmax over an anchor's rows and their weighted sum (eq. 4-5).

    Args:
        scores_BTS: finite numbers.
        sequence: the sequence to attend to.
        name: the name of the stream; its weights are those of the module "attention_<name>".

    Returns:
        context (B, T, H) and the float32 weights (B, T, S): exactly zero on padding and on
        what is not visible, and all zero (as is the context) for an anchor that sees nothing.
    """
    allowed_BTS = sequence.mask_BS[:, None, :] & jnp.asarray(sequence.visible())[None]
    weight_BTS = AttentionWeights(name=f"attention_{name}")(scores_BTS, allowed_BTS)
    rows_BSH = sequence.rows_BSH
    return jnp.einsum("bts,bsh->bth", weight_BTS.astype(rows_BSH.dtype), rows_BSH), weight_BTS


class AttentionFusion(nn.Module):
    """z = [f_c; C_1; ...; C_M] with attention over each modality's rows (eq. 4-6).

    alpha_m = softmax over s of (H_m,s W_Q,m) . (f_c W_K,m) / sqrt(d_k) and C_m = sum over s of
    alpha_m,s H_m,s. The paper's names are kept: W_Q acts on the rows and W_K on the anchor,
    although it is the anchor that asks. Eq. 4 prints one pair of them, which is ``shared``.

    The softmax runs over the rows of one modality, whose weights therefore sum to 1. So the
    attention chooses rows, and cannot turn a modality down as a whole. Section 1 of the paper
    claims "attention weights that modulate the contribution of each modality in response to its
    perceived reliability"; of the fusions here only ``GatedFusion`` can.

    Attributes:
        features: d_k.
        shared: one W_Q and one W_K for all modalities, whose rows then need one width; else a
            pair for each.
        anchor_bias: adds a bias to f_c W_K, so that a row can be preferred whatever the
            anchor; ours, the paper has none.
        locality: lowers the score of a row by its distance from the anchor, in ticks, times a
            learned rate for each stream, which starts at 0 (as Press et al. 2022 do with fixed
            rates); ours. Without it rows are found by their content alone.
        dtype: the dtype of the computation; parameters and the softmax are float32.
    """

    features: int = 128
    shared: bool = False
    anchor_bias: bool = False
    locality: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, anchor_BTD: Array, sequences: Mapping[str, Sequence]) -> Array:
        """Fuses f_c (B, T, D), zero on padding, with the sequences; (B, T, D + sum of H)."""
        rows_of = functools.partial(nn.Dense, self.features, use_bias=False, dtype=self.dtype)
        anchor_of = functools.partial(
            nn.Dense, self.features, use_bias=self.anchor_bias, dtype=self.dtype
        )
        if self.shared:
            w_q, w_k = rows_of(name="w_q"), anchor_of(name="w_k")
        parts = [anchor_BTD]
        for name, sequence in sequences.items():
            if not self.shared:
                w_q, w_k = rows_of(name=f"w_q_{name}"), anchor_of(name=f"w_k_{name}")
            rows_BSK, anchor_BTK = w_q(sequence.rows_BSH), w_k(anchor_BTD)
            scores_BTS = jnp.einsum(
                "btk,bsk->bts", anchor_BTK, rows_BSK, preferred_element_type=summing_dtype(rows_BSK)
            )
            scores_BTS = scores_BTS / math.sqrt(self.features)
            if self.locality:
                rate = self.param(f"locality_{name}", nn.initializers.zeros, ())
                scores_BTS = scores_BTS - rate * jnp.asarray(sequence.distance())[None]
            context_BTH, weight_BTS = attend(scores_BTS, sequence, name)
            self.sow("intermediates", f"weights_{name}", weight_BTS)
            parts.append(context_BTH)
        return jnp.concatenate(parts, axis=-1)


class BilinearFusion(nn.Module):
    """z = [f_c; C], C = sum over m of softmax_s(f_c^T W_m H_m,s) H_m (eq. 11).

    All sequences need one width, because they are added. There is no scale, as in the paper.

    Attributes:
        dtype: the dtype of the computation; parameters and the softmax are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, anchor_BTD: Array, sequences: Mapping[str, Sequence]) -> Array:
        """Fuses f_c (B, T, D), zero on padding, with the sequences; (B, T, D + H)."""
        contexts = []
        for name, sequence in sequences.items():
            rows_BSH = sequence.rows_BSH
            asked_BTH = nn.Dense(
                rows_BSH.shape[-1], use_bias=False, dtype=self.dtype, name=f"w_{name}"
            )(anchor_BTD)
            scores_BTS = jnp.einsum(
                "bth,bsh->bts", asked_BTH, rows_BSH, preferred_element_type=summing_dtype(rows_BSH)
            )
            context_BTH, weight_BTS = attend(scores_BTS, sequence, name)
            self.sow("intermediates", f"weights_{name}", weight_BTS)
            contexts.append(context_BTH)
        return jnp.concatenate([anchor_BTD, sum(contexts[1:], contexts[0])], axis=-1)


class ConcatFusion(nn.Module):
    """z = [f_c; H_1; ...; H_M], the rows at the anchor (Table 2, "concat fusion")."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, anchor_BTD: Array, sequences: Mapping[str, Sequence]) -> Array:
        """Fuses f_c (B, T, D), zero on padding, with the sequences; (B, T, D + sum of H)."""
        rows = [sequence.at_anchors() for sequence in sequences.values()]
        return jnp.concatenate([anchor_BTD, *rows], axis=-1)


class AdditiveFusion(nn.Module):
    """z = [f_c; sum over m of a_m H_m at the anchor], learned scalars a (section 4.5).

    a is a softmax over the modalities, which starts at equal weights, so they stay positive
    and sum to one; ours. All sequences need one width.

    Attributes:
        dtype: the dtype of the computation; parameters are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, anchor_BTD: Array, sequences: Mapping[str, Sequence]) -> Array:
        """Fuses f_c (B, T, D), zero on padding, with the sequences; (B, T, D + H)."""
        logit_M = self.param("logits", nn.initializers.zeros, (len(sequences),))
        weight_M = nn.softmax(logit_M)
        self.sow("intermediates", "weights", weight_M)
        rows_MBTH = jnp.stack([sequence.at_anchors() for sequence in sequences.values()])
        sum_BTH = jnp.einsum("m,mbth->bth", weight_M.astype(self.dtype), rows_MBTH)
        return jnp.concatenate([anchor_BTD, sum_BTH], axis=-1)


class GatedFusion(nn.Module):
    """z = [f_c; g_1 * H_1; ...; g_M * H_M], sigmoid gates at the anchor (section 4.5).

    g_m = sigmoid(W_m [f_c; H_1; ...; H_M] + b_m), one number for each of a modality's H
    features: the paper says no more than "a sigmoid gate". That every gate sees all modalities
    is ours (after Arevalo et al. 2017): whether one can be trusted shows beside the others.

    Attributes:
        dtype: the dtype of the computation; parameters are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, anchor_BTD: Array, sequences: Mapping[str, Sequence]) -> Array:
        """Fuses f_c (B, T, D), zero on padding, with the sequences; (B, T, D + sum of H)."""
        rows = {name: sequence.at_anchors() for name, sequence in sequences.items()}
        all_BTZ = jnp.concatenate([anchor_BTD, *rows.values()], axis=-1)
        parts = [anchor_BTD]
        for name, row_BTH in rows.items():
            gate = nn.Dense(row_BTH.shape[-1], dtype=self.dtype, name=f"gate_{name}")
            gate_BTH = nn.sigmoid(gate(all_BTZ))
            self.sow("intermediates", f"gates_{name}", gate_BTH)
            parts.append(gate_BTH * row_BTH)
        return jnp.concatenate(parts, axis=-1)


class AnchorOnly(nn.Module):
    """z = f_c (Table 2, "current face")."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, anchor_BTD: Array, sequences: Mapping[str, Sequence]) -> Array:
        """Returns f_c (B, T, D) and ignores the sequences."""
        del sequences
        return anchor_BTD


class SequenceOnly(nn.Module):
    """z = [H_1; ...; H_M] at the anchor, without f_c (Table 2, "only video").

    Section 4.4 calls it "only video without face". That H may be of the face stream, and only the
    current face f_c is left out, is our reading.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, anchor_BTD: Array, sequences: Mapping[str, Sequence]) -> Array:
        """Returns the sequences' rows at the anchors, (B, T, sum of H)."""
        del anchor_BTD
        rows = [sequence.at_anchors() for sequence in sequences.values()]
        return jnp.concatenate(rows, axis=-1)
