"""A configuration file for commands: ``--config=.../json_config.py:FILE`` reads it from JSON."""

from __future__ import annotations

import json
from pathlib import Path

from ml_collections import ConfigDict


def get_config(file: str) -> ConfigDict:
    """The configuration that a JSON file holds."""
    return ConfigDict(json.loads(Path(file).read_text(encoding="utf-8")))
