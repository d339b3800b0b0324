"""How near our models come to PyTorch's float64, by the precision in which they compute.

In float32 a difference is rounding or an error. In float64 there is little rounding, so that the
same test tells them apart: what agrees there is the same equation at any size. The fixture
``precision`` of conftest.py runs a test in both.
"""

from __future__ import annotations

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}
