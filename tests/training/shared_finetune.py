"""One fine-tune of tiny, by as many processes as `torchrun` starts; the first writes to argv[1]."""

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

import autotok
from autotok import CompressionConfig, FineTuneSpec, Reduction

SPEC = FineTuneSpec(length="3 steps", batch_size=8, lr=1e-4, mixup=0.8, augment="crop-flip")


def main(folder: Path) -> None:
    config = CompressionConfig("evit", (Reduction(1, num_keep=6),))
    result = autotok.finetune(
        config,
        data="digits",
        backbone="tiny",
        spec=SPEC,
        num_images=10,
        precision="float32",  # in bfloat16, where it is chosen, half a batch rounds otherwise
    )
    if autotok.is_first_process():
        save_file(result.model.state_dict(), folder / "w.safetensors")
    with (folder / "told.jsonl").open("a") as file:
        told = {"loss": result.done.loss, "after": result.after.value, "held": result.done.held_out}
        file.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
