"""autotok: automated compression search for Vision Transformers.

    import autotok
    model = autotok.compress(timm_model, method="tome", r=13)     # one model, one method
    run = autotok.search(backbone="deit_small_patch16_224", data="photos/", budget="2.3GFLOPs")

Importing autotok imports nothing heavy; names are looked up when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "autotok.api.arguments": ("parse_keep", "parse_options", "parse_resources", "read_options"),
    "autotok.api.models": ("compress", "evaluate", "export", "macs", "profile"),
    "autotok.api.runs": ("resume", "search"),
    "autotok.api.supernet": (
        "SubnetQuestion",
        "cut_subnet",
        "evaluate_subnets",
        "search_subnets",
        "train_supernet",
    ),
    "autotok.backbones.loading": (
        "as_backbone",
        "known_backbones",
        "load_backbone",
        "load_structure",
    ),
    "autotok.compression.compress": ("with_networks",),
    "autotok.compression.model": ("CompressedViT",),
    "autotok.config": ("CompressionConfig", "FineTuneSpec", "Reduction", "SubnetSpec"),
    "autotok.devices.device": ("open_device",),
    "autotok.devices.placing": ("check_device", "torch_device"),
    "autotok.diagnosis": ("HealthCheck", "diagnose"),
    "autotok.errors": (
        "AutotokError",
        "ConfigError",
        "DeviceUnreachable",
        "UnknownName",
        "printable",
    ),
    "autotok.evaluation.allocator": ("reuse_large_blocks",),
    "autotok.evaluation.data": ("check_data",),
    "autotok.export.bundle": ("bundle_structure", "load_bundle", "load_uncompressed"),
    "autotok.export.formats": ("check_format", "list_formats"),
    "autotok.files": ("check_folder",),
    "autotok.interrupts": ("Interrupts",),
    "autotok.methods": (
        "Kind",
        "Option",
        "Placement",
        "Site",
        "TokenReducer",
        "Training",
        "get_method",
        "list_methods",
        "register",
    ),
    "autotok.methods.evidence": ("not_built",),
    "autotok.metrics": ("check_quality",),
    "autotok.names": ("check_precision",),
    "autotok.predicting.calibration": ("calibrate", "plan_of"),
    "autotok.predicting.predict": ("predict",),
    "autotok.predicting.target": ("list_targets", "load_target"),
    "autotok.report.catalog": ("describe_methods", "describe_target", "methods_markdown"),
    "autotok.report.closing": (
        "budget_lines",
        "closing_data",
        "closing_parts",
        "front_data",
        "front_parts",
    ),
    "autotok.report.dashboard": ("serve_dashboard",),
    "autotok.report.finetune_run": (
        "FineTuneResult",
        "finetune",
        "fresh_finetune_folder",
        "read_question",
    ),
    "autotok.report.method_page": ("describe_method", "method_text"),
    "autotok.report.method_pages": ("write_method_pages",),
    "autotok.report.model_report": (
        "export_report",
        "profile_report",
        "quality_report",
        "write_bundle",
    ),
    "autotok.report.run": ("Run", "load"),
    "autotok.report.pages": ("write_again",),
    "autotok.report.run_reports": ("compare_runs", "status_report"),
    "autotok.searching.engines.base": ("Workers",),
    "autotok.searching.records.rundir": ("RunDirectory", "fresh_run_folder"),
    "autotok.searching.running.asktell": ("AskTell",),
    "autotok.searching.running.events": ("Asked", "Event", "event_text"),
    "autotok.searching.running.question": ("Question", "check_names"),
    "autotok.searching.space.settings": ("SearchSettings",),
    "autotok.supernet.evolution": ("EvolutionSettings",),
    "autotok.supernet.train": ("Progress",),
    "autotok.threads": ("wait_asleep",),
    "autotok.tokens": ("Needs", "Taps", "Tokens"),
}
"""Where every public name is; also all that the command line is made of."""
_HOME = {name: module for module, names in _HOMES.items() for name in names}

# `autotok.export` is a verb and a room. The import system writes a room's name into its parent when
# it first loads it, over whatever stands there: done here, that is over before the verb is
# asked for. The verb wears the room's names: `import autotok.export.onnx as file` goes on working.
_EXPORT_ROOM = importlib.import_module("autotok.export")
globals().pop("export")

__all__ = [
    "AskTell",
    "Asked",
    "AutotokError",
    "CompressedViT",
    "CompressionConfig",
    "ConfigError",
    "DeviceUnreachable",
    "Event",
    "EvolutionSettings",
    "FineTuneResult",
    "FineTuneSpec",
    "HealthCheck",
    "Interrupts",
    "Kind",
    "Needs",
    "Option",
    "Placement",
    "Progress",
    "Question",
    "Reduction",
    "Run",
    "RunDirectory",
    "SearchSettings",
    "Site",
    "SubnetQuestion",
    "SubnetSpec",
    "Taps",
    "TokenReducer",
    "Tokens",
    "Training",
    "UnknownName",
    "Workers",
    "__version__",
    "as_backbone",
    "budget_lines",
    "bundle_structure",
    "calibrate",
    "check_data",
    "check_folder",
    "check_device",
    "check_format",
    "check_names",
    "check_precision",
    "check_quality",
    "closing_data",
    "closing_parts",
    "compare_runs",
    "compress",
    "cut_subnet",
    "describe_method",
    "describe_methods",
    "describe_target",
    "diagnose",
    "evaluate",
    "evaluate_subnets",
    "event_text",
    "export",
    "export_report",
    "finetune",
    "fresh_finetune_folder",
    "fresh_run_folder",
    "front_data",
    "front_parts",
    "get_method",
    "known_backbones",
    "list_formats",
    "list_methods",
    "list_targets",
    "load",
    "load_backbone",
    "load_bundle",
    "load_structure",
    "load_target",
    "load_uncompressed",
    "macs",
    "method_text",
    "methods_markdown",
    "not_built",
    "open_device",
    "parse_keep",
    "parse_options",
    "parse_resources",
    "plan_of",
    "predict",
    "printable",
    "profile",
    "profile_report",
    "quality_report",
    "read_options",
    "read_question",
    "register",
    "resume",
    "reuse_large_blocks",
    "search",
    "search_subnets",
    "serve_dashboard",
    "status_report",
    "torch_device",
    "train_supernet",
    "wait_asleep",
    "with_networks",
    "write_again",
    "write_bundle",
    "write_method_pages",
]

if TYPE_CHECKING:
    from autotok.api.arguments import parse_keep, parse_options, parse_resources, read_options
    from autotok.api.models import compress, evaluate, export, macs, profile
    from autotok.api.runs import resume, search
    from autotok.api.supernet import (
        SubnetQuestion,
        cut_subnet,
        evaluate_subnets,
        search_subnets,
        train_supernet,
    )
    from autotok.backbones.loading import (
        as_backbone,
        known_backbones,
        load_backbone,
        load_structure,
    )
    from autotok.compression.compress import with_networks
    from autotok.compression.model import CompressedViT
    from autotok.config import CompressionConfig, FineTuneSpec, Reduction, SubnetSpec
    from autotok.devices.device import open_device
    from autotok.devices.placing import check_device, torch_device
    from autotok.diagnosis import HealthCheck, diagnose
    from autotok.errors import AutotokError, ConfigError, DeviceUnreachable, UnknownName, printable
    from autotok.evaluation.allocator import reuse_large_blocks
    from autotok.evaluation.data import check_data
    from autotok.export.bundle import bundle_structure, load_bundle, load_uncompressed
    from autotok.export.formats import check_format, list_formats
    from autotok.interrupts import Interrupts
    from autotok.methods import (
        Kind,
        Option,
        Placement,
        Site,
        TokenReducer,
        Training,
        get_method,
        list_methods,
        register,
    )
    from autotok.methods.evidence import not_built
    from autotok.metrics import check_quality
    from autotok.names import check_precision
    from autotok.predicting.calibration import calibrate, plan_of
    from autotok.predicting.predict import predict
    from autotok.predicting.target import list_targets, load_target
    from autotok.report.catalog import describe_methods, describe_target, methods_markdown
    from autotok.report.closing import (
        budget_lines,
        closing_data,
        closing_parts,
        front_data,
        front_parts,
    )
    from autotok.report.dashboard import serve_dashboard
    from autotok.report.finetune_run import (
        FineTuneResult,
        finetune,
        fresh_finetune_folder,
        read_question,
    )
    from autotok.report.method_page import describe_method, method_text
    from autotok.report.method_pages import write_method_pages
    from autotok.report.model_report import (
        export_report,
        profile_report,
        quality_report,
        write_bundle,
    )
    from autotok.report.pages import write_again
    from autotok.report.run import Run, load
    from autotok.report.run_reports import compare_runs, status_report
    from autotok.searching.engines.base import Workers
    from autotok.searching.records.rundir import RunDirectory, fresh_run_folder
    from autotok.searching.running.asktell import AskTell
    from autotok.searching.running.events import Asked, Event, event_text
    from autotok.searching.running.question import Question, check_names
    from autotok.searching.space.settings import SearchSettings
    from autotok.supernet.evolution import EvolutionSettings
    from autotok.supernet.train import Progress
    from autotok.threads import wait_asleep
    from autotok.tokens import Needs, Taps, Tokens


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'autotok' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    if name == "export":
        value.__dict__ = vars(_EXPORT_ROOM)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
