from __future__ import annotations

import numpy as np

from engines.headbox import head_box, skull_box


def scene() -> np.ndarray:
    y, x = np.mgrid[:200, :160]
    image = np.full((200, 160), -1000, np.int16)
    head = np.hypot((y - 80) / 60, (x - 70) / 50)
    image[head < 1] = 30
    image[(head > 0.8) & (head < 0.95)] = 900
    image[185:188] = 100  # a table: thin, from edge to edge
    return np.stack([image] * 3)


def test_the_head_is_boxed_without_the_table() -> None:
    rows, columns = head_box(scene())
    assert 10 <= rows.start <= 22
    assert 138 <= rows.stop <= 150
    assert 10 <= columns.start <= 22
    assert 118 <= columns.stop <= 130


def test_the_skull_is_boxed_without_the_skin() -> None:
    rows, columns = skull_box(scene()) or (slice(0), slice(0))
    assert 15 <= rows.start <= 26
    assert 134 <= rows.stop <= 146
    assert 15 <= columns.start <= 30


def test_without_bone_there_is_no_skull_and_without_anything_the_head_is_everywhere() -> None:
    water = np.clip(scene(), -1000, 40)
    assert skull_box(water) is None
    air = np.full((2, 50, 60), -1000, np.int16)
    assert head_box(air) == (slice(0, 50), slice(0, 60))
    assert head_box(air[:, :5, :5]) == (slice(0, 5), slice(0, 5))
