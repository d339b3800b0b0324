"""A configuration file that reads JSON: ``--config=.../json_config.py:FILE``."""

from __future__ import annotations

import json
from pathlib import Path

from ml_collections import ConfigDict


def get_config(file: str) -> ConfigDict:
    """Returns the configuration in a JSON file."""
    return ConfigDict(json.loads(Path(file).read_text(encoding="utf-8")))
