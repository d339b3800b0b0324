"""Differences between a configuration and the paper of its system.

Each file in ``configs/`` lists them once, under ``DIFFERENCES``:

    DIFFERENCES = (
        Difference("The width of the encoders, h, is ours.", "section 3.1", Kind.OURS),
        Difference(
            "Equation 4 prints one pair of weights; here each stream has its own.",
            "eq. 4",
            Kind.CONTRADICTS,
            when={"model.fusion": "attention", "model.shared": False},
        ),
        stated("train.learning_rate", 0.02, "section 4.2"),
    )

A difference holds if all its conditions do, so that an overridden value adds or removes it.
``emojax.reporting.paper_differences`` finds the list of a run.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Any


class Kind(enum.StrEnum):
    """The kind of a difference."""

    OURS = "ours"  # the paper does not say
    DIFFERS = "differs"  # the paper says something else
    CONTRADICTS = "the paper contradicts itself"
    CODE = "as the code, not the paper"  # the authors' code and paper disagree


@dataclasses.dataclass(frozen=True)
class Condition:
    """A condition on the value of a key; made by the functions below.

    Attributes:
        kind: "one_of", "all_of", "other_than" or "without".
        values: the values that it is about.
    """

    kind: str
    values: tuple[Any, ...]

    def holds(self, found: Any) -> bool:
        """Tells whether a value satisfies the condition; None for a key that is not there."""
        if self.kind == "other_than":
            if found is None:
                return False
            whole = any(isinstance(value, list | tuple) for value in self.values)
            items = found if isinstance(found, list | tuple) and not whole else [found]
            return any(not self._any(item) for item in items)
        if self.kind == "all_of":
            return all(_equals(found, value) for value in self.values)
        return self._any(found) == (self.kind == "one_of")

    def _any(self, found: Any) -> bool:
        return any(_equals(found, value) for value in self.values)


def one_of(*values: Any) -> Condition:
    """Holds for each of these values, and for a list that contains one of them.

    A value that is a list or tuple is compared with the whole list.
    """
    return Condition("one_of", values)


def all_of(*values: Any) -> Condition:
    """Holds for a list that contains all of these values."""
    return Condition("all_of", values)


def other_than(*values: Any) -> Condition:
    """Holds for every other value, and for a list that contains another value.

    It does not hold if the key is not there. A value that is a list or tuple is compared with the
    whole list.
    """
    return Condition("other_than", values)


def without(*values: Any) -> Condition:
    """Holds for a list that contains none of these values, and if the key is not there."""
    return Condition("without", values)


def _equals(found: Any, value: Any) -> bool:
    if isinstance(found, list | tuple):
        if isinstance(value, list | tuple):
            return list(found) == list(value)
        return any(_equals(item, value) for item in found)
    return isinstance(found, bool) == isinstance(value, bool) and found == value


@dataclasses.dataclass(frozen=True)
class Difference:
    """One difference between a system and its paper.

    Attributes:
        text: a sentence or two: what the paper says, and what is done here.
        where: the paper's section, equation or table.
        kind: whose choice it is.
        when: dotted key, such as "model.fusion", -> the value it must have, or a condition made by
            ``one_of``, ``all_of``, ``other_than`` or ``without``. A bare value is ``one_of`` that
            value. Empty for a difference that always holds.
    """

    text: str
    where: str
    kind: Kind
    when: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Tells whether the difference holds for a configuration, dotted key -> value."""
        return all(
            (wanted if isinstance(wanted, Condition) else one_of(wanted)).holds(find(values, key))
            for key, wanted in self.when.items()
        )


def stated(key: str, value: Any, where: str, note: str = "") -> Difference:
    """Makes the difference of a key that has another value than the paper states.

    Args:
        key: dotted, such as "train.learning_rate".
        value: the paper's value; a tuple for a list, which is compared as a whole.
        where: where the paper states it.
        note: a sentence to add, such as a reason.
    """
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    text = f"The paper has {key} = {shown}." + (f" {note}" if note else "")
    return Difference(text, where, Kind.DIFFERS, {key: other_than(value)})


def find(values: Mapping[str, Any], key: str) -> Any:
    """Returns the value of a dotted key in a nested mapping; None if it is not there."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def holding(differences: Iterable[Difference], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lists the differences that hold for a configuration, as JSON has them.

    Args:
        differences: a file's ``DIFFERENCES``.
        values: the nested configuration, of plain types.

    Returns:
        For each that holds: "text", "where", "kind", and "because", the values of the keys in its
        conditions.
    """
    return [
        {
            "text": difference.text,
            "where": difference.where,
            "kind": str(difference.kind),
            "because": {key: find(values, key) for key in difference.when},
        }
        for difference in differences
        if difference.holds(values)
    ]
