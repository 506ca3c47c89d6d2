"""The playground's panel: controls, a button that trains in the background, curves that grow, and what came out.

It works with the keyboard alone: Tab goes through the controls in the order they are read, arrow keys move sliders and
menus, Space presses. Buttons are never disabled, since a disabled button loses the keyboard's place; pressing one that
cannot act says why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import ipywidgets
from pydantic import ValidationError

from unisr import background, registry
from unisr.background import Background, Busy, Done, Epochs, Event, Failed, Steps, Stopped
from unisr.config import RunConfig
from unisr.errors import UnisrError
from unisr.progress import interactive
from unisr.report import playground, store
from unisr.report.controls import Settable, changes, held, menu, slider
from unisr.report.playground import message
from unisr.report.store import Run
from unisr.report.widgets import side_by_side, table

KNOBS = {"temperature", "beta", "history", "rec_history", "src_history", "length", "layers", "learning_rate", "epochs"}
"""Numbers that stand in view at once, beside the model's switches; the others come with `all settings`."""


def _in_turn(method: Callable[..., None]) -> Callable[..., None]:
    """A method of `Panel` that waits for the others: the reader's events and the background's come in two threads."""

    @wraps(method)
    def turn(self: Panel, *args: Any) -> None:
        with self._turn:
            method(self, *args)

    return turn


class Panel:
    """Controls and results; show it as the last value of a cell.

    Args:
        run: a stored run, shown first; its dataset and preset are those of every run made here.
        user: whose ranking is shown; 0 takes the first that has a target.

    `train` starts the run that the controls say, in the background: one at a time, pressing again while one is at work
    is refused in words. A run that is stored already is read, unless `again` is ticked. `stop` ends it at once; the
    store keeps the last finished epoch, and the same settings go on from there. The methods that a method requires are
    trained first; that shows as progress only.
    """

    def __init__(self, run: Run, work: Background | None = None, *, user: int = 0) -> None:
        self.work = work or Background()
        self.first, self.shown = run.config, run
        self.runs: list[Run] = []
        self._asked: RunConfig = run.config
        self._epochs = 0
        self._turn = threading.RLock()
        self._filling, self._rank_waits = False, False
        self.settable: Settable | None = None
        self._make_controls(user)
        self._make_results()
        self._fill(run.config.method)
        self.curves.value = playground.curves_svg(playground.curves(run.losses))
        self._tabulate()
        self._rank_here()

    def _make_controls(self, user: int) -> None:
        preset = self.first.preset
        names = [name for name, method in registry.methods().items() if preset in method.presets]
        self.method = menu("method", names, self.first.method)
        self.all = ipywidgets.Checkbox(description="all settings", indent=False)
        self.again = ipywidgets.Checkbox(description="train again even if stored", indent=False)
        self.train = ipywidgets.Button(description="Train", button_style="primary", icon="play")
        self.stop = ipywidgets.Button(description="Stop", icon="stop")
        self.settings = ipywidgets.VBox()
        self.plan = ipywidgets.HTML()
        self.user = slider("user", [user], user)
        self.task = menu("task", ["rec"], "rec")
        self.method.observe(lambda change: self._fill(change["new"]), names="value")
        self.all.observe(lambda _: self._arrange(), names="value")
        self.again.observe(lambda _: self._announce(), names="value")
        self.train.on_click(lambda _: self._train())
        self.stop.on_click(lambda _: self._stop())
        for control in (self.user, self.task):
            control.observe(lambda _: self._rank(), names="value")

    def _make_results(self) -> None:
        self.bar = ipywidgets.FloatProgress(max=1.0, description="progress", layout={"width": "390px"})
        self.status = ipywidgets.HTML(message("Choose settings and press Train."))
        self.curves, self.table, self.ranking = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.box = ipywidgets.VBox([
            self.method, self.settings, self.all, self.plan, _row(self.train, self.stop, self.again),
            _row(self.bar, self.status), self.curves, self.table, _row(self.user, self.task), self.ranking,
        ])  # fmt: skip

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        self._warm()
        return self.box._repr_mimebundle_(**kwargs) | {"text/plain": f"playground of {self.first.dataset}"}

    def _warm(self) -> None:
        """With a reader at hand, have the background process load its libraries before it is asked for."""
        if interactive():
            self.work.warm()

    def config(self) -> RunConfig:
        """What the controls say. Raises `pydantic.ValidationError` for values that do not go together."""
        return self.settable.config()

    # Controls.

    def _fill(self, method: str) -> None:
        """The controls of a method at its preset's values; users and seed stay as chosen."""
        kept = {"dataset": self.first.dataset, "preset": self.first.preset, "histories": self.first.histories}
        data = self.settable.data if self.settable else {}
        chosen = {name: held(control) for name, control in data.items()}
        base = self.first if not chosen else RunConfig(method=method, **kept, **chosen)
        self.settable = Settable(base)
        for control in self.settable.widgets():
            control.observe(lambda _: self._announce(), names="value")
        self._arrange()
        self._announce()

    def _arrange(self) -> None:
        """Data, training and model under each other; without `all settings` only the knobs and switches."""
        groups = {"Data": self.settable.data, "Training": self.settable.training, "Model": self.settable.model}
        boxes = []
        for title, controls in groups.items():
            shown = [w for path, w in controls.items() if self.all.value or title == "Data" or _in_view(path, w, title)]
            boxes += [ipywidgets.HTML(f"<b>{title}</b>"), _row(*shown)] if shown else []
        self.settings.children = boxes

    def _announce(self) -> None:
        """Say what Train would do."""
        try:
            config = self.config()
            stored = store.find(config) is not None
        except (ValidationError, UnisrError) as error:
            self.plan.value = message(_words(error))
            return
        does = "is stored and will be read" if stored and not self.again.value else "will be trained"
        settings = changes(config) or "the settings of its preset"
        data = f"{config.max_users or 'all'} users, seed {config.seed}"
        self.plan.value = message(f"{config.method} with {settings}, on {data}, {does}.")

    # Training.

    @_in_turn
    def _train(self) -> None:
        try:
            config = self.config()
            mode = "overwrite" if self.again.value else "reuse"
            self.work.start(background.train, self._hear_training, config=config.model_dump(mode="json"), mode=mode)
        except (ValidationError, UnisrError) as error:
            self.status.value = message(_words(error))
            return
        self._asked, self._epochs = config, 0
        self.bar.value, self.bar.bar_style = 0.0, ""
        self.status.value = message(f"{config.method}: starting")

    def _stop(self) -> None:
        if self.work.busy:
            self.work.stop()
        else:
            self.status.value = message("Nothing is at work.")

    @_in_turn
    def _hear_training(self, event: Event) -> None:
        match event:
            case Steps(name, done, total):
                self.bar.value = done / total if total else 0.0
                # No live region: a screen reader would read every step.
                self.status.value = f"{name}: {done} of {total or '?'} steps{self._so_far()}"
            case Epochs(name, rows) if name == self._asked.method:
                self._epochs = len(rows)
                self.curves.value = playground.curves_svg(playground.curves(rows))
            case Done(folder):
                self._finish(store.load(Path(folder)))
            case Stopped():
                self._end("warning", f"Stopped; {self._kept()}.")
                self._warm()
            case Failed(text, trace):
                self._end("danger", f"It failed: {text}", details=trace)

    def _so_far(self) -> str:
        return f", {self._epochs} of {self._asked.training.epochs} epochs done" if self._epochs else ""

    def _kept(self) -> str:
        if not self._epochs:
            return "no epoch was done"
        return f"{self._epochs} epochs are kept, and Train with the same settings goes on from there"

    def _end(self, style: str, text: str, *, details: str = "") -> None:
        self.bar.bar_style = style
        self.status.value = message(text, details=details)
        self._announce()
        if self._rank_waits:
            self._rank()

    def _finish(self, run: Run) -> None:
        self.shown = run
        self.runs = [run, *(r for r in self.runs if r.folder != run.folder)]
        self.bar.value = 1.0
        self.curves.value = playground.curves_svg(playground.curves(run.losses))
        self._tabulate()
        self._rank_waits = True
        self._end("success", f"{run.config.method} is done: {run.cost.epochs} epochs, {run.cost.seconds.train:.0f} s "
                             "of training.")  # fmt: skip

    def _tabulate(self) -> None:
        frame = playground.beside(self.shown.config, self.runs)
        caption = f"{self.first.dataset}, preset {self.first.preset}; ▶ made here"
        self.table.value = side_by_side(table(frame, caption=caption))  # which scrolls where settings are long

    # One user's ranking.

    @_in_turn
    def _rank(self) -> None:
        """Have the ranking made in the background; while a training is at work it follows that one."""
        if self._filling:
            return
        shown = self.shown.config.model_dump(mode="json")
        try:
            self.work.start(
                playground.ranking, self._hear_ranking, config=shown, user=self.user.value, task=self.task.value
            )  # fmt: skip
            self._rank_waits = False
            self.ranking.value = message("ranking …")
        except Busy:
            self._rank_waits = True
            self.ranking.value = message("Something is at work; the ranking of this user follows when it is done.")

    def _rank_here(self) -> None:
        """The first view, made in this process, so that it is there without a browser."""
        try:
            found = playground.ranking(self.shown.config.model_dump(), self.user.value, self.task.value)
        except UnisrError as error:
            self.ranking.value = message(str(error))
            return
        self._show_ranking(found)

    @_in_turn
    def _hear_ranking(self, event: Event) -> None:
        match event:
            case Done(found) if found["asked"] == [self.user.value, self.task.value]:
                self._show_ranking(found)
            case Done():
                self._rank()
            case Stopped():
                self.ranking.value = message("Stopped; choose a user again.")
            case Failed(text, trace):
                self.ranking.value = message(text, details=trace)

    def _show_ranking(self, found: dict[str, Any]) -> None:
        """The ranking, and the users and tasks that this run has."""
        self._filling = True
        try:
            _offer(self.task, list(playground.tasks_of(self.shown.config.method).items()), found["task"])
            _offer(self.user, [(str(user), user) for user in found["users"]], found["user"])
        finally:
            self._filling = False
        self.ranking.value = found["html"]


def _row(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Widgets beside each other, wrapping on a narrow screen."""
    return ipywidgets.HBox(children, layout={"flex_flow": "row wrap"})


def _offer(control: Any, options: Sequence[tuple[str, Any]], value: Any) -> None:
    """Give a control other options, unless it has them (a control that is rebuilt loses the keyboard's place)."""
    if list(control.options) != list(options):
        control.options = options
    control.value = value


def _in_view(path: str, widget: ipywidgets.Widget, title: str) -> bool:
    switch = isinstance(widget, ipywidgets.Checkbox | ipywidgets.Dropdown) and "." not in path and title == "Model"
    return switch or path.rpartition(".")[2] in KNOBS


def _words(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors())
