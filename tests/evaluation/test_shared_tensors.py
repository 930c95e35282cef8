"""Images shared among processes: what one leaves another finds, and never half of one."""

from pathlib import Path

import torch

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
