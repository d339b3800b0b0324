"""Exports and imports weights as files: ``emojax weights COMMAND --flags``.

    export        --checkpoint=RUN --out=FILE.safetensors [--replica=NAME] [--step=STEP]
    import        --weights=FILE,FILE,... --out=RUN [--store=STORE]
    import_torch  --layout=rjcma --weights=FILE --config=rjcma:upstream --out=RUN
                  [--statistics=public] [--modalities=video,logmel,bert]
    layouts       [--layout=rjcma]

``export`` writes one self-contained file for each replica; ``import`` makes a folder of such
files that emojax.evaluate and emojax.predict open. ``import_torch`` does so with state dicts of
public PyTorch models; ``layouts`` lists their names beside those of emojax. A run of several
replicas takes --weights=valence=FILE,arousal=FILE. No command opens a file that could hold code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.table import Table

from emojax.commands import cli
from emojax.core.devices import use_compilation_cache
from emojax.core.session import build_session
from emojax.datasets.source import Store
from emojax.errors import InputError, closest
from emojax.exchange.run_weights import export_replica, import_replicas, read_replica
from emojax.exchange.torch_weights import STATISTICS, TorchReplica, import_torch
from emojax.models.torch_layouts import LAYOUTS
from emojax.prediction.trained_run import TrainedRun, open_run
from emojax.specs import STREAMS


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.string("checkpoint", "", "export: the --workdir of a training run.")
    define.integer("step", None, "export: the saved step; the latest by default.")
    define.string("replica", "", "export: one replica's name; all by default.")
    define.string("out", "", "export: the file; import, import_torch: the run's folder.")
    define.string("store", "", "import: store to evaluate on; can also be named later.")
    define.list(
        "weights", [], "import: files or a folder of them; import_torch: FILE, or REPLICA=FILE,..."
    )
    define.enum("layout", None, list(LAYOUTS), "import_torch: model of the state dicts.")
    define.enum(
        "statistics",
        "public",
        list(STATISTICS),
        "import_torch: normalisation of the features. public: as in the public code, one mean "
        "and deviation for each stream that passed no backbone; store: each column, by the "
        "training fold; identity: none.",
    )
    define.list(
        "modalities", [], "import_torch: the streams' names there, in config.data.streams' order."
    )
    define.config("import_torch: configuration of the model.")


def export(given: flags.FlagValues) -> None:
    """Writes the best weights of every replica, or of the one that is named."""
    run = open_run(_needed(given, "checkpoint"), given.step)
    names = run.session.names
    if given.replica and given.replica not in names:
        raise InputError(
            "The run has no replica of this name.",
            field="--replica",
            found=given.replica,
            expected="one of " + ", ".join(names),
            remedy=closest(given.replica, names),
        )
    out = Path(_needed(given, "out"))
    chosen = [given.replica] if given.replica else list(names)
    table = _table("replica", "file", "MB")
    for name in chosen:
        path = out if len(chosen) == 1 else out.with_name(f"{out.stem}-{_slug(name)}{out.suffix}")
        size = export_replica(run, names.index(name), path)
        table.add_row(name, str(path), f"{size / 1e6:.2f}")
    cli.console(asked=True).print(table)


def import_(given: flags.FlagValues) -> None:
    """Makes a run folder from exported files."""
    use_compilation_cache()
    paths: list[Path] = []
    for name in _parts(given.weights):
        path = Path(name)
        paths += sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not paths:
        raise _needs("weights", "a file that export wrote, several, or a folder of them")
    out = cli.folder("out", _needed(given, "out"))
    _tell(import_replicas([read_replica(path) for path in paths], out, given.store))


def import_state_dicts(given: flags.FlagValues) -> None:
    """Makes a run folder from PyTorch state dicts, and prints where each tensor went."""
    use_compilation_cache()
    layout, out = _needed(given, "layout"), cli.folder("out", _needed(given, "out"))
    files = _named_files(_parts(given.weights))
    if given["config"].value is None:
        raise _needs("config", f"a configuration of configs/{LAYOUTS[layout].model}.py")
    config = cli.read_config(given)
    store = Store(config.data.store) if config.data.store else None
    session = build_session(config, store.streams if store else STREAMS)
    run, replicas = import_torch(
        session,
        layout,
        files,
        out,
        statistics=given.statistics,
        modalities=tuple(_parts(given.modalities)),
        store=store,
    )
    for replica in replicas:
        _report(replica)
    _tell(run)


def layouts(given: flags.FlagValues) -> None:
    """Prints the name maps."""
    for name, layout in LAYOUTS.items():
        if given.layout not in (None, name):
            continue
        table = _table("there", "here", "form", title=f"{name}: {layout.source}")
        for rule in layout.rules:
            path = f"subtracted from {rule.path}" if rule.subtract else rule.path
            table.add_row("\n".join(rule.names), path, rule.transform)
        for pattern, reason in layout.unused.items():
            table.add_row(pattern, f"not used: {reason}", "")
        cli.console(asked=True).print(table, markup=False)


COMMANDS = {
    "export": export,
    "import": import_,
    "import_torch": import_state_dicts,
    "layouts": layouts,
}


def main(given: flags.FlagValues, *arguments: str) -> None:
    """Runs the command that was named, with the flags that were given."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        raise InputError(
            "Name one command.",
            field="command",
            found=" ".join(arguments) or "nothing",
            expected="one of " + ", ".join(COMMANDS),
            remedy=closest(arguments[0], COMMANDS) if arguments else "see --help",
        )
    COMMANDS[arguments[0]](given)


def _needs(flag: str, expected: str) -> InputError:
    return InputError(
        "The command needs one more flag.", field=f"--{flag}", found="nothing", expected=expected
    )


def _needed(given: flags.FlagValues, flag: str) -> str:
    if not given[flag].value:
        raise _needs(flag, str(given[flag].help))
    return str(given[flag].value)


def _parts(values: Sequence[str]) -> list[str]:
    return [part.strip() for part in values if part.strip()]


def _named_files(values: Sequence[str]) -> dict[str, str]:
    """Parses --weights=FILE or --weights=NAME=FILE,...: replica name ("" for any) -> file."""
    files: dict[str, str] = {}
    for text in values:
        # A file's own name may hold "=".
        name, equals, path = ("", "", text) if Path(text).exists() else text.partition("=")
        name, path = (name, path) if equals else ("", text)
        if name in files:
            raise InputError(
                "Two state dicts are for the same replica.",
                field="--weights",
                found=f"{files[name]} and {path}",
                expected="REPLICA=FILE for each of them, such as valence=FILE,arousal=FILE",
            )
        files[name] = path
    if not files:
        raise _needs("weights", "a state dict, as .safetensors or .npz")
    return files


def _report(replica: TorchReplica) -> None:
    """Prints the outcome of importing one state dict."""
    weights = replica.weights
    table = _table("there", "here", title=f"{replica.replica}: {replica.path}")
    for name, paths in weights.taken.items():
        table.add_row(name, "\n".join(paths))
    for path in weights.missing:
        table.add_row("missing", f"{path}: keeps its initial values; this replica does not use it")
    reasons: dict[str, list[str]] = {}
    for name, reason in weights.unused.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        table.add_row(_few(names), f"not used: {reason}")
    console = cli.console()
    console.print(table, markup=False)
    console.print(
        f"{len(weights.taken)} taken, {len(weights.missing)} missing, "
        f"{len(weights.unused)} not used",
        highlight=False,
    )


def _few(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _tell(run: TrainedRun) -> None:
    flag = "" if run.store_path else " --store=STORE"
    cli.console().print(
        f"{len(run.session.replicas)} replica(s) of {run.session.config.model['name']} "
        f"({', '.join(run.session.names)}): {run.workdir}\n"
        f"emojax evaluate --checkpoint={run.workdir}{flag}",
        highlight=False,
        soft_wrap=True,
    )


def _slug(name: str) -> str:
    """Turns a replica's name into a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name)


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


COMMAND = cli.Command(main, define_flags, arguments=True)

if __name__ == "__main__":
    COMMAND.run()
