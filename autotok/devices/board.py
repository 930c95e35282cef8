"""Measures exported models on the board that this one file was copied to.

It needs Python 3.6 and torch, onnxruntime or trtexec, and nothing of autotok. Requests come in as
JSON, one a line, on standard input, answers go out the same way; when the input ends, as it does
when the connection drops, what runs is killed and the folder removed. Models are probed, loaded and
timed in processes of their own: what runs out of memory or crashes there is told, not suffered.

    {"id": 1, "do": "hello", "runtimes"}                  which are there, memory, cores
    {"id": 2, "do": "put", "name", "bytes", "sha256",
              "instead"}                                  followed by so many bytes: a file; one put
                                                          before, and what was made of it, goes
    {"id": 3, "do": "measure", "runtime", "model", "reference", "shape", "dtype", "rounds",
              "timeout_s", "threads", "energy",
              "number_format"}                            latency, spread, peak memory, energy
    {"id": 4, "do": "bye"}

Answers carry "autotok": 1 and the id; "event": "working" while a request takes its time; "error"
(memory, load, crash, timeout, runtime, disk, request) and "words" where it failed. Energy is
that of a burst of runs after the timed ones, and left out where no counter may be read.

How a model and its reference take turns and are summed up is written here once; autotok times with
it on the machine at hand too.
"""

import hashlib
import importlib
import json
import math
import os
import platform
import queue
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

STEADY, NOISY = 0.03, 0.10
WARM_UP_RUNS = 12
# a scheduler takes the processor away every few milliseconds: shorter slots would beat with it
SLOT_MS, MOST_REPEATS = 20.0, 50
# a median strays 1.2533 times as far as a mean, and 1.4826 median deviations are a standard one;
# successive ratios share a run of the reference, so that n of them tell as much as 3/4 n
STRAY = 1.2533 * 1.4826 * math.sqrt(4 / 3)
# the other side takes 30 s of silence for a dropped line
HEARTBEAT_S, FAREWELL_S = 2.0, 10.0
# a caller that is gone without closing the line must not leave us behind for ever
IDLE_S = 1800.0
PROBE_S, ENGINE_S = 180.0, 1.0
# INA3221 sensors give a new value every few milliseconds
ENERGY_S, SAMPLE_S = 1.0, 0.01
SYSFS = Path(os.environ.get("AUTOTOK_SYSFS", "/sys"))
INA = ("ina3221", "ina3221x")
WHOLE_BOARD = re.compile(r"(VDD|POM_5V|VDD_5V)_IN\Z")
MB = 1e6
# of trtexec, for files that are not float32, as `export/tensorrt.py` says
FILE_FLAGS = {"int8": ["--int8", "--fp16"], "float16": ["--stronglyTyped"]}
# processors without VNNI would else add int8 products up in 16 bits, which overflow
EXACT_INT8 = ("session.x64quantprecision", "1")
MARK = '{"autotok": 1'
NAME = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,79}\Z")
NO_MEMORY = re.compile(
    r"out of memory|not enough memory|bad.alloc|(can't|cannot|could not|failed to|unable to) alloc"
    r"|can't start new thread",
    re.IGNORECASE,
)


class Trouble(Exception):
    """A failure to tell: its kind and the words for it."""

    def __init__(self, kind: str, words: str) -> None:
        Exception.__init__(self, words)
        self.kind, self.words = kind, words


# --- the process that answers


class Board:
    """Answers requests until the input ends."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.inbox = queue.Queue()  # type: queue.Queue[dict[str, Any]]
        self.child = None  # type: subprocess.Popen[bytes] | None
        self.lock = threading.Lock()

    def serve(self) -> None:
        """Answer one request after the other; never returns."""
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            while True:
                request = self.inbox.get(timeout=IDLE_S)
                if request.get("do") == "bye":
                    self._say(request, {"bye": True})
                    break
                try:
                    self._say(request, self._answer(request))
                except Trouble as trouble:
                    self._say(request, {"error": trouble.kind, "words": trouble.words})
                except (KeyError, TypeError, ValueError) as error:
                    self._say(request, {"error": "request", "words": _first_line(error)})
        except (queue.Empty, OSError):
            pass  # forgotten, or nobody listens any more
        self.leave()

    def leave(self) -> None:
        """Kill what runs, remove the folder, end the process."""
        self._end_child()
        shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(0)

    def _listen(self) -> None:
        stream = sys.stdin.buffer
        try:
            for line in iter(stream.readline, b""):
                request = json.loads(line.decode("utf-8"))
                if request.get("do") == "put":
                    self._receive(stream, request)
                self.inbox.put(request)
        except (OSError, ValueError, KeyError):
            pass
        self.leave()

    def _receive(self, stream: "Any", request: "dict[str, Any]") -> None:
        """Write the bytes that follow a request; what goes wrong is noted in the request."""
        left, digest, file = int(request["bytes"]), hashlib.sha256(), None
        try:
            if request.get("instead"):
                old = os.path.basename(self._path(request["instead"]))
                for path in Path(self.folder).glob(old + "*"):
                    path.unlink()
            file = open(self._path(request["name"]), "wb")
        except (OSError, Trouble) as error:
            request["failed"] = str(error)
        while left:
            chunk = stream.read(min(left, 1 << 18))
            if not chunk:
                raise OSError("the connection ended")
            left -= len(chunk)
            digest.update(chunk)
            try:
                if file is not None:
                    file.write(chunk)
            except OSError as error:
                request["failed"], file = str(error), None
        if file is not None:
            file.close()
        if digest.hexdigest() != request["sha256"]:
            request.setdefault("failed", "the file arrived damaged")

    def _path(self, name: str) -> str:
        if not NAME.match(name):
            raise Trouble("request", "a file name must be plain")
        return os.path.join(self.folder, name)

    def _answer(self, request: "dict[str, Any]") -> "dict[str, Any]":
        what = request.get("do")
        if what == "put":
            if "failed" in request:
                raise Trouble("disk", str(request["failed"]))
            return {"put": request["name"]}
        if what == "hello":
            return self._hello(request)
        if what == "measure":
            names = [request["model"]] + [n for n in [request.get("reference")] if n]
            paths = [self._path(name) for name in names]
            task = dict(request, paths=paths, parent=os.getpid())
            return self._child(request, "--measure", task, float(request["timeout_s"]))
        raise Trouble("request", f"there is no request '{what}'")

    def _hello(self, request: "dict[str, Any]") -> "dict[str, Any]":
        runtimes, trouble = {}, {}
        for name in request["runtimes"]:
            try:
                runtimes[name] = self._child(request, "--probe", {"runtime": name}, PROBE_S)
            except Trouble as found:
                trouble[name] = found.words
        return {
            "python": platform.python_version(),
            "system": platform.platform(),
            "device": machine_name(),
            "cores": os.cpu_count() or 1,
            "memory_mb": installed_mb(),
            "runtimes": runtimes,
            "missing": trouble,
        }

    def _child(
        self, request: "dict[str, Any]", task: str, what: "dict[str, Any]", limit_s: float
    ) -> "dict[str, Any]":
        """The answer of a process of its own; heartbeats go out while it works."""
        begin = time.time()
        command = [sys.executable, os.path.abspath(__file__), task, json.dumps(what)]
        complaints = os.path.join(self.folder, "stderr.txt")
        with open(complaints, "wb") as errors, self.lock:
            self.child = child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                cwd=self.folder,
            )
        assert child.stdout is not None
        out, patience_s = b"", 0.0
        try:
            while True:
                if select.select([child.stdout], [], [], HEARTBEAT_S)[0]:
                    said = os.read(child.stdout.fileno(), 1 << 16)
                    if not said:
                        break
                    out += said
                    continue
                if time.time() - begin > limit_s:
                    raise Trouble("timeout", f"it was not done after {limit_s:.0f} s")
                self._say(request, {"event": "working", "seconds": time.time() - begin})
            patience_s = FAREWELL_S
        finally:
            self._end_child(patience_s)
            child.stdout.close()
        return _result(child.returncode, out, complaints)

    def _end_child(self, patience_s: float = 0.0) -> None:
        """Have no child: one that does not end by itself in time is killed.

        It is reaped here only, and forgotten with that: its number may then be a stranger's.
        """
        with self.lock:
            child, self.child = self.child, None
            if child is None:
                return
            try:
                if patience_s:
                    child.wait(patience_s)
                    return
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except OSError:
                pass
            child.wait()

    def _say(self, request: "dict[str, Any]", what: "dict[str, Any]") -> None:
        line = json.dumps(dict(what, autotok=1, id=request.get("id")))
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _result(code: int, out: bytes, complaints: str) -> "dict[str, Any]":
    """What a child said last, or why it said nothing."""
    for line in reversed(out.decode("utf-8", "replace").splitlines()):
        if line.startswith(MARK):
            found = json.loads(line)  # type: dict[str, Any]
            del found["autotok"]
            if "error" in found:
                raise Trouble(found["error"], found["words"])
            return found
    with open(complaints, "rb") as file:
        words = file.read()[-4000:].decode("utf-8", "replace").strip()
    if code == -signal.SIGKILL or NO_MEMORY.search(words):
        raise Trouble("memory", "the system ended the process, as it does when memory runs out")
    last = words.splitlines()[-1][:300] if words else "nothing was said"
    raise Trouble("crash", f"the process ended with status {code} ({last})")


def machine_name() -> str:
    """What the board or processor calls itself."""
    for path, mark in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name")):
        try:
            with open(path) as file:
                for line in file:
                    if line.startswith(mark):
                        return line.split(":", 1)[-1].strip("\0 \t\n")
        except OSError:
            pass
    return platform.processor() or platform.machine()


def installed_mb() -> "float | None":
    """Megabytes of memory as the operating system reports it; None where it does not."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MB
    except (AttributeError, ValueError, OSError):
        return None


# --- processes of their own: what a runtime can, and a measurement


def _probe(task: "dict[str, Any]") -> "dict[str, Any]":
    """Version and device of a runtime."""
    name = task["runtime"]
    if name == "torch":
        import torch

        cuda = torch.cuda.is_available()
        device = torch.cuda.get_device_name(0) if cuda else "cpu"
        return {"version": str(torch.__version__), "device": device, "cuda": cuda}
    if name == "onnxruntime":
        import onnxruntime

        providers = _providers(onnxruntime)
        cuda = providers[0] != "CPUExecutionProvider"
        return {"version": str(onnxruntime.__version__), "device": providers[0], "cuda": cuda}
    if _trtexec() is None:
        raise Trouble("runtime", "there is no trtexec")
    return {"version": "trtexec", "device": "TensorRT", "cuda": True}


def _providers(onnxruntime: "Any") -> "list[str]":
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [name for name in wanted if name in onnxruntime.get_available_providers()]


def _trtexec() -> "str | None":
    usual = "/usr/src/tensorrt/bin/trtexec"
    return shutil.which("trtexec") or (usual if os.path.exists(usual) else None)


def _types_strongly() -> bool:
    """Whether trtexec takes types as files have them, as it does from TensorRT 10 on."""
    said = subprocess.run(
        [str(_trtexec()), "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return b"--stronglyTyped" in said.stdout


def _openvino_timer(task: "dict[str, Any]", path: str) -> "tuple[Timer, str, int]":
    """Of an OpenVINO file on the processor, as `export/openvino.py` runs it."""
    import numpy
    import openvino

    threads = task.get("threads") or usable_cores()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    hints["PERFORMANCE_HINT"] = "LATENCY"
    request = openvino.Core().compile_model(path, "CPU", hints).create_infer_request()
    images = numpy.random.RandomState(0).rand(*task["shape"]).astype(numpy.float32)
    return Timer(lambda: request.infer([images])), f"openvino {openvino.__version__}", threads


def _torch_timer(task: "dict[str, Any]", path: str) -> "tuple[Timer, str, int]":
    """Of a TorchScript file, on CUDA where there is some."""
    import torch

    if task.get("threads"):
        torch.set_num_threads(task["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = torch.jit.load(path, map_location=device).eval()
    images = torch.rand(*task["shape"]).to(device)

    def run() -> None:
        with torch.no_grad():
            module(images)

    return Timer(run, device), f"torch {torch.__version__} TorchScript", torch.get_num_threads()


def _onnx_timer(task: "dict[str, Any]", path: str) -> "tuple[Timer, str, int]":
    """Of an ONNX file in onnxruntime."""
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = task.get("threads") or 0
    options.add_session_config_entry(*EXACT_INT8)
    chosen = _providers(onnxruntime)[-1:] if task.get("cpu") else _providers(onnxruntime)
    session = onnxruntime.InferenceSession(path, options, providers=chosen)
    images = numpy.random.RandomState(0).rand(*task["shape"]).astype(numpy.float32)
    feed = {session.get_inputs()[0].name: images}
    timer = Timer(lambda: session.run(None, feed))
    timer.gpu = None if chosen[0] == "CPUExecutionProvider" else ""
    words = f"onnxruntime {onnxruntime.__version__} {chosen[0]}"
    return timer, words, task.get("threads") or usable_cores()


class EngineSlot:
    """A TensorRT engine, built here; trtexec itself runs it for a second or so a turn."""

    gpu, parts = "", ()

    def __init__(self, task: "dict[str, Any]", path: str) -> None:
        self.engine, self.times = path + ".engine", path + ".json"
        self.half = ["--fp16"] if task["dtype"] == "float16" else []
        kept = task.get("number_format", "float32") if path == task["paths"][0] else "float32"
        flags = FILE_FLAGS.get(kept, self.half)  # the reference's file is float32
        if "--stronglyTyped" in flags and not _types_strongly():
            flags = ["--fp16"]
        self.runtime = "trtexec " + (kept if kept in FILE_FLAGS else task["dtype"])
        self.threads, self.peak_mb = 1, 0.0
        self._run(["--onnx=" + path, "--saveEngine=" + self.engine, *flags])

    def run(self, seconds: float = ENGINE_S) -> "tuple[list[float], float]":
        """Milliseconds of each run, and their median."""
        how = ["--loadEngine=" + self.engine, "--exportTimes=" + self.times, "--warmUp=300"]
        begin = time.perf_counter()
        self._run([*how, f"--duration={seconds:g}", *self.half])
        self.energy_s = 2 * (time.perf_counter() - begin) + 3 * ENGINE_S
        with open(self.times) as file:
            found = [float(row["latencyMs"]) for row in json.load(file)]
        return found, median(found)

    def peak_memory(self) -> "tuple[float, str]":
        """Megabytes of a run, and what was read."""
        self.run()
        return self.peak_mb, "high-water mark of trtexec"

    def energy(self, meter: "Any") -> "tuple[float, int]":
        """Joules and runs that a longer burst has more than a shorter one: loading cancels."""
        spent = []
        for seconds in (ENGINE_S, 4 * ENGINE_S):
            meter.start()
            count = len(self.run(seconds)[0])
            spent.append((meter.stop(), count))
        return spent[1][0] - spent[0][0], spent[1][1] - spent[0][1]

    def _run(self, words: "list[str]") -> None:
        log = self.engine + ".log"
        with open(log, "wb") as file:
            child = subprocess.Popen([str(_trtexec()), *words], stdout=file, stderr=file)
            _, child.returncode, used = os.wait4(child.pid, 0)
        self.peak_mb = used.ru_maxrss * 1024 / MB
        if child.returncode:
            with open(log, errors="replace") as lines:
                said = [line.strip() for line in lines if "rror" in line or "[E]" in line]
            raise RuntimeError(said[-1] if said else f"trtexec ended with {child.returncode}")


def _slot(task: "dict[str, Any]", path: str) -> "Any":
    """A model of the task, loaded and warm."""
    kinds = {"torch": _torch_timer, "onnxruntime": _onnx_timer, "openvino": _openvino_timer}
    try:
        if task["runtime"] == "trtexec":
            return EngineSlot(task, path)
        timer, runtime, threads = kinds[task["runtime"]](task, path)
    except ImportError:
        raise
    except Exception as error:
        kind = "memory" if _is_memory(error) else "load"
        raise Trouble(kind, _first_line(error)) from error
    return Slot(timer, float(task["timeout_s"]) / 8, runtime, threads)


def _memory(task: "dict[str, Any]") -> "dict[str, Any]":
    """Peak memory of a file's runs in this process, which holds nothing else."""
    return {"peak_memory_mb": _slot(task, task["path"]).peak_memory()[0]}


def _measure(task: "dict[str, Any]") -> "dict[str, Any]":
    """Latency, spread and peak memory of the first model; the second is its reference."""
    if task["dtype"] != "float32" and task["runtime"] != "trtexec":
        raise Trouble("request", f"{task['runtime']} runs float32 files here")
    begin = time.perf_counter()
    slots = [_slot(task, task["paths"][0])]
    peak, how = slots[0].peak_memory()  # of the model alone: the reference is not there yet
    slots += [_slot(task, path) for path in task["paths"][1:]]
    rounds, limit_s = int(task["rounds"]), float(task["timeout_s"])

    def on_turn() -> None:
        if os.getppid() != task["parent"]:
            sys.exit(1)  # nobody waits for this any more

    turns = take_turns(slots, rounds, limit_s / 2, least=min(3, rounds), on_turn=on_turn)
    found = turns.summary(rounds, slots[0].parts)
    found.update(peak_memory_mb=peak, memory_source=how, dtype=task["dtype"])
    found.update(runtime=slots[0].runtime, threads=slots[0].threads)
    if task.get("energy"):
        found.update(energy_of(slots[0], limit_s - (time.perf_counter() - begin)))
    return found


# --- how a model and its reference take turns, here and wherever autotok times


class Timer:
    """Times single runs until the answer is there; on CUDA, the host's and the device's parts."""

    def __init__(self, run: "Any", device: "Any" = "cpu", clock: "Any" = None) -> None:
        """`device` is torch's, or its name; ratios are taken by `clock`, the wall's if None."""
        self.run, self.device, self.clock = run, device, clock
        self.parts = []  # type: list[tuple[float, float]]
        self.marks = []  # type: list[Any]
        kind = str(device).partition(":")[0]
        self.gpu = None if kind == "cpu" else ""  # type: str | None
        self.torch = None  # type: Any
        if kind in ("cuda", "mps"):
            self.torch = importlib.import_module("torch")
        if kind == "cuda":
            self.gpu = _uuid(self.torch, device)
            self.marks = [self.torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def once(self) -> None:
        """Run it, and wait until it is done."""
        self.run()
        self._wait()

    def time(self) -> "tuple[float, float]":
        """Milliseconds of a run, on the wall and by the clock."""
        clock = self.clock or time.perf_counter
        self._wait()
        begin, own = time.perf_counter(), clock()
        self._mark(0)
        self.run()
        self._mark(1)
        launched = time.perf_counter()
        self._wait()
        took, own = (time.perf_counter() - begin) * 1e3, (clock() - own) * 1e3
        if self.marks:
            self.parts.append(((launched - begin) * 1e3, self.marks[0].elapsed_time(self.marks[1])))
        return took, own if own > 0.0 else took

    def peak_memory(self) -> "tuple[float, str]":
        """Megabytes of one run, and what was read."""
        if self.marks:
            self.torch.cuda.reset_peak_memory_stats(self.device)
            self.once()
            peak = self.torch.cuda.max_memory_allocated(self.device) / MB
            return peak, "CUDA allocator, peak of this model"
        since = "reset before the run" if reset_high_water() else "since its start: an upper bound"
        self.once()
        return high_water_mb(), "process high-water mark, " + since

    def _wait(self) -> None:
        if self.marks:
            self.torch.cuda.synchronize(self.device)
        elif self.torch is not None:
            self.torch.mps.synchronize()

    def _mark(self, index: int) -> None:
        if self.marks:
            self.marks[index].record(self.torch.cuda.current_stream(self.device))


def _uuid(torch: "Any", device: "Any") -> str:
    """Of a GPU; empty where torch does not tell."""
    try:
        return str(torch.cuda.get_device_properties(device).uuid)
    except (AssertionError, AttributeError, RuntimeError):
        return ""


class Slot:
    """A model warmed up, run many times in its slot of a turn where it is short."""

    def __init__(
        self,
        timer: Timer,
        patience_s: float,
        runtime: str = "",
        threads: int = 1,
        slot_ms: float = SLOT_MS,
    ) -> None:
        self.timer, self.runtime, self.threads = timer, runtime, threads
        self.peak_memory, self.gpu, self.parts = timer.peak_memory, timer.gpu, timer.parts
        warm = _warm_up(timer, time.perf_counter() + patience_s)
        self.parts.clear()
        self.energy_s = max(ENERGY_S, 3 * warm / 1e3)
        self.repeats = min(MOST_REPEATS, max(1, math.ceil(slot_ms / max(warm, 1e-3) - 1e-6)))

    def run(self) -> "tuple[list[float], float]":
        """Milliseconds of each run, and the clock's median of them."""
        found = [self.timer.time() for _ in range(self.repeats)]
        return [took for took, _ in found], median([own for _, own in found])

    def energy(self, meter: "Any") -> "tuple[float, int]":
        """Joules, and of how many runs."""
        count, end = 0, time.perf_counter() + ENERGY_S
        meter.start()
        while count < 3 or time.perf_counter() < end:
            self.timer.once()
            count += 1
        return meter.stop(), count


def _warm_up(timer: Timer, deadline: float) -> float:
    """The median, once those of two successive windows of three runs agree within 5 %."""
    times = []  # type: list[float]
    while len(times) < WARM_UP_RUNS:
        times.append(timer.time()[1])
        old, new = median(times[-6:-3] or times), median(times[-3:])
        agree = len(times) >= 6 and abs(new - old) <= 0.05 * old
        if agree or (len(times) >= 2 and time.perf_counter() > deadline):
            break
    return median(times[-3:])


class Turns:
    """What slots gave in turn, the model's and those of its reference, if there is one."""

    def __init__(self) -> None:
        self.own, self.beside = [], []  # type: list[Any], list[Any]

    @property
    def times(self) -> "list[float]":
        """Milliseconds of every run of the model."""
        return [took for times, _ in self.own for took in times]

    @property
    def ratios(self) -> "list[float]":
        """Reference over model: the mean of what ran before and after it, over its own."""
        beside, own = [lap[1] for lap in self.beside], [lap[1] for lap in self.own]
        return list(map(lambda old, new, mine: (old + new) / 2 / mine, beside, beside[1:], own))

    def error_pct(self) -> float:
        """Standard error of the ratios' median in per cent of it; 0 without a reference."""
        found = self.ratios
        if not found:
            return 0.0
        return 100 * STRAY * deviation(found) / math.sqrt(len(found)) / median(found)

    def summary(self, rounds: int, parts: "list[tuple[float, float]]") -> "dict[str, Any]":
        """Figures of a measurement that was to take so many turns, `parts` those on CUDA."""
        times, ratios = sorted(self.times), self.ratios
        noise = deviation(times) / median(times)
        place = 0.9 * (len(times) - 1)
        low, high = times[int(place)], times[math.ceil(place)]
        return {
            "latency_ms": median(times),
            "p90_ms": low + (place - int(place)) * (high - low),
            "mad_ms": deviation(times),
            "runs": len(times),
            "verdict": "steady" if noise <= STEADY else "noisy" if noise <= NOISY else "unreliable",
            "reference_latency_ms": median([median(t) for t, _ in self.beside]) if ratios else None,
            "speedup": median(ratios) if ratios else None,
            "speedup_error_pct": self.error_pct() if ratios else None,
            "prolonged": len(self.own) > rounds,
            "host_ms": median([host for host, _ in parts]) if parts else None,
            "device_ms": median([device for _, device in parts]) if parts else None,
        }


def take_turns(
    slots: "list[Any]",
    rounds: int,
    patience_s: float,
    least: int = 3,
    most: "int | None" = None,
    sure_pct: float = math.inf,
    on_turn: "Any" = lambda: None,
) -> Turns:
    """The model's slot between its reference's, R M R M R, until the run is steady.

    `slots` holds the model's, then the reference's if there is one. It ends after `rounds` turns
    once it is steady and its ratio known to `sure_pct`, after `most` (3 times as many) anyhow, and
    when patience ends, but not before the `least`.
    """
    found, begin = Turns(), time.perf_counter()
    found.beside += [slot.run() for slot in slots[1:]]
    for turn in range(1, (3 * rounds if most is None else most) + 1):
        on_turn()
        found.own.append(slots[0].run())
        found.beside += [slot.run() for slot in slots[1:]]
        late = time.perf_counter() - begin > patience_s
        sure = turn >= rounds and found.error_pct() <= sure_pct
        if turn >= least and (late or (sure and _steady(found.times))):
            break
    return found


def deviation(values: "list[float]") -> float:
    """The median absolute deviation from the median."""
    middle = median(values)
    return median([abs(value - middle) for value in values])


def _steady(times: "list[float]") -> bool:
    return deviation(times) <= STEADY * median(times)


def reset_high_water() -> bool:
    """Whether Linux let us reset VmHWM to the present resident size."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def high_water_mb() -> float:
    """The most memory that this process held, in megabytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1]) / MB
    except OSError:
        pass
    resource = importlib.import_module("resource")  # not on Windows
    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak / MB if sys.platform == "darwin" else 1024 * peak / MB


# --- energy: of a processor package, a GPU or a whole board, neighbours included


class Meter:
    """Joules from start to stop: by counters of microjoules, or by watts read over and over."""

    def __init__(self, source: str, read: "Any", ranges: "list[float] | None" = None) -> None:
        """`ranges` is where each counter begins anew; None says that watts are read."""
        self.source, self.read, self.ranges = source, read, ranges

    def start(self) -> None:
        """Begin to count."""
        self.over, self.samples = threading.Event(), [self._sample()]
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def stop(self) -> float:
        """Joules since the start; those of watts by the trapezoid rule."""
        self.over.set()
        self.thread.join()
        self.samples.append(self._sample())
        joules, (before, old) = 0.0, self.samples[0]
        for now, new in self.samples[1:]:
            if self.ranges is None:
                joules += (now - before) * (old + new) / 2
            for index, whole in enumerate(self.ranges or ()):
                step = new[index] - old[index]
                joules += (step if step >= 0.0 else step + whole) / 1e6
            before, old = now, new
        return joules

    def _watch(self) -> None:
        while not self.over.wait(SAMPLE_S if self.ranges is None else None):
            try:
                self.samples.append(self._sample())
            except Exception:
                pass  # a sensor that is busy misses a sample, but not the first or the last

    def _sample(self) -> "tuple[float, Any]":
        return time.perf_counter(), self.read()


def energy_of(slot: "Any", left_s: float = math.inf) -> "dict[str, Any]":
    """Millijoules of a run and what counted them; nothing without a counter, or the time for it."""
    try:
        meter = find_meter(slot.gpu)
        if meter is not None and 2 * slot.energy_s < left_s:
            joules, runs = slot.energy(meter)
            if joules > 0.0 and runs > 0:
                return {"energy_mj": 1e3 * joules / runs, "energy_source": meter.source}
    except Exception:  # a counter that fails: it is only a figure
        pass
    return {}


def find_meter(gpu: "str | None") -> "Meter | None":
    """The counter of what computes there; None where there is none that may be read.

    `gpu` is None for the processor, a GPU's UUID, or empty for the only GPU there is.
    """
    return (_rapl() if gpu is None else _nvml(gpu)) or _sensors()


def _rapl() -> "Meter | None":
    """Intel's and AMD's processor packages."""
    files, ranges = [], []  # type: list[Path], list[float]
    for zone in sorted(SYSFS.glob("class/powercap/intel-rapl:*")):
        if zone.name.count(":") == 1 and (_read(zone / "name", str) or "").startswith("package"):
            files.append(zone / "energy_uj")
            ranges.append(_read(zone / "max_energy_range_uj") or 0.0)
    if not files or None in [_read(file) for file in files]:
        return None  # kept for the administrator, on most systems
    words = f"RAPL, {len(files)} processor package{'s' if len(files) > 1 else ''}"
    return Meter(words, lambda: [float(file.read_text()) for file in files], ranges)


def _nvml(gpu: str) -> "Meter | None":
    """NVIDIA's own counter, where its Python package is and the GPU is told or the only one."""
    try:
        nvml = importlib.import_module("pynvml")  # type: Any
        nvml.nvmlInit()
        if not gpu and nvml.nvmlDeviceGetCount() != 1:
            return None
        by_name, by_index = nvml.nvmlDeviceGetHandleByUUID, nvml.nvmlDeviceGetHandleByIndex
        handle = by_name("GPU-" + gpu) if gpu else by_index(0)
    except Exception:  # not installed, no driver, a GPU it does not know
        return None
    joules, watts = nvml.nvmlDeviceGetTotalEnergyConsumption, nvml.nvmlDeviceGetPowerUsage
    counter = Meter("NVML, energy", lambda: [1e3 * joules(handle)], [0.0])
    for meter in (counter, Meter("NVML, power sampled", lambda: watts(handle) / 1e3)):
        try:
            meter.read()
            return meter
        except Exception:  # older than Volta, or a Jetson
            pass
    return None


def _sensors() -> "Meter | None":
    """The INA3221 of Jetson modules: the rail that feeds the board, else all that are named."""
    rails = {}  # type: dict[str, tuple[list[Path], float]]
    for label in sorted(SYSFS.glob("class/hwmon/hwmon*/in*_label")):  # JetPack 5 and later
        channel = label.name[2:-6]
        if _read(label.with_name("name"), str) in INA:
            files = [label.with_name(f"{what}{channel}_input") for what in ("in", "curr")]
            rails[_read(label, str) or ""] = (files, 1e-6)
    old = "bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"  # JetPack 4
    for label in sorted(SYSFS.glob(old)):
        power = label.with_name("in_power" + label.name[len("rail_name_") :] + "_input")
        rails[_read(label, str) or ""] = ([power], 1e-3)
    live = [n for n in sorted(rails) if n and None not in [_read(f) for f in rails[n][0]]]
    chosen = [name for name in live if WHOLE_BOARD.match(name)][:1] or live
    if not chosen:
        return None
    read = [rails[name] for name in chosen]
    return Meter("INA3221, " + " + ".join(chosen), lambda: sum(_watts(*rail) for rail in read))


def _watts(files: "list[Path]", scale: float) -> float:
    for file in files:
        scale *= float(file.read_text())
    return scale


def _read(file: "Path", kind: "Any" = float) -> "Any":
    """A number or text in a file; None where it cannot be read."""
    try:
        return kind(file.read_text().strip())
    except (OSError, ValueError):
        return None


# --- small things


def usable_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def _work(task: str, what: "dict[str, Any]") -> "dict[str, Any]":
    """The answer of a child, errors too."""
    tasks = {"--probe": _probe, "--memory": _memory, "--measure": _measure}
    try:
        return tasks[task](what)
    except Trouble as trouble:
        return {"error": trouble.kind, "words": trouble.words}
    except Exception as error:  # whatever it is, the other side is told
        kind = "runtime" if isinstance(error, ImportError) else "crash"
        return {"error": "memory" if _is_memory(error) else kind, "words": _first_line(error)}


if __name__ == "__main__":
    if len(sys.argv) == 2:
        Board(sys.argv[1]).serve()
    answer = {"autotok": 1}  # type: dict[str, Any]
    answer.update(_work(sys.argv[1], json.loads(sys.argv[2])))
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
