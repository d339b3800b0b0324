"""Folds: the official split, and blocks that never split a source video."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.datasets.folds import Fold, official_and_blocks
from emojax.errors import InputError

Video = tuple[str, str, str]


@st.composite
def video_lists(draw: st.DrawFn) -> tuple[list[Video], int]:
    k = draw(st.integers(1, 6))
    partitions = st.sampled_from(["train", "validation", "test"])
    sources = draw(st.lists(st.tuples(partitions, st.integers(1, 3)), max_size=20))
    sources += [("train", 1)] * (k - 1)
    videos = [
        (f"{i}_{person}", str(i), partition)
        for i, (partition, persons) in enumerate(sources)
        for person in range(persons)
    ]
    return draw(st.permutations(videos)), k


def named(videos: list[Video], partition: str) -> tuple[str, ...]:
    return tuple(name for name, _, part in videos if part == partition)


@settings(max_examples=200)
@given(video_lists(), st.integers(0, 5))
def test_blocks_partition_the_training_videos(given_: tuple[list[Video], int], seed: int) -> None:
    videos, k = given_
    folds = official_and_blocks(videos, k, seed)
    train, validation, test = (named(videos, part) for part in ("train", "validation", "test"))
    assert folds[0] == Fold("0", train, validation, test)
    assert [fold.name for fold in folds] == [str(i) for i in range(k)]
    source_of = {name: source for name, source, _ in videos}
    for fold in folds[1:]:
        assert set(fold.train) | set(fold.validation) == {*train, *validation}
        assert not set(fold.train) & set(fold.validation)
        train_sources = {source_of[name] for name in fold.train}
        assert not train_sources & {source_of[name] for name in fold.validation}
        assert fold.test == test
        assert fold.validation
    if k > 1:
        held = [name for fold in folds[1:] for name in fold.validation]
        assert sorted(held) == sorted(train)


@settings(max_examples=100)
@given(video_lists(), st.integers(0, 5), st.randoms())
def test_order_of_the_videos_does_not_matter(
    given_: tuple[list[Video], int], seed: int, random: object
) -> None:
    videos, k = given_
    other = list(videos)
    random.shuffle(other)  # type: ignore[attr-defined]
    for a, b in zip(
        official_and_blocks(videos, k, seed), official_and_blocks(other, k, seed), strict=True
    ):
        assert set(a.train) == set(b.train)
        assert set(a.validation) == set(b.validation)


def test_blocks_are_even_and_drawn_from_the_seed() -> None:
    videos = [(f"{i}_{p}", str(i), "train") for i in range(100) for p in range(1 + i % 2)]
    videos += [(f"v{i}", f"v{i}", "validation") for i in range(20)]
    folds = official_and_blocks(videos, 6, 0)
    sizes = [len(fold.validation) for fold in folds[1:]]
    assert sizes == [30] * 5
    assert official_and_blocks(videos, 6, 0) == folds
    assert official_and_blocks(videos, 6, 1) != folds
    assert [len(fold.train) for fold in folds] == [150] + [150 - 30 + 20] * 5


def test_validation_person_of_a_held_source_is_left_out() -> None:
    videos = [
        ("a_left", "a", "train"),
        ("a_right", "a", "validation"),
        ("b", "b", "train"),
        ("c", "c", "validation"),
    ]
    folds = official_and_blocks(videos, 3, 0)
    held_a = next(fold for fold in folds[1:] if fold.validation == ("a_left",))
    assert held_a.train == ("b", "c")
    held_b = next(fold for fold in folds[1:] if fold.validation == ("b",))
    assert held_b.train == ("a_left", "a_right", "c")


@pytest.mark.parametrize("k", [0, -1, 4])
def test_impossible_numbers_of_folds(k: int) -> None:
    videos = [("a_left", "a", "train"), ("a_right", "a", "train"), ("b", "b", "train")]
    with pytest.raises(InputError) as caught:
        official_and_blocks(videos, k)
    assert caught.value.details["field"] == "k"
