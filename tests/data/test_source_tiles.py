"""Tiles of images of any size: whole small images, square tiles of large ones, all from inside them."""

from __future__ import annotations

import numpy as np
import pytest

from ddpm.base.geometry import Geometry
from ddpm.data.tiles import source_tiles
from ddpm.errors import InputError


def rows_of(image: np.ndarray, side: int) -> set[bytes]:
    """Every tile that an image has."""
    _, height, width = image.shape
    places = ((top, left) for top in range(height - side + 1) for left in range(width - side + 1))
    return {image[:, top : top + side, left : left + side].tobytes() for top, left in places}


def test_small_images_of_one_size_are_taken_whole(folder, noise):
    files = {f"{k}.png": noise(k, size=(20, 64)) for k in range(3)}
    images = source_tiles(folder(files), side=8, count=2)
    assert images.geometry == Geometry(3, 20, 64)
    np.testing.assert_array_equal(images.array(), [np.asarray(image).transpose(2, 0, 1) for image in files.values()])


def test_images_with_a_longer_side_are_cut_and_so_are_small_ones_of_several_sizes(folder, noise):
    for sizes in ([(20, 65)] * 2, [(20, 64), (21, 64)]):
        files = {f"{k}.png": noise(k, size=size) for k, size in enumerate(sizes)}
        assert source_tiles(folder(files, name=str(sizes[1])), side=20, count=4).geometry == Geometry(3, 20, 20)


@pytest.mark.parametrize("count", [1, 7, 24])
def test_large_images_are_cut_into_different_tiles_of_all_of_them(count: int, folder, noise):
    """The third is too small for a tile."""
    sizes = {"a.png": (40, 70), "b.png": (80, 18), "c.png": (15, 90)}
    files = {name: noise(k, size=size) for k, (name, size) in enumerate(sizes.items())}
    images = source_tiles(folder(files), side=16, count=count)
    assert images.geometry == Geometry(3, 16, 16)
    assert len(images) <= count
    tiles = [tile.tobytes() for tile in images.array()]
    assert len(set(tiles)) == len(tiles) > count / 2
    pools = [rows_of(np.asarray(files[name]).transpose(2, 0, 1), 16) for name in ("a.png", "b.png")]
    found = [sum(tile in pool for tile in tiles) for pool in pools]
    assert sum(found) == len(tiles)
    assert count == 1 or all(found)


def test_tiles_reach_every_corner(folder, noise):
    image = noise(0, "L", (70, 100))
    tiles = {tile.tobytes() for tile in source_tiles(folder({"a.png": image}), side=16, count=24).array()}
    levels = np.asarray(image)
    for corner in (np.s_[:16, :16], np.s_[:16, -16:], np.s_[-16:, :16], np.s_[-16:, -16:]):
        assert levels[corner].tobytes() in tiles


@pytest.mark.parametrize(("modes", "channels"), [(("L", "LA"), 1), (("L", "RGBA"), 3)])
def test_all_grey_stays_grey_and_alpha_is_dropped(modes: tuple[str, ...], channels: int, folder, noise):
    files = {f"{k}.png": noise(k, mode, (20, 20)) for k, mode in enumerate(modes)}
    images = source_tiles(folder(files), side=16, count=8)
    assert images.geometry.channels == channels
    second = np.asarray(files["1.png"]).transpose(2, 0, 1)
    np.testing.assert_array_equal(images.read(1), second[:channels])


def test_grey_stored_in_colour_is_grey(folder, noise):
    assert source_tiles(folder({"a.png": noise(0, "L").convert("RGB")}), side=8, count=1).geometry.channels == 1


def test_fingerprints_follow_the_pixels(folder, noise):
    source = folder({"a.png": noise(0, size=(70, 70))})
    known = source_tiles(source, side=16, count=4).fingerprint
    assert known == source_tiles(source, side=16, count=4).fingerprint
    assert known != source_tiles(source, side=16, count=9).fingerprint


def test_unreadable_and_small_images_are_named(folder, noise):
    with pytest.raises(InputError, match=r"a\.png"):
        source_tiles(folder({"a.png": b"no image", "b.png": noise()}), side=8, count=1)
    source = folder({"a.png": noise(0, size=(80, 12)), "b.png": noise(1, size=(12, 80))}, name="narrow")
    with pytest.raises(InputError, match=r"narrow.*16"):
        source_tiles(source, side=16, count=1)
