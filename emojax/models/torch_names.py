"""Finds the places of a public PyTorch model's tensors by the name maps of ``torch_layouts``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from emojax.errors import InputError
from emojax.models.torch_layouts import LAYOUTS, MODALITIES, TRANSFORMS, Rule, TorchLayout

_HOLES = {
    "modal": r"(?P<modal>\w+)", "i": r"(?P<i>\d+)", "n": r"(?P<n>[1-9]\d*)",
    "k": r"(?P<k>\d+)", "any": r".+",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TorchWeights:
    """A state dict under the names of this house.

    Attributes:
        arrays: path -> float32 array.
        taken: name there -> paths here; a tensor that is split has several.
        missing: paths that the state dict does not fill.
        unused: name there -> why it has no place here.
    """

    arrays: dict[str, np.ndarray]
    taken: dict[str, tuple[str, ...]]
    missing: tuple[str, ...]
    unused: dict[str, str]


def find_modalities(names: Sequence[str], streams: Sequence[str]) -> dict[str, str]:
    """Finds the names of streams in a state dict: modality there -> stream here, in streams' order.

    A stream's own name counts before those of ``MODALITIES``, and no modality counts twice.

    Args:
        names: the names of the tensors.
        streams: in the order in which the model was given its modalities.

    Raises:
        InputError: a stream has no temporal encoder there.
    """
    found = re.findall(r"^(?:module\.)?temporal\.(\w+)\.", "\n".join(names), re.MULTILINE)
    present = list(dict.fromkeys(found))
    modalities: dict[str, str] = {}
    for stream in streams:
        free = [modal for modal in present if modal == stream or modal not in streams]
        wanted = (stream, *MODALITIES.get(stream, ()))
        match = [modal for modal in wanted if modal in free and modal not in modalities]
        if not match:
            raise InputError(
                f"The state dict has no modality for stream {stream!r}.",
                field="temporal.<modal>",
                found=", ".join(present) or "no temporal encoders",
                expected=" or ".join(wanted),
                remedy="name the modalities, in the order of config.data.streams: "
                "--modalities=video,logmel,bert",
            )
        modalities[match[0]] = stream
    return modalities


def load_torch_names(
    layout: str,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    modalities: Mapping[str, str],
    head: str,
    column: int = 0,
) -> TorchWeights:
    """Finds a place for every tensor of a state dict.

    Args:
        layout: a key of ``LAYOUTS``.
        tensors: name -> array, as PyTorch keeps it.
        shapes: path -> shape of every parameter and running statistic of the model, paths
            beginning with the collection ("params/encoder_ir50/block_0/conv_0/bias").
        modalities: modality there -> stream here, in the order the model was given them.
        head: the head that the public model's only head becomes ("head_va_valence").
        column: which column of ``head`` it becomes if that has more than the state dict's.

    Returns:
        What went where. Paths that are missing have no array.

    Raises:
        InputError: a tensor has no place in this model or not its shape, or two tensors that
            are one in the public model differ.
    """
    arrays: dict[str, np.ndarray] = {}
    taken: dict[str, tuple[str, ...]] = {}
    unused: dict[str, str] = {}
    later: list[tuple[str, np.ndarray]] = []
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix("module.")
        places = _places(LAYOUTS[layout], name, modalities, head)
        if not places:
            unused[full_name] = _why_unused(LAYOUTS[layout], name)
            continue
        for rule, path in places:
            if path not in shapes:
                raise InputError(
                    "The public model has a part that this one does not have.",
                    field=full_name,
                    found=f"{tensor.shape}",
                    expected=f"a model with {path}",
                    remedy="give the configuration the layers, recursions and streams of "
                    "the model that was saved",
                )
            array = _fit(full_name, tensor, rule, shapes[path], path, column)
            if rule.subtract:
                later.append((path, array))
            elif path in arrays and not np.array_equal(arrays[path], array):
                twin = next(known for known, where in taken.items() if path in where)
                raise InputError(
                    "Two tensors that are one in the public model differ.",
                    field=full_name,
                    found=f"other numbers than in {twin}",
                    expected="the same numbers",
                )
            else:
                arrays[path] = array
        taken[full_name] = tuple(path for _, path in places)
    for path, array in later:
        if path in arrays:
            arrays[path] = arrays[path] - array
    missing = tuple(path for path in shapes if path not in arrays)
    return TorchWeights(arrays, taken, missing, unused)


def _places(
    layout: TorchLayout, name: str, modalities: Mapping[str, str], head: str
) -> list[tuple[Rule, str]]:
    """Returns the rules that a name belongs to, each with the path it leads to."""
    streams = list(modalities.values())
    places = []
    for rule in layout.rules:
        for pattern in rule.names:
            match = re.fullmatch(_regex(pattern), name)
            if match is None:
                continue
            holes = match.groupdict()
            number = int(holes["n"]) - 1 if "n" in holes else int(holes.get("k", 0))
            stream = streams[number] if number < len(streams) else "(none)"
            if "modal" in holes:
                stream = modalities.get(holes["modal"], "(none)")
            path = rule.path.format(stream=stream, i=holes.get("i", ""), head=head)
            places.append((rule, path))
    return places


def _regex(pattern: str) -> str:
    """Turns a name with holes into a regular expression."""
    parts = re.split(r"<(\w+)>", pattern)
    return "".join(_HOLES[part] if i % 2 else re.escape(part) for i, part in enumerate(parts))


def _why_unused(layout: TorchLayout, name: str) -> str:
    for pattern, reason in layout.unused.items():
        if re.fullmatch(_regex(pattern), name):
            return reason
    return "not known"


def _fit(
    name: str, tensor: np.ndarray, rule: Rule, shape: tuple[int, ...], path: str, column: int
) -> np.ndarray:
    """Converts the tensor to the form of its place."""
    try:
        array: np.ndarray = np.asarray(TRANSFORMS[rule.transform](tensor), np.float32)
    except (ValueError, IndexError):
        array = np.zeros((0,), np.float32)
    in_column = (*shape[:-1], 1)
    if "{head}/output" in rule.path and array.shape == in_column and shape[-1] > 1:
        whole = np.zeros(shape, np.float32)
        whole[..., column] = array[..., 0]
        array = whole
    if array.shape != shape:
        raise InputError(
            "A tensor does not have the shape of its place in the model.",
            field=name,
            found=f"{tensor.shape}",
            expected=f"what becomes {shape} ({rule.transform}), as {path}",
            remedy="give the configuration the widths, kernel size, window and streams (in "
            "this order) of the model that was saved",
        )
    return array
