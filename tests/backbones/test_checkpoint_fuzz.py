"""Damaged weight files are refused in one sentence, soon and in little memory."""

import multiprocessing
import signal
from pathlib import Path

import pytest
from fuzzing import read_all

FILES = 600


@pytest.mark.fuzz
@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="hangs are ended by SIGALRM")
def test_damaged_weight_files_are_taken_or_refused_in_one_sentence(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results, sender = context.Pipe(duplex=False)
    reader = context.Process(target=read_all, args=(FILES, tmp_path, sender))
    reader.start()
    sender.close()
    faults, seen, refused, added_mb = {}, 0, 0, None
    try:
        while added_mb is None:
            assert results.poll(60), f"file {seen} hangs"
            number, fault, loaded = results.recv()
            if number == "peak":
                added_mb = fault
                break
            seen += 1
            refused += not loaded
            if fault is not None:
                faults[number] = fault
    except EOFError:
        reader.join()
        pytest.fail(f"file {seen} ended the process ({reader.exitcode})")
    finally:
        reader.kill()
        reader.join()
    assert not faults, f"{len(faults)}: " + "\n".join(f"{n}: {f}" for n, f in faults.items())
    assert seen == FILES
    assert refused > FILES // 3  # the damage is felt
    assert added_mb < 1024
