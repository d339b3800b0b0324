"""Checks of every model while it is traced: its fields, and streams that do not fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import flax.errors

from emojax.errors import InputError, closest
from emojax.types import Array


def check_choice(model: str, field: str, value: object, choices: Iterable[str]) -> None:
    """Refuses a name that is not in a table, with the closest that is.

    Args:
        model: name of the model, for the message.
        field: the field of the model.
        value: the value of the field.
        choices: the values that it may have.

    Raises:
        InputError: ``value`` is none of ``choices``.
    """
    known = list(choices)
    if value not in known:
        raise InputError(
            f"{model} cannot be built with this value.",
            field=f"model.{field}",
            found=value,
            expected="one of " + ", ".join(known),
            remedy=closest(value, known) or f"give one of them as --config.model.{field}",
        )


def check_range(model: str, field: str, value: object, good: bool, expected: str) -> None:
    """Raises InputError that names the field unless ``good``."""
    if not good:
        raise InputError(
            f"{model} cannot be built with this value.",
            field=f"model.{field}",
            found=value,
            expected=expected,
        )


def check_rates(model: str, **rates: float | None) -> None:
    """Refuses dropout rates outside [0, 1); None is a rate left to its default."""
    for field, rate in rates.items():
        if rate is not None:
            check_range(model, field, rate, 0 <= rate < 1, "0 <= rate < 1")


def check_channels(
    model: str,
    streams: Sequence[str],
    channels: Mapping[str, Sequence[int]],
    field: str = "channels",
    *,
    least: int = 1,
) -> None:
    """Refuses widths that are missing for a stream, or are none.

    Args:
        model: name of the model, for the message.
        streams: those that need an entry; ``channels`` may know more.
        channels: stream -> width of each layer.
        field: the field of the model that holds ``channels``.
        least: layers that a stream needs; 0 allows ().

    Raises:
        InputError: a stream has no entry, fewer layers, or a width below 1.
    """
    for name in streams:
        widths = channels.get(name)
        good = widths is not None and len(widths) >= least and all(w >= 1 for w in widths)
        if not good:
            raise InputError(
                f"{model} cannot be built with this value.",
                field=f"model.{field}.{name}",
                found="nothing" if widths is None else widths,
                expected="a width of at least 1 for each layer",
                remedy=f"give them as --config.model.{field}.{name}='(64, 64)', or for all streams "
                f"without widths of their own as --config.model.{field}.default",
            )


def check_outputs(model: str, streams: Sequence[str], outputs: Mapping[str, int]) -> None:
    """Raises InputError unless the model has a stream to read and an output to predict."""
    if not streams or not outputs:
        raise InputError(
            f"{model} needs at least one stream and one task.",
            field="model.streams" if not streams else "model.outputs",
            found="none",
        )


def check_streams(
    model: str, names: Sequence[str], streams: Mapping[str, Array], masks: Mapping[str, Array]
) -> None:
    """Refuses a batch that does not hold exactly these streams in the right form.

    Args:
        model: name of the model, for the message.
        names: the streams the model is for.
        streams: stream -> (B, T_s, D_s); T_s may differ between streams.
        masks: stream -> (B, T_s).

    Raises:
        InputError: names or shapes do not fit.
    """
    for role, given in (("streams", streams), ("masks", masks)):
        if set(given) != set(names):
            raise InputError(
                f"The {role} of the batch are not those of {model}.",
                field=", ".join(sorted(set(given) ^ set(names))),
                found=", ".join(sorted(given)),
                expected=", ".join(sorted(names)),
                remedy="make config.data.streams the streams that the data pipeline yields",
            )
    for name in names:
        x_BTD, mask_BT = streams[name], masks[name]
        if x_BTD.ndim != 3 or mask_BT.shape != x_BTD.shape[:2]:
            raise InputError(
                f"{model} needs features and mask of a stream to have the same frames.",
                field=name,
                found=f"features {x_BTD.shape}, mask {mask_BT.shape}",
                expected="features (B, T, D), mask (B, T)",
            )


def frame_mask(
    model: str,
    names: Sequence[str],
    streams: Mapping[str, Array],
    masks: Mapping[str, Array],
    window: int | None = None,
) -> Array:
    """Returns the frames that are real in every stream, after ``check_streams``.

    Args:
        model: name of the model, for the message.
        names: the streams the model is for.
        streams: stream -> (B, T, D_s), all with one row per frame.
        masks: stream -> (B, T) bool, False on padding.
        window: the longest T the model can take; None for any.

    Returns:
        (B, T) bool, True where every stream has a real frame.

    Raises:
        InputError: names or shapes do not fit, or T exceeds ``window``.
    """
    check_streams(model, names, streams, masks)
    shape_BT = streams[names[0]].shape[:2]
    for name in names:
        if streams[name].shape[:2] != shape_BT:
            raise InputError(
                f"{model} reads streams frame by frame, so all need the same frames.",
                field=name,
                found=f"features {streams[name].shape}, mask {masks[name].shape}",
                expected=f"features {(*shape_BT, 'D')}, mask {shape_BT}",
                remedy="resample every stream to the video's frames",
            )
    if window is not None and shape_BT[1] > window:
        raise InputError(
            f"The window is longer than {model} was built for.",
            field="model.window",
            found=f"a window of {shape_BT[1]} frames",
            expected=f"at most K = {window} frames",
            remedy=f"set config.data.window={shape_BT[1]} and train, or cut the data's window "
            f"to {window}",
        )
    mask_BT = masks[names[0]].astype(bool)
    for name in names[1:]:
        mask_BT = mask_BT & masks[name].astype(bool)
    return mask_BT


@contextlib.contextmanager
def stream_widths(streams: Mapping[str, Array]) -> Iterator[None]:
    """Tells a user whose streams do not fit the parameters which stream that is."""
    try:
        yield
    except flax.errors.ScopeParamShapeError as error:
        widths = {name: x_BTD.shape[-1] for name, x_BTD in streams.items()}
        raise InputError(
            "The streams do not have the widths that the parameters were made for.",
            field=", ".join(widths),
            found=", ".join(f"{name} of width {width}" for name, width in widths.items()),
            expected=f"the widths and model fields of training ({error})",
            remedy="use the feature files and the configuration the parameters came from",
        ) from error
