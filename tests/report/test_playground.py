"""The panel is driven by its widgets alone; a training there is the run that `unisr.run` makes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import unisr
from tests.report.stored import CLOCKS
from unisr import background, registry
from unisr.background import Background, Busy, Done, Epochs, Event, Failed, Steps, Stopped
from unisr.config import RunConfig
from unisr.errors import StoreError
from unisr.report import playground, store
from unisr.report.controls import NONE
from unisr.report.inspect import Inspector
from unisr.report.playground_panel import Panel
from unisr.report.store import Run
from unisr.run import build_scorer, prepare_inputs

PLACE = {"dataset": "synthetic", "preset": "quick"}
LONG = 300.0


class Script:
    """Stands in for `Background`: keeps what is started and lets the test tell the events."""

    def __init__(self) -> None:
        self.started: list[tuple[Callable[..., Any], dict[str, Any]]] = []
        self.listener: Callable[[Event], None] | None = None
        self.stopped = self.warmed = 0

    @property
    def busy(self) -> bool:
        return self.listener is not None

    def start(self, function: Callable[..., Any], listener: Callable[[Event], None], **arguments: Any) -> None:
        if self.busy:
            raise Busy("at work")
        self.started.append((function, arguments))
        self.listener = listener

    def stop(self) -> None:
        self.stopped += 1
        self.tell(Stopped())

    def warm(self) -> None:
        self.warmed += 1

    def tell(self, *events: Event) -> None:
        for event in events:
            listener = self.listener
            assert listener
            if isinstance(event, Done | Failed | Stopped):
                self.listener = None
            listener(event)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A stored run of the quick preset; results of this module have a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNISR_RESULTS", str(tmp_path_factory.mktemp("playground")))
        yield unisr.run(RunConfig(method="TEM", **PLACE))


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def panel(run: Run, script: Script) -> Panel:
    return Panel(run, script, user=3)


def inside(box: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    """The widgets of a box in the order of Tab."""
    return [w for child in box.children for w in (inside(child) if isinstance(child, ipywidgets.Box) else [child])]


def tell_end(script: Script, panel: Panel, **changes: Any) -> None:
    """Answer the ranking that is asked for."""
    (_, arguments) = script.started[-1]
    script.tell(Done({**playground.ranking(**arguments), **changes}))


# Controls.


def test_the_first_view_is_a_finished_run(panel: Panel, script: Script) -> None:
    assert panel.config() == panel.first and not script.started
    assert "<svg" in panel.curves.value and "aria-label" in panel.curves.value
    assert "TEM" in panel.table.value and "user 3" in panel.ranking.value and "before training" in panel.ranking.value
    assert "is stored and will be read" in panel.plan.value


def test_every_control_is_reached_by_the_keyboard_and_named(panel: Panel) -> None:
    panel.all.value = True
    held = [w for w in inside(panel.box) if not isinstance(w, ipywidgets.HTML | ipywidgets.FloatProgress)]
    plain = ipywidgets.Button | ipywidgets.Checkbox | ipywidgets.Dropdown | ipywidgets.SelectionSlider
    assert all(isinstance(w, plain) and w.description and w.tabbable is not False for w in held)
    assert len({w.description for w in held}) == len(held)
    order = [w.description for w in held]
    assert order[0] == "method" and order[-2:] == ["user", "task"]
    assert order.index("users") < order.index("learning_rate") < order.index("layers") < order.index("Train")


@pytest.mark.parametrize("method", [name for name, m in registry.methods().items() if "quick" in m.presets])
def test_each_method_can_be_chosen(run: Run, panel: Panel, method: str) -> None:
    panel.settable.data["max_users"].value = 50
    panel.method.value = method
    assert panel.config() == RunConfig(method=method, max_users=50, **PLACE)
    assert method in panel.plan.value


def test_knobs_and_switches_stand_in_view_and_all_settings_on_demand(panel: Panel) -> None:
    panel.method.value = "GenSR"
    first = {w.description for w in inside(panel.settings)}
    assert {"temperature", "beta", "history", "backbone.layers", "learning_rate", "users", "filter", "contrastive",
            "query"} <= first  # fmt: skip
    assert "item_tokens" not in first
    panel.all.value = True
    everything = [w for w in inside(panel.settings) if not isinstance(w, ipywidgets.HTML)]
    assert everything == panel.settable.widgets()


def test_settings_that_do_not_go_together_are_told_and_not_trained(panel: Panel, script: Script) -> None:
    panel.method.value = "GenSR"
    panel.settable.model["semantic_unit"].value = "token"
    panel.settable.model["slots"].value = "sequence"
    assert "needs slots" in panel.plan.value
    panel.train.click()
    assert "needs slots" in panel.status.value and not script.started


# Training, by a script.


def test_train_starts_what_the_controls_say(panel: Panel, script: Script) -> None:
    panel.settable.model["dropout"].value = 0.3
    panel.again.value = True
    assert "dropout=0.3, on 200 users, seed 0, will be trained" in panel.plan.value
    panel.train.click()
    ((function, arguments),) = script.started
    assert function is background.train and arguments["mode"] == "overwrite"
    assert RunConfig.model_validate(arguments["config"]) == panel.config()


def test_pressing_train_twice_is_refused(panel: Panel, script: Script) -> None:
    panel.train.click()
    panel.train.click()
    assert len(script.started) == 1 and "at work" in panel.status.value and not panel.train.disabled


def test_steps_move_the_bar_and_epochs_the_curves(run: Run, panel: Panel, script: Script) -> None:
    panel.method.value = "UniSAR"
    panel.train.click()
    script.tell(Steps("UniSAR", 5, 20))
    assert panel.bar.value == 0.25 and panel.status.value == "UniSAR: 5 of 20 steps"
    drawn = panel.curves.value
    row = {"epoch": 1, "loss": 0.5, "loss_rec": 0.2, "validation_rec_NDCG@10": 0.125, "validation_src_NDCG@10": 0.25}
    script.tell(Epochs("LightGCN", [row]))
    assert panel.curves.value == drawn, "the curves are those of the method asked for"
    script.tell(Epochs("UniSAR", [row, {**row, "epoch": 2, "loss": 0.25}]))
    assert "loss, loss: 0.2500 after epoch 2" in panel.curves.value and "search: 0.2500" in panel.curves.value


def test_a_failure_shows_its_message(panel: Panel, script: Script) -> None:
    panel.train.click()
    script.tell(Failed("training diverged <at> epoch 1", "File x"))
    assert "training diverged &lt;at&gt; epoch 1" in panel.status.value and "<details>" in panel.status.value
    assert panel.bar.bar_style == "danger"
    panel.train.click()
    assert len(script.started) == 2 and panel.bar.bar_style == ""


def test_stop_says_what_is_kept(panel: Panel, script: Script) -> None:
    panel.stop.click()
    assert "Nothing is at work" in panel.status.value and script.stopped == 0
    panel.train.click()
    script.tell(Epochs("TEM", [{"epoch": 1, "loss": 1.0}]))
    panel.stop.click()
    assert script.stopped == 1 and "1 epochs are kept" in panel.status.value and not script.busy


def test_a_finished_run_stands_in_the_table_and_its_ranking_follows(run: Run, panel: Panel, script: Script) -> None:
    panel.train.click()
    script.tell(Done(str(run.folder)))
    assert panel.runs == [run] and "▶ TEM" in panel.table.value and "is done" in panel.status.value
    assert script.started[-1][0] is playground.ranking
    tell_end(script, panel)
    assert panel.ranking.value == playground.ranking(run.config.model_dump(), 3, "src")["html"] and not script.busy
    panel.train.click()
    script.tell(Done(str(run.folder)))
    assert len(panel.runs) == 1, "the same run once"


def test_a_user_chosen_while_something_is_at_work_follows(run: Run, panel: Panel, script: Script) -> None:
    panel.train.click()
    panel.user.value = 5
    assert len(script.started) == 1 and "follows" in panel.ranking.value
    script.tell(Failed("no"))
    assert script.started[-1][1]["user"] == 5
    panel.user.value = 6
    tell_end(script, panel)
    assert script.started[-1][1]["user"] == 6, "what was asked for last is shown"
    tell_end(script, panel)
    assert "user 6" in panel.ranking.value and not script.busy


def test_a_ranking_that_fails_is_told(panel: Panel, script: Script) -> None:
    panel.user.value = 5
    script.tell(Failed("no weights are stored"))
    assert "no weights are stored" in panel.ranking.value


def test_a_user_outside_the_slice_gives_way_to_the_first_inside(run: Run, panel: Panel, script: Script) -> None:
    users = panel.user.options
    panel.user.value = 5
    tell_end(script, panel, user=7, users=[7, 9])
    assert panel.user.value == 7 and panel.user.options == (("7", 7), ("9", 9)) != users and not script.busy


def test_the_page_without_a_browser_is_short(panel: Panel, script: Script) -> None:
    assert panel._repr_mimebundle_()["text/plain"] == "playground of synthetic" and script.warmed == 0


# Views.


def test_the_ranking_before_and_after_is_that_of_the_built_and_of_the_stored_weights(run: Run) -> None:
    found = playground.ranking(run.config.model_dump(mode="json"), 3, "src")
    inputs = prepare_inputs(run.config)
    desk = Inspector(build_scorer(run.config, "cpu"), inputs.dataset, inputs.candidates, inputs.histories)
    assert found["before"] == desk.view(3, "src").rank and found["after"] == Inspector.of(run).view(3, "src").rank
    rows = run.per_query
    assert found["after"] == rows[(rows["user"] == 3) & (rows["task"] == "src")]["rank"].item()
    assert Inspector.of(run).view(3, "src").target in found["html"] and found["user"] == 3
    other = playground.ranking(run.config.model_dump(), 10**6, "rec")
    assert (other["user"], other["task"], other["asked"]) == (other["users"][0], "src", [10**6, "rec"])


def test_a_run_without_weights_has_a_message_in_place_of_the_ranking(run: Run, script: Script) -> None:
    config = run.config.model_copy(update={"seed": 3})
    bare = unisr.run(config)
    (bare.folder / store.WEIGHTS).unlink()
    with pytest.raises(StoreError, match="no weights"):
        playground.ranking(config.model_dump(), 3, "src")
    assert "no weights" in playground.ranking_html(config, 3, "src")
    assert "no weights" in Panel(store.load(bare.folder), script).ranking.value
    shutil.rmtree(bare.folder)


def test_curves_are_the_log_in_long_form() -> None:
    log = [{"epoch": 1, "loss": 3.0, "loss_rec": 2.0, "loss_beta": 1.0, "validation_src_NDCG@10": 0.5,
            "validation_src_MRR": 0.1}]  # fmt: skip
    frame = playground.curves(log)
    assert list(frame.itertuples(index=False, name=None)) == [
        ("loss", "loss", 1, 3.0), ("loss", "rec", 1, 2.0), ("loss", "beta", 1, 1.0),
        ("validation NDCG@10", "search", 1, 0.5),
    ]  # fmt: skip
    assert len(playground.curves_figure(frame, title="t").data) == 4
    assert playground.curves([]).empty and playground.curves_svg(playground.curves([])) == "<p>No epoch yet.</p>"


def test_the_table_compares_with_the_preset_on_the_same_users(run: Run) -> None:
    unisr.run(RunConfig(method="Popularity", **PLACE))
    changed = unisr.run(RunConfig(method="Lexical", **PLACE, model={"b": 0.0}))
    few = unisr.run(RunConfig(method="Lexical", **PLACE, model={"b": 0.0}, max_users=50))
    frame = playground.beside(run.config, [few, changed])
    assert frame["run"].tolist() == ["▶ Lexical", "▶ Lexical", "Popularity", "TEM"]
    assert frame["settings"].tolist() == ["b=0", "b=0", "preset", "preset"]
    assert frame["search against preset"].tolist() == ["not stored", "not stored", "", ""]
    preset = unisr.run(RunConfig(method="Lexical", **PLACE))
    told = playground.beside(run.config, [changed])["search against preset"].iloc[0]
    means = [r.metrics["src"]["NDCG@10"] for r in (changed, preset)]
    assert float(told.split()[0]) == pytest.approx(means[0] - means[1], abs=5e-5)
    low, high = map(float, told[told.index("(") + 1 : -1].split(" to "))
    assert low <= means[0] - means[1] <= high


# Training, in truth.


def test_a_background_training_is_the_foreground_run_bit_for_bit(run: Run) -> None:
    """While this process draws random numbers and trains another run."""
    work = Background()
    panel = Panel(run, work, user=3)
    panel.settable.model["dropout"].value = 0.3
    panel.settable.training["epochs"].value = 2
    seen: list[float] = []
    panel.bar.observe(lambda change: seen.append(change["new"]), names="value")
    config = panel.config()
    panel.train.click()
    unisr.run(RunConfig(method="TEM", seed=1, **PLACE))
    while panel.work.busy:
        torch.rand(1)
        work.wait(0.05)
    assert work.wait(LONG) and "is done" in panel.status.value, panel.status.value
    assert "user 3" in panel.ranking.value and any(0 < value < 1 for value in seen)
    made = parts(panel.runs[0])
    assert panel.runs[0].config == config and threading.active_count() < 20
    again = unisr.run(config, mode="overwrite")
    for ours, theirs in zip(made, parts(again), strict=True):
        if isinstance(ours, pd.DataFrame):
            pd.testing.assert_frame_equal(ours, theirs)
        else:
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)

    panel.settable.data["max_users"].value = NONE
    stale(panel.config())
    panel.train.click()
    assert work.wait(LONG) and "mode overwrite" in panel.status.value, panel.status.value
    work.close()


def parts(run: Run) -> tuple[Any, ...]:
    return run.per_query, run.losses.drop(columns=CLOCKS), load_file(run.folder / store.WEIGHTS)


def stale(config: RunConfig) -> None:
    """Put a checkpoint of other code in the way of a run."""
    folder = store.folder_of(config).with_name(f"{store.folder_of(config).name}.partial") / "epoch-0001"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"owner": "other code"}')
