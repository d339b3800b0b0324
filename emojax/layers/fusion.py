"""Joint cross-modal attention over any number of streams (RJCMA, arXiv:2403.13659).

The paper writes X_m as (d_m, K) matrices; here X_m is (B, T, d_m), so its X W (mixing time)
is an einsum over T. Windows shorter than K use the upper left corner of the K x K weights,
which equals padding them to K.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from emojax.layers.dropout import Dropout
from emojax.ops.masking import zero_where_padded
from emojax.types import Array

# PyTorch's nn.Linear draws from U(-1, 1) / sqrt(fan_in).
_torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class _Affine(nn.Module):
    """The parameters of an ``nn.Dense`` of as many outputs as inputs, without applying them."""

    @nn.compact
    def __call__(self, width: int) -> tuple[Array, Array]:
        """Returns "kernel" (D, D) and "bias" (D,), float32."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (width, width))
        return kernel, self.param("bias", nn.initializers.zeros_init(), (width,))


class Correlation(nn.Module):
    """Computes C_m of eq. 2-4 in a module, which has no parameters.

    Its name makes C_m known, so that it can be looked at (``emojax analyse attention``). Entries
    are in [-1, 1] and do not sum to one.
    """

    @nn.compact
    def __call__(self, x_BTM: Array, key_BUM: Array) -> Array:
        """Returns tanh(x key^T), (B, T, U): frame t of one stream against frame u of all."""
        return jnp.tanh(jnp.einsum("btm,bum->btu", x_BTM, key_BUM))


class JointCrossAttention(nn.Module):
    """One recursion of the paper (section 3.4, eq. 1-10).

        J   = FC([X_1; ...; X_S])                          (d, K),  d = sum of d_m
        C_m = tanh(X_m^T W_j,m J / sqrt(d))                (K, K)
        H_m = ReLU(X_m W_c,m C_m)                          (d_m, K)
        X_m <- X_m + H_m W_h,m                             (d_m, K)

    Ours: W_c = raw / K with raw ~ N(0, 1), and W_h = raw / sqrt(K) with raw = 0, so a fresh
    block is exactly the identity. As printed, with common initialisers, features reach an
    rms of hundreds. The scale is part of the parametrisation because Adam moves every
    entry by the learning rate whatever its size; L2 acts on the weights as printed (see
    ``layers.scaling``). Dropout on H_m is ours.

    Attributes:
        window: K, the longest window.
        dropout: rate on H_m.
        dtype: the dtype of the computation; parameters stay float32.
    """

    window: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Mapping[str, Array], mask_BT: Array, *, train: bool
    ) -> dict[str, Array]:
        """Attends every stream to the joint representation of all of them.

        Args:
            features: stream -> X_m, (B, T, d_m), T <= K, zero on padding. The order of the
                mapping is the order of concatenation.
            mask_BT: bool, False on padding. The output is zero there, and real frames do
                not depend on it: J's bias and the K x K weights would leak otherwise.
            train: True if dropout acts (needs a "dropout" key).

        Returns:
            stream -> attended features, (B, T, d_m).
        """
        steps = mask_BT.shape[1]
        widths = [x_BTM.shape[-1] for x_BTM in features.values()]
        width = sum(widths)
        w_joint_DD, b_joint_D = _Affine(name="joint")(width)
        w_j_DM = jnp.concatenate(
            [
                self.param(f"w_j_{name}", nn.initializers.lecun_normal(), (modality, width))
                for name, modality in zip(features, widths, strict=True)
            ]
        ).T
        # The paper's W_j,m J of all streams at once. J appears nowhere else, so its weights are
        # multiplied first, which takes d rows instead of B T; the (K, K) products then contract
        # d_m, not d, terms.
        w_key_DM = (w_joint_DD @ w_j_DM / math.sqrt(width)).astype(self.dtype)
        b_key_M = (b_joint_D @ w_j_DM / math.sqrt(width)).astype(self.dtype)
        key_BTM = jnp.concatenate(list(features.values()), axis=-1) @ w_key_DM
        keys = jnp.split(key_BTM + b_key_M[None, None, :], np.cumsum(widths)[:-1], axis=-1)

        attended = {}
        # Streams stay (B, T, d_m): products over T that need no transposed copies.
        for (name, x_BTM), key_BTM in zip(features.items(), keys, strict=True):
            w_c_TT = self._time_weight(f"w_c_{name}", nn.initializers.normal(1.0))
            w_h_TT = self._time_weight(f"w_h_{name}", nn.initializers.zeros_init())
            c_BTU = Correlation(name=f"correlation_{name}")(x_BTM, key_BTM)
            mixed_BTM = jnp.einsum("bsm,st->btm", x_BTM, w_c_TT[:steps, :steps])
            map_BTM = nn.relu(jnp.einsum("btu,btm->bum", c_BTU, mixed_BTM))
            h_BTM = Dropout(self.dropout)(zero_where_padded(map_BTM, mask_BT), train=train)
            update_BTM = jnp.einsum("bsm,st->btm", h_BTM, w_h_TT[:steps, :steps])
            attended[name] = zero_where_padded(x_BTM + update_BTM, mask_BT)
        return attended

    def scale_of(self, name: str) -> float:
        """Returns by how much a parameter is stored larger than it acts (``layers.scaling``)."""
        scales = {"w_c": float(self.window), "w_h": math.sqrt(self.window)}
        return scales.get(name[:3], 1.0)

    def _time_weight(self, name: str, init: Any) -> Array:
        """Makes a K x K weight, stored larger than it acts."""
        raw = self.param(name, init, (self.window, self.window))
        return (raw / self.scale_of(name)).astype(self.dtype)


class UpstreamCrossAttention(nn.Module):
    """One recursion as in the authors' public code, which differs from the paper.

        J     = [X_1; ...; X_S]                            plain concatenation, (d, K)
        Q_m   = X_m W_k,m + b_k,m                          a Linear over time, (d_m, K)
        S_m   = dropout(tanh(Q_m J^T / sqrt(d)))           channel by channel, (d_m, d)
        A_m   = ReLU(tanh(S_m^T (V_m X_m + v_m)))          (d, K)
        X_m <- X_m + dropout(ReLU(U_m A_m + u_m))          (d_m, K)

    The public code also holds a W_j that it never applies; it is left out.

    Attributes:
        window: K, the longest window.
        dropout: rate on S_m and on the update (0.6 in the public code).
        dtype: the dtype of the computation; parameters stay float32.
    """

    window: int
    dropout: float = 0.6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Mapping[str, Array], mask_BT: Array, *, train: bool
    ) -> dict[str, Array]:
        """Attends like ``JointCrossAttention.__call__``, with its arguments, shapes and mask."""
        steps = mask_BT.shape[1]
        joint_BTD = jnp.concatenate(list(features.values()), axis=-1)
        width = joint_BTD.shape[-1]

        attended = {}
        for name, x_BTM in features.items():
            modality = x_BTM.shape[-1]
            w_k_TT = self.param(f"w_k_{name}", _torch_linear, (self.window, self.window))
            b_k_T = self.param(f"b_k_{name}", nn.initializers.zeros_init(), (self.window,))
            w_k_TT, b_k_T = w_k_TT.astype(self.dtype), b_k_T.astype(self.dtype)

            query_BTM = jnp.einsum("bum,ut->btm", x_BTM, w_k_TT[:steps, :steps])
            query_BTM = query_BTM + b_k_T[None, :steps, None]
            product_BMD = jnp.einsum("btm,btd->bmd", query_BTM, joint_BTD) / math.sqrt(width)
            scores_BMD = Dropout(self.dropout)(jnp.tanh(product_BMD), train=train)

            value_BTM = nn.Dense(
                modality, kernel_init=_torch_linear, dtype=self.dtype, name=f"value_{name}"
            )(x_BTM)
            map_BTD = nn.relu(jnp.tanh(jnp.einsum("btm,bmd->btd", value_BTM, scores_BMD)))
            update_BTM = nn.Dense(
                modality, kernel_init=_torch_linear, dtype=self.dtype, name=f"update_{name}"
            )(map_BTD)
            update_BTM = Dropout(self.dropout)(nn.relu(update_BTM), train=train)
            attended[name] = zero_where_padded(x_BTM + update_BTM, mask_BT)
        return attended
