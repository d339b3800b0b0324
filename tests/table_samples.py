"""Tables that a test writes, and their import."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.features.feature_sources import FeatureRows, FeatureSource, VideoFrames, parse_features

FPS = 25.0


def frames(name: str, count: int) -> VideoFrames:
    return VideoFrames(name, name, np.arange(count) / FPS, np.ones(count, bool))


def source(path: Path, options: str = "") -> FeatureSource:
    return parse_features([f"x={path},modality=visual{options}"])[0]


def rows(path: Path, options: str = "", name: str = "v", count: int = 8) -> FeatureRows:
    found = source(path, options).rows(frames(name, count))
    assert found is not None
    return found


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path
