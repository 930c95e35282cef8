"""Images shared among processes: what one leaves another finds, and never half of one."""

from pathlib import Path

import torch

from autotok.evaluation.folder import PixelCache
from autotok.evaluation.shared_tensors import SharedTensors


def test_what_one_leaves_another_finds_and_a_torn_image_counts_as_absent(tmp_path: Path) -> None:
    image = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    mine = SharedTensors.create(tmp_path / "images", 5, image)
    theirs = SharedTensors.open(tmp_path / "images")
    assert theirs.get(4) is None
    mine.put(4, image)
    found = theirs.get(4)
    assert found is not None
    assert torch.equal(found, image)
    content = bytearray((tmp_path / "images").read_bytes())
    content[-1] ^= 1
    (tmp_path / "images").write_bytes(content)
    assert theirs.get(4) is None


def test_what_has_no_room_there_stays_with_whoever_worked_it_out(tmp_path: Path) -> None:
    """And the room is that of all processes together."""
    images = torch.arange(6 * 3 * 64 * 64).reshape(6, 3, 64, 64).to(torch.uint8)
    SharedTensors.create(tmp_path / "images", 6, images[0])
    caches = [PixelCache(), PixelCache()]
    for cache in caches:
        cache.shared = SharedTensors.open(tmp_path / "images")
        cache.shared.room = 3 * images[0].nbytes
    for number, image in enumerate(images):
        caches[number % 2].put(number, image)
    kept = [n for n in range(6) if caches[0].shared and caches[0].shared.get(n) is not None]
    assert 1 <= len(kept) <= 3
    for number, image in enumerate(images):
        found = caches[number % 2].get(number)
        assert found is not None
        assert torch.equal(found, image)
