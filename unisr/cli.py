"""The command `unisr`. Exit codes: 0 done, 1 an error that the message on stderr explains, 2 wrong usage, 130
interrupted."""

from __future__ import annotations

import importlib
import json
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from unisr.errors import UnisrError, UnknownNameError, told

if TYPE_CHECKING:
    from unisr.config import RunConfig
    from unisr.report.store import Run


class _Commands(TyperGroup):
    """Errors that a user can mend become one message and an exit code, without a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UnisrError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        except ValidationError as error:
            typer.echo("\n".join(f"error: {line}" for line in _problems(error)), err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on from what is stored", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            if (message := told(error)) is None:
                raise
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Benchmark of models that unify search and recommendation.",
)  # fmt: skip


def _choices(name: str, values: tuple[str, ...]) -> type[Enum]:
    """An enumeration typer offers and checks as choices."""
    return Enum(name, {v: v for v in values}, type=str)


PresetName = _choices("PresetName", ("quick", "small", "full", "paper"))
CandidateName = _choices("CandidateName", ("uniform", "popularity", "hard", "full"))
HistoryName = _choices("HistoryName", ("clean", "released"))
ModeName = _choices("ModeName", ("reuse", "overwrite", "only-cached"))
DeviceName = _choices("DeviceName", ("cpu", "cuda"))
BenchName = _choices("BenchName", ("data", "raw", "ranking", "layouts", "decoding", "optimizers"))

Json = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON value on the last line.")]
Data = Annotated[str, typer.Option("--data", "-d", help="Dataset (see `unisr datasets`).")]
PresetOption = Annotated[PresetName, typer.Option("--preset", "-p", help="How much is trained.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes side by side on this machine.")]
Cluster = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler, as 10.0.0.1:8786; its workers train.")
]


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods: name, family, tasks, paper."""
    from unisr import registry

    cards = [cls.card for cls in registry.methods().values()]
    if as_json:
        typer.echo(json.dumps([card.as_dict() for card in cards]))
        return
    _table([("method", "family", "tasks", "paper"), *((c.name, c.family, ", ".join(c.tasks), c.paper) for c in cards)])


@app.command()
def datasets(as_json: Json = False) -> None:
    """List the datasets: name, queries, description."""
    from unisr.data.sources import sources

    found = [source.as_dict() for source in sources().values()]
    if as_json:
        typer.echo(json.dumps(found))
        return
    names = ("name", "queries", "description", "licence", "origin")
    _table([names, *(tuple(source[n] for n in names) for source in found)])


@app.command()
def prepare(
    dataset: str,
    folder: Annotated[Path | None, typer.Option("--from", help="Folder with the source's own files.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch or read a dataset and store its tables; tell its counts, the papers', and what each filter left."""
    from unisr.data import load_dataset
    from unisr.data.counts import compare, table

    told = compare(load_dataset(dataset, folder=folder))
    if as_json:
        typer.echo(json.dumps(told))
        return
    typer.echo(f"{told['dataset']} is prepared: {', '.join(f'{k} {v:,}' for k, v in told['counts'].items())}")
    if told["filters"] or told["paper"]:
        _table(table(told))
    for sentence in told["differences"]:
        typer.echo(sentence)


@app.command()
def run(
    method: str,
    data: Data = "ml-100k",
    preset: PresetOption = PresetName.small,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    candidates: CandidateName = CandidateName.uniform,
    histories: HistoryName = HistoryName.clean,
    max_users: Annotated[int | None, typer.Option(min=2, help="Keep a sample of this many users.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="model.FIELD=VALUE or training.FIELD=VALUE; may be repeated."),
    ] = None,
    mode: ModeName = ModeName.reuse,
    device: Annotated[DeviceName | None, typer.Option(help="Default: UNISR_DEVICE, else a GPU, else CPU.")] = None,
    max_steps: Annotated[
        int | None,
        typer.Option("--max-steps", min=1, help="A dry run: so many steps, few users, speeds told, nothing stored."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train and rank METHOD, or reload its stored run."""
    import unisr

    config = _config(
        method, settings or [], dataset=data, preset=preset.value, seed=seed, candidates=candidates.value,
        histories=histories.value, **({} if max_users is None else {"max_users": max_users}),
    )  # fmt: skip
    on = device.value if device else None
    if max_steps is not None:
        from unisr.benchmarks.dry_run import dry_run

        told = dry_run(config, max_steps, device=on)
        typer.echo(json.dumps(told.as_dict()) if as_json else told.text())
        return
    made = unisr.run(config, mode=mode.value, device=on)
    typer.echo(json.dumps(_result(made)) if as_json else _text(made))


@app.command()
def reproduce(
    preset: PresetOption = PresetName.small,
    data: Data = "ml-100k",
    only: Annotated[str | None, typer.Option(help="Notebooks by number or name, as 00,02; default all.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods by name, with commas; default all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per method, with seeds 0, 1, …")] = 1,
    jobs: Jobs = 2,
    cluster: Cluster = None,
    runs_only: Annotated[bool, typer.Option("--runs-only", help="Leave out notebooks and report.")] = False,
    study: Annotated[
        str | None, typer.Option(help="The runs of one study alone: ablation, sensitivity, identifiers, aggregators.")
    ] = None,
) -> None:
    """Run all methods, execute the notebooks and write the report; stored runs are reused."""
    from unisr.reproduce import reproduce as work

    summary = work(
        preset.value, dataset=data, only=only.split(",") if only else None, seeds=seeds, jobs=jobs,
        methods=methods.split(",") if methods else None, runs_only=runs_only, study=study, cluster=cluster,
    )  # fmt: skip
    typer.echo(str(summary))
    if summary.failures:
        raise typer.Exit(1)


@app.command()
def tune(
    methods: Annotated[list[str] | None, typer.Argument(help="Methods by name; default all that are trained.")] = None,
    data: Data = "ml-100k",
    preset: PresetOption = PresetName.small,
    trials: Annotated[int, typer.Option(min=1, help="Trainings per method, the preset's own settings first.")] = 5,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    variants: Annotated[bool, typer.Option("--variants", help="GEMS' comparators too, each on its own.")] = False,
    jobs: Jobs = 2,
    cluster: Cluster = None,
) -> None:
    """Search learning rate, weight decay and dropout on validation, with one space and budget for every method."""
    from unisr.tuning import trainable, tune_all

    outcomes = tune_all(
        methods or trainable(), with_variants=variants, dataset=data, preset=preset.value, trials=trials, seed=seed,
        jobs=jobs, cluster=cluster,
    )  # fmt: skip
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def report(
    readme: Annotated[bool, typer.Option("--readme", help="Renew README's picture and table too.")] = False,
) -> None:
    """Write tables, figures and results/index.html from stored runs."""
    from unisr.reproduce import report as work

    typer.echo(f"report: {work(readme=readme)}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context, name: BenchName) -> None:
    """Measure speed: `data` (histories and candidates, events/s), `raw` (official files at full size to tables and
    batches: seconds, GB, examples/s), `ranking` (users/s and rows/s of GenSR's paths), `layouts` (GenSR joint
    against packed: quality and rows/s on real data), `decoding` (ids along a trie against transformers' generate,
    users/s) or `optimizers` (GEMS against AdamW: seconds a step, bytes of state)."""
    # Benchmarks are scripts too and read their own options from the command line.
    sys.argv = [f"unisr bench {name.value}", *context.args]
    importlib.import_module(f"unisr.benchmarks.{name.value}").main()


def _config(method: str, settings: list[str], **fields: Any) -> RunConfig:
    """The config of a `run` command; each setting is `model.FIELD=VALUE` or `training.FIELD=VALUE`, and a field of
    settings within settings `training.FIELD.FIELD=VALUE`."""
    from unisr import registry
    from unisr.config import RunConfig, TrainConfig

    kinds = {"model": registry.method(method).Config, "training": TrainConfig}
    parts: dict[str, dict[str, Any]] = {part: {} for part in kinds}
    for setting in settings:
        path, equals, text = setting.partition("=")
        part, dot, field = path.strip().partition(".")
        if not equals or not dot or part not in kinds:
            raise typer.BadParameter(f"--set {setting!r}: write model.FIELD=VALUE or training.FIELD=VALUE")
        field, *inner = field.split(".")
        if field not in kinds[part].model_fields:
            raise UnknownNameError(f"{part} setting", field, kinds[part].model_fields)
        _put(parts[part], [field, *inner], _value(text))
    return RunConfig(method=method, **parts, **fields)


def _put(settings: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a value in dictionaries within dictionaries."""
    *outer, last = path
    for name in outer:
        settings = settings.setdefault(name, {})
    settings[last] = value


def _value(text: str) -> Any:
    """A JSON value, `none`, or else the text itself."""
    if text.strip().lower() in ("none", "null"):
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text.strip()


def _problems(error: ValidationError) -> list[str]:
    """One line per wrong value: where, what is allowed, what was given."""
    return [f"setting {'.'.join(map(str, e['loc']))}: {e['msg']} (given: {e['input']!r})" for e in error.errors()]


def _result(made: Run) -> dict[str, Any]:
    """What `unisr run --json` prints; seconds of the whole run, and of its parts."""
    from unisr.evaluation import METRICS, describe_protocol

    config, cost = made.config, made.cost
    return {
        "config_id": config.config_id,
        "dataset": config.dataset,
        "method": config.method,
        "preset": config.preset,
        "protocol": describe_protocol(
            config, made.environment.counts, seeds=[config.seed], device=made.environment.device
        ),
        "seed": config.seed,
        "metrics": {task: {m: row[m] for m in METRICS} for task, row in made.metrics.items()},
        "seconds": cost.seconds.total,
        "train_seconds": cost.seconds.train,
        "evaluate_seconds": cost.seconds.evaluate,
        "peak_memory_mb": cost.peak_memory_mb,
        "epochs": cost.epochs,
        "parameters": cost.parameters,
        "device": made.environment.device,
        "folder": str(made.folder),
    }


def _text(made: Run) -> str:
    from unisr.data.schema import TASK_TITLES
    from unisr.evaluation import METRICS

    result, config, cost = _result(made), made.config, made.cost
    rows = [("", *METRICS)]
    rows += [(TASK_TITLES[task], *(f"{row[m]:.4f}" for m in METRICS)) for task, row in result["metrics"].items()]
    head = f"{config.method} on {config.dataset}, preset {config.preset}, seed {config.seed} ({result['config_id']})"
    tail = f"{cost.epochs} epochs, {cost.seconds.total:.1f} s, {cost.peak_memory_mb:.0f} MB · {made.folder}"
    return "\n".join([head, result["protocol"], *_lines(rows), tail])


def _table(rows: list[tuple[str, ...]]) -> None:
    typer.echo("\n".join(_lines(rows)))


def _lines(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
