"""Opening what others may have written runs none of their code: no file is read as a pickle."""

import ast
import pickle
from pathlib import Path

import torch
from pickles import is_pickle, pickles_in

PACKAGE = Path(__file__).parents[1] / "autotok"
FROM_PIPES = {
    "devices/handed_model.py",
    "searching/engines/ray.py",
    "searching/engines/worker_process.py",
    "searching/engines/workers.py",
    "searching/running/engine_choice.py",
}
"""What they unpickle comes from the process that started them, or that they started."""
IN_MEMORY = {"pickle.loads", "cloudpickle.loads", "pickle.Unpickler"}
SAFE = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}
NEVER = ("pickle.load", "cloudpickle.load", "joblib.load", "shelve.open", "marshal.load",
         "marshal.loads", "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "dill.load",
         "torch.jit.load_unsafe")  # fmt: skip


def test_nothing_in_the_package_reads_a_file_as_a_pickle() -> None:
    unpickling = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in IN_MEMORY:
                unpickling.add(name)
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in NEVER, f"{name}:{node.lineno}"
            if called in SAFE:
                assert SAFE[called] in map(ast.unparse, node.keywords), f"{name}:{node.lineno}"
            if called == "pickle.loads":
                assert "read_bytes" not in ast.unparse(node), f"{name}:{node.lineno}"
    assert unpickling == FROM_PIPES


def test_no_file_of_a_finished_run_is_a_pickle(finished_run: Path) -> None:
    assert (finished_run / "best" / "weights.safetensors").is_file()
    assert pickles_in(finished_run) == []


def test_a_pickle_is_known_when_it_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": torch.zeros(1)}, tmp_path / "b")
    torch.save({"a": torch.zeros(1)}, tmp_path / "c", _use_new_zipfile_serialization=False)
    (tmp_path / "d").write_text("plain")
    assert [is_pickle(tmp_path / name) for name in "abcd"] == [True, True, True, False]
