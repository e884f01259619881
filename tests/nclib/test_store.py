"""The store: a recipe in, a run out, and nothing is ever lost."""

import errno
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors import safe_open
from tiny import TINY, assert_same_run, fit, folder, lasting, same_weights, weights

import nclib as nc
from nclib.measures.layers import first_pass
from nclib.training import epochs, store
from nclib.training.recipe import Recipe


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Everything that a long job tells, read when called."""
    monkeypatch.setenv("NCLIB_LOG", str(tmp_path / "log.txt"))
    return lambda: (tmp_path / "log.txt").read_text() if (tmp_path / "log.txt").exists() else ""


# Nothing is lost ----------------------------------------------------------------------------------


def test_same_recipe_same_result(tmp_path):
    a = fit(tmp_path / "a", training="trades")
    torch.manual_seed(99)  # the caller's random state plays no part, and is left alone
    expected = torch.rand(3)
    torch.manual_seed(99)
    b = fit(tmp_path / "b", training="trades")
    assert torch.equal(torch.rand(3), expected)
    assert_same_run(a.path, b.path)
    c = fit(tmp_path / "a", training="trades", seed=2)
    assert not same_weights(weights(a), weights(c))


def test_a_finished_run_is_loaded_not_trained(tmp_path, told, monkeypatch):
    first = fit(tmp_path)
    monkeypatch.setattr(store, "_train", None)
    second = fit(tmp_path)
    assert same_weights(first.model.state_dict(), second.model.state_dict())
    pd.testing.assert_frame_equal(first.history, second.history, check_exact=True)
    assert told().count("training on") == 1


KILLER = """
import json, os, signal, sys
import torch
import torch._dynamo  # what a first training would import, once for all children
import nclib.training.store, sklearn.datasets, sklearn.model_selection
import nclib as nc

torch.set_num_threads(1)
recipe, root, moments = nc.Recipe(**json.loads(sys.argv[1])), sys.argv[2], json.loads(sys.argv[3])
owners = {"replace": os, "fsync": os, "step": torch.optim.SGD}

def killing(real, n, late):
    def call(*args, **kwargs):
        nonlocal n
        n -= 1
        if n == 0 and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if n == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

def child(place, moment):
    pid = os.fork()
    if pid == 0:
        if moment:
            name, n, late = moment
            setattr(owners[name], name, killing(getattr(owners[name], name), n, late))
        nc.fit(recipe, root=f"{root}/{place}", device="cpu")
        os._exit(0)
    return os.waitpid(pid, 0)[1]

print(json.dumps([[child(i, m), child(i, None)] for i, m in enumerate(moments)]))
"""


def run_script(script, *words, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("NCLIB_LOG", None)
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.expensive
def test_a_run_killed_at_any_moment_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    """kill -9 before and after every rename of every file, half-way through a write, and in mid-epoch."""
    options = TINY | dict(training="adversarial", perturbations="stale", epochs=2, steps=1)
    replaced, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: replaced.append(Path(paths[1]).name) or replace(*paths))
    whole = fit(tmp_path / "whole", **options)
    monkeypatch.undo()
    kinds = {
        "state.safetensors",
        "model.safetensors",
        "recipe.json",
        "epoch-0000.safetensors",
        "stale-0001.safetensors",
    }
    assert kinds <= set(replaced)
    moments = [["replace", n + 1, late] for n in range(len(replaced)) for late in (False, True)]
    moments += [["fsync", 1, False], ["fsync", len(replaced) - 1, False], ["step", 1, True], ["step", 5, False]]
    killer = run_script(KILLER, json.dumps(options), tmp_path / "killed", json.dumps(moments))
    out, err = killer.communicate()
    assert json.loads(out) == [[9, 0]] * len(moments), err  # killed by signal 9, then finished
    for place in range(len(moments)):
        assert_same_run(tmp_path / "killed" / str(place) / whole.path.name, whole.path)


def test_a_killed_run_goes_on_and_does_not_start_again(tmp_path, told, monkeypatch):
    monkeypatch.setattr(store, "SAVE_EVERY", 0.0)
    options = dict(epochs=40, batch=100)
    epoch = 30
    assert epoch not in store.kept_epochs(40)  # between measurements the state is saved by the clock
    real = store.train_epoch

    def until(*args):
        if inspect.signature(real).bind(*args).arguments["epoch"] == epoch:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(store, "train_epoch", until)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", **options)
    monkeypatch.setattr(store, "train_epoch", real)
    run = fit(tmp_path / "a", **options)
    assert f"from epoch {epoch}" in told()
    assert_same_run(run.path, fit(tmp_path / "b", **options).path)


def test_training_without_momentum_resumes_too(tmp_path, monkeypatch):
    interrupted(tmp_path / "a", monkeypatch, momentum=0)
    assert_same_run(fit(tmp_path / "a", momentum=0).path, fit(tmp_path / "b", momentum=0).path)


def interrupted(root, monkeypatch, **options) -> Path:
    """A run that ended just before its last files were written: its folder."""
    with monkeypatch.context() as patch:
        patch.setattr(store, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(root, **options)
    return folder(root, **options)


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(where: float):
    def damage(content: bytes) -> bytes:
        spot = int(where * (len(content) - 1))
        return content[:spot] + bytes([content[spot] ^ 16]) + content[spot + 1 :]

    return damage


DAMAGE = {"truncated": truncate, "empty": lambda _: b"", "header": flip(0.01), "middle": flip(0.5), "last": flip(1.0)}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["state.safetensors", "epoch-0001.safetensors"])
def test_damaged_files_of_an_unfinished_run_are_never_trusted(tmp_path, told, monkeypatch, name, how):
    path = interrupted(tmp_path / "a", monkeypatch)
    content = (path / name).read_bytes()
    assert DAMAGE[how](content) != content
    (path / name).write_bytes(DAMAGE[how](content))
    run = fit(tmp_path / "a")
    assert f"{path / name} is damaged or missing: training starts again" in told()
    assert told().count("from epoch 0") == 2
    assert_same_run(run.path, fit(tmp_path / "b").path)


@pytest.mark.parametrize("how", [*DAMAGE, "gone"])
@pytest.mark.parametrize("name", ["model.safetensors", "epoch-0002.safetensors", "recipe.json"])
def test_damaged_files_of_a_finished_run_are_named_and_made_again(tmp_path, told, name, how):
    run = fit(tmp_path)
    good = {p.name: p.read_bytes() for p in run.path.glob("*.safetensors")}
    if how == "gone":
        (run.path / name).unlink()
    else:
        (run.path / name).write_bytes(DAMAGE[how]((run.path / name).read_bytes()))
    again = fit(tmp_path)
    harmless = name == "recipe.json" and how in ("middle", "gone", "header", "last")  # its words may change unseen
    if not harmless:
        assert f"{run.path / name} is damaged or missing" in told()
        assert told().count("training on") == 2
    assert {p.name: p.read_bytes() for p in again.path.glob("*.safetensors")} == good
    pd.testing.assert_frame_equal(lasting(run.history), lasting(again.history), check_exact=True)


@pytest.mark.parametrize("text", ["[]", "{}", '{"sha256": []}', '{"sha256": {}}', "null", "\x00"])
def test_a_record_that_makes_no_sense_is_no_record(tmp_path, told, text):
    run = fit(tmp_path)
    (run.path / "recipe.json").write_text(text)
    assert same_weights(weights(fit(tmp_path)), run.model.state_dict())
    assert told().count("training on") == 2


@pytest.mark.parametrize("there, damaged", [('"1": ', '"#": '), ('"0": ', '"4": '), ('"seconds"', '"secands"')])
def test_a_record_whose_epochs_are_none_is_made_again(tmp_path, told, there, damaged):
    """A flipped byte in what is read of it; the rest of its words may change unseen."""
    run = fit(tmp_path)
    record = (run.path / "recipe.json").read_text()
    (run.path / "recipe.json").write_text(record.replace(there, damaged, 1))
    assert len(fit(tmp_path).history) and told().count("training on") == 2


def test_two_processes_train_one_recipe_once(tmp_path, told, monkeypatch):
    """The second one is started, and has said that it waits, while the first one holds the run."""
    script = "import json, sys, nclib as nc; nc.fit(nc.Recipe(**json.loads(sys.argv[1])), sys.argv[2], 'cpu')"
    real, second = store._train, []

    def slowly(*args):
        second.append(run_script(script, json.dumps(TINY), tmp_path))
        assert "waiting for another process" in second[0].stderr.readline()
        real(*args)

    monkeypatch.setattr(store, "_train", slowly)
    fit(tmp_path)
    _, rest = second[0].communicate(timeout=60)
    assert second[0].returncode == 0, rest
    assert "training on" not in rest and told().count("training on") == 1


@pytest.mark.parametrize("options", [dict(lr=1e9, batch=20), dict(lr=1e3, weight_decay=1e38, batch=100)])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, options):
    """In the second case the only step's loss is still finite, the weights after it are not."""
    losses, real = [], epochs.batch_loss

    def listening(*args):
        loss, x_adv = real(*args)
        losses.append(loss.detach())
        return loss, x_adv

    monkeypatch.setattr(epochs, "batch_loss", listening)
    with pytest.raises(FloatingPointError) as caught:
        fit(tmp_path, **options)
    finite = torch.stack(losses).isfinite().tolist()
    step = 1 + finite.index(False) if options["batch"] == 20 else 1
    assert finite[: step - 1] == [True] * (step - 1) and (len(finite) == 5 or finite == [True])
    assert f"loss not finite at epoch 1, step {step}, learning rate {options['lr']:g};" in str(caught.value)
    path = folder(tmp_path, **options)
    assert not (path / "recipe.json").exists()
    with safe_open(path / "state.safetensors", "pt") as state:  # the last good state is there
        assert json.loads(state.metadata()["past"])["epoch"] == 0
        assert all(state.get_tensor(name).isfinite().all() for name in state.keys())  # noqa: SIM118


def test_a_full_disk_is_one_clear_line_and_loses_nothing(tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(1)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"disk full while writing state.safetensors: free some space") as caught:
        fit(tmp_path / "a")
    assert "\n" not in str(caught.value) and caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    path = folder(tmp_path / "a")
    assert not list(path.glob("*.part")) and (path / "state.safetensors").exists()
    assert_same_run(fit(tmp_path / "a").path, fit(tmp_path / "b").path)


def test_bad_choices_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="smallest class"):
        fit(tmp_path / "runs", per_class=5000)
    assert not (tmp_path / "runs").exists()


def test_the_record_of_a_finished_run(tmp_path):
    run = fit(tmp_path, training="trades")
    record = json.loads((run.path / "recipe.json").read_text())
    assert Recipe(**record["recipe"]) == run.recipe and record["key"] == run.recipe.key
    assert set(record["sha256"]) == {p.name for p in run.path.iterdir()} - {"recipe.json", "lock"}
    assert record["dtype"] == run.dtype == "float32" and record["versions"]["torch"] in torch.__version__
    assert run.path.name == f"{run.recipe.key}-float32" and run.epochs == store.kept_epochs(3)
    seconds = list(record["seconds"].values())
    assert seconds == sorted(seconds) and run.seconds == seconds[-1] > seconds[0] == 0


def test_what_changes_no_weight_trains_nothing(tmp_path, told):
    """Other test images, other views, another word for the precision: the same run."""
    first = fit(tmp_path, training="adversarial", perturbations="stale")
    for changes in (dict(test_per_class=7), dict(perturbations="fresh"), dict(precision="float32")):
        run = fit(tmp_path, training="adversarial", **changes)
        assert run.path == first.path and same_weights(weights(run), weights(first)), changes
    assert len(fit(tmp_path, training="adversarial", test_per_class=7).data.test) == 70
    assert told().count("training on") == 1


def test_a_run_that_kept_no_perturbations_is_trained_again_where_they_are_asked_for(tmp_path, told):
    fresh = fit(tmp_path, training="adversarial")
    before = weights(fresh)
    stale = fit(tmp_path, training="adversarial", perturbations="stale")
    assert "stale-0003.safetensors is damaged or missing: training starts again" in told()
    assert same_weights(weights(stale), before)
    with pytest.raises(ValueError, match="no stale perturbations were kept for epoch 0"):
        stale.stale(0)


def test_a_dtype_is_kept_apart_and_auto_takes_either(tmp_path, told):
    low = fit(tmp_path, precision="bfloat16")
    assert low.path.name.endswith("-bfloat16") and low.dtype == "bfloat16"
    assert fit(tmp_path).path == low.path  # digits would train in float32, but a run is there
    single = fit(tmp_path, precision="float32")
    assert single.dtype == "float32" and single.recipe.key == low.recipe.key
    assert not same_weights(weights(single), weights(low))
    assert fit(tmp_path).path == single.path  # of two, the one that fits the device
    assert told().count("training on") == 2


def test_bfloat16_trains_and_measures_in_float32(tmp_path):
    run = fit(tmp_path, training="adversarial", precision="bfloat16")
    assert all(p.dtype == torch.float32 for p in run.model.parameters())
    clean = nc.views(run.model, nc.load("digits", per_class=10), names=["clean"], precision="bfloat16")[0]
    measured = run.history.query("epoch == 3 and split == 'train' and view == 'clean' and measure == 'loss'").value
    assert measured.item() == pytest.approx(first_pass(run.model, clean, ["features"], 10).loss, rel=1e-6)
