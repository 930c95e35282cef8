"""Weight files of every kind, and what may happen to them between a disk and a reader."""

import io
import json
import pickletools
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def flip(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end, or a piece from the middle, is gone."""
    first = rng.randrange(len(data))
    return data[:first] + (b"" if rng.random() < 0.5 else data[first + rng.randrange(1, 4096) :])


def splice(data: bytes, rng: random.Random) -> bytes:
    """A piece stands where another was."""
    source, target = rng.randrange(len(data)), rng.randrange(len(data))
    size = rng.randrange(1, 512)
    return data[:target] + data[source : source + size] + data[target + size :]


def rezipped(data: bytes, rng: random.Random) -> bytes:
    """torch's archive with a damaged pickle in it, its checksums right again."""
    out = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for part in old.infolist():
            content = old.read(part)
            if part.filename.endswith("data.pkl"):
                content = mispickled(content, rng)
            elif rng.random() < 0.02:
                content = content[: rng.randrange(len(content) + 1)]
            new.writestr(part.filename, content)
    return out.getvalue()


def mispickled(content: bytes, rng: random.Random) -> bytes:
    """A pickle with one of its numbers changed, or one of its instructions."""
    steps = list(pickletools.genops(content))
    where = rng.randrange(len(steps))
    name = steps[where][0].name
    position = steps[where][2]
    assert position is not None
    if name in ("BININT1", "BININT2", "BININT"):
        big = rng.choice((0, 1, 255, 65535, 2**20, 2**31 - 1, -1))
        end = steps[where + 1][2]
        return content[:position] + b"J" + struct.pack("<i", big) + content[end:]
    out = bytearray(content)
    out[position] = rng.choice(b"}](.tQRbsueK\x85\x86\x87NhqX")
    return bytes(out)


def misheaded(data: bytes, rng: random.Random) -> bytes:
    """safetensors with a header of the right length that says something else."""
    size = struct.unpack("<Q", data[:8])[0]
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    key = rng.choice(list(header))
    entry = header[key]
    change = rng.randrange(6)
    if key == "__metadata__":
        word = rng.choice(list(entry))
        entry[word] = (
            entry[word].replace(
                rng.choice("0123456789"), rng.choice(("99999", "-1", "1e999", "null", "NaN")), 1
            )
            if change
            else "[" * 100_000
        )
    elif change == 0:
        entry["dtype"] = rng.choice(("F64", "I8", "BOOL", "F8_E4M3", "C64", "X"))
    elif change == 1:
        entry["shape"] = [rng.choice((0, 1, 2**40, -1)) for _ in entry["shape"]]
    elif change == 2:
        entry["shape"] = [*entry["shape"][::-1], 1]
    elif change == 3:
        entry["data_offsets"] = [rng.randrange(2**33), rng.randrange(2**33)]
    elif change == 4:
        header[rng.choice(("blocks.99999999.attn.x", "blocks.x.selected", "a" * 10_000))] = entry
    else:
        del header[key]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def reshaped(tensors: Weights, rng: random.Random) -> dict[str, Any]:
    """A file that torch wrote happily, with one tensor that is not what it should be."""
    key = rng.choice(list(tensors))
    value = tensors[key]
    changes: list[Callable[[], object]] = [
        lambda: value.flatten()[:1].expand(10**6, 10**6),
        lambda: torch.zeros(1).expand(value.shape),
        lambda: value.to_sparse(),
        lambda: torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (2**40, 2**20)),
        lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        lambda: torch.empty(value.shape, device="meta"),
        lambda: value * torch.nan,
        lambda: value.to(torch.complex64),
        lambda: value.to(torch.int64),
        lambda: value.to(torch.bool),
        lambda: value.reshape(-1),
        lambda: value.reshape(*value.shape, 1),
        lambda: torch.zeros(0, 2**40),
        lambda: torch.zeros(2**40, 0),
        lambda: torch.zeros(()),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: [value],
        lambda: _nested(value),
        lambda: None,
    ]
    changed: dict[str, Any] = {**tensors, key: rng.choice(changes)(), **_more(rng)}
    return {"model": changed} if rng.random() < 0.5 else changed


def _more(rng: random.Random) -> dict[str, Any]:
    names = ("x" * 10_000, "a\nb\x1b[31m", "blocks.99999999999.x", "blocks.-1.x", "")
    return {rng.choice(names): torch.ones(1)} if rng.random() < 0.3 else {}


def _nested(value: object) -> object:
    for _ in range(100):
        value = {"model": value}
    return value


BYTES = {
    ".safetensors": (flip, cut, splice, misheaded, misheaded, misheaded),
    ".pth": (flip, cut, splice, rezipped, rezipped, rezipped),
    ".old.pth": (flip, flip, cut, splice),
}


def damaged(
    folder: Path, number: int, tensors: Weights, metadata: dict[str, str], *, only: str | None
) -> Path:
    """One damaged weight file of many, the same for the same number; `only` is its suffix."""
    from safetensors.torch import save

    rng = random.Random(number)
    kind = only or rng.choice((".safetensors", ".pth", ".old.pth", "written"))
    path = folder / f"{number}{'.pth' if kind == 'written' else kind}"
    if kind == "written":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of it is in beta
            data = reshaped(tensors, rng)
            torch.save(data, path, _use_new_zipfile_serialization=rng.random() < 0.7)
        return path
    if kind == ".safetensors":
        whole = save(tensors, metadata)
    else:
        stream = io.BytesIO()
        torch.save(
            {"model": tensors, "epoch": 3}, stream, _use_new_zipfile_serialization=kind == ".pth"
        )
        whole = stream.getvalue()
    path.write_bytes(rng.choice(BYTES[kind])(whole, rng))
    return path
