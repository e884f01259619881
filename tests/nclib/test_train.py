"""Training: what a step costs, what the options change, and that nothing is ever lost."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nclib as nc
from nclib import train
from nclib.compute import choose
from nclib.layers import first_pass
from nclib.recipe import Recipe

TINY = dict(epochs=3, per_class=10, test_per_class=5, width=4, batch=40, steps=2)
ROOT = Path(__file__).parents[1]


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Everything that a long job tells, read when called."""
    monkeypatch.setenv("NCLIB_LOG", str(tmp_path / "log.txt"))
    return lambda: (tmp_path / "log.txt").read_text() if (tmp_path / "log.txt").exists() else ""


def fit(root, **options):
    return nc.fit(Recipe(**TINY | options), root=root, device="cpu")


def weights(run):
    return load_file(run.path / "model.safetensors")


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def lasting(history: pd.DataFrame) -> pd.DataFrame:
    return history[history.measure != "seconds"].reset_index(drop=True)


def assert_same_run(path: Path, other: Path):
    """Weights, snapshots and history bit for bit, seconds aside, and nothing left over."""
    files = sorted(p.name for p in path.iterdir() if p.name != "lock")
    assert files == sorted(p.name for p in other.iterdir() if p.name != "lock")
    assert not [name for name in files if name.endswith(".part") or name.startswith("state")]
    for name in files:
        if name.endswith(".safetensors"):
            assert (path / name).read_bytes() == (other / name).read_bytes(), name
    pd.testing.assert_frame_equal(
        lasting(pd.read_csv(path / "history.csv")), lasting(pd.read_csv(other / "history.csv")), check_exact=True
    )


# What a step costs --------------------------------------------------------------------------------


@pytest.mark.parametrize("training, forwards, units", [("standard", 1, 3), ("adversarial", 11, 23), ("trades", 13, 27)])
def test_no_work_is_wasted(training, forwards, units):
    """Forward-units of one step: a forward pass is 1, a backward to the input 1, one to input and weights 2.

    Counted in multiply-adds of convolutions and matrix products, so a backward that went to the weights during the
    attack would show. A training pass does not need the gradient of its own input: one stem less for each.
    """
    recipe = Recipe(training=training)
    data = nc.load("digits", per_class=2)
    model = train.network(recipe, data).train()
    x, y = data.train
    calls = []
    model.head.register_forward_hook(lambda *_: calls.append(1))
    with FlopCounterMode(display=False) as bare, torch.no_grad():
        model(x)
    with FlopCounterMode(display=False) as stem, torch.no_grad():
        model.stem(x)
    calls.clear()
    with FlopCounterMode(display=False) as counter:
        loss, _ = train.batch_loss(model, recipe, x, y, torch.Generator().manual_seed(0))
        loss.backward()
    trained = 2 if training == "trades" else 1
    assert len(calls) == forwards
    assert counter.get_total_flops() == units * bare.get_total_flops() - trained * stem.get_total_flops()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("training", ["standard", "adversarial", "trades"])
def test_every_weight_learns_in_low_precision(training):
    """The attack's passes run under the same autocast as the update: no cached, detached weight may reach it."""
    recipe = Recipe(training=training, steps=2)
    data = nc.load("digits", per_class=2)
    model = train.network(recipe, data).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = train.batch_loss(model, recipe, *data.train, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# What the options change --------------------------------------------------------------------------


def modes_in_a_step(**options):
    recipe = Recipe(steps=2, **options)
    data = nc.load("digits", per_class=2)
    model = train.network(recipe, data)
    seen = []
    model.head.register_forward_hook(lambda *_: seen.append(model.training))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train._epoch(model, optimizer, recipe, data, choose("float32", "cpu"), 0, None)
    return seen


def test_batch_norm_mode_during_the_attack():
    assert modes_in_a_step(training="adversarial") == [False, False, True]
    assert modes_in_a_step(training="adversarial", attack_batchnorm="train") == [True, True, True]
    assert modes_in_a_step(training="trades") == [False, False, False, True, True]
    assert modes_in_a_step(training="trades", attack_batchnorm="train") == [True, True, True, True, True]
    assert modes_in_a_step(training="trades", trades_batchnorm="published") == [False] * 5
    released = dict(trades_batchnorm="published", attack_batchnorm="train")
    assert modes_in_a_step(training="trades", **released) == [False] * 5


def test_published_trades_never_trains_its_batch_norm(tmp_path):
    published, fixed = (fit(tmp_path, training="trades", trades_batchnorm=b) for b in ("published", "fixed"))
    for name, tensor in weights(published).items():
        if "running_mean" in name:
            assert torch.equal(tensor, torch.zeros_like(tensor)) and weights(fixed)[name].abs().max() > 0.01
        if "running_var" in name:
            assert torch.equal(tensor, torch.ones_like(tensor)) and (weights(fixed)[name] - 1).abs().max() > 0.01


def test_statistics_averaged_anew(tmp_path):
    plain, again = (fit(tmp_path, training="adversarial", reestimate=r) for r in (False, True))
    a, b = weights(plain), weights(again)
    for name in a:
        assert torch.equal(a[name], b[name]) != ("running" in name or "tracked" in name), name
    x, _ = nc.load("digits", per_class=10).train
    h = again.model.stem(again.model.normalize(x))  # what enters the first batch norm
    torch.testing.assert_close(b["block1.bn1.running_mean"], h.mean((0, 2, 3)))
    torch.testing.assert_close(b["block1.bn1.running_var"], h.var((0, 2, 3)))
    # The batches are of one size: a short last one would count too much.
    model = train.network(Recipe(), nc.load("digits"))
    images, before = nc.load("digits").train.images[:720], [m.training for m in model.modules()]
    train.reestimate_statistics(model, images, batch=500)
    h = model.stem(model.normalize(images)).mean((0, 2, 3))
    torch.testing.assert_close(model.block1.bn1.running_mean, h)
    assert [m.training for m in model.modules()] == before and model.block1.bn1.momentum == 0.1


def test_fresh_and_stale_perturbations(tmp_path):
    fresh, stale = (fit(tmp_path, training="adversarial", perturbations=p) for p in ("fresh", "stale"))
    assert same_weights(weights(fresh), weights(stale))
    a, b = lasting(fresh.history), lasting(stale.history)
    differ = a.merge(b, on=["epoch", "split", "view", "measure"]).query("value_x != value_y")
    assert set(zip(differ.split, differ.view)) - {("test", "untargeted")} == {("train", "untargeted")}
    assert set(differ.epoch) == {1, 2, 3}  # before training there is nothing stale
    loss = stale.history.query("epoch == 3 and split == 'train' and view == 'untargeted' and measure == 'loss'")
    assert np.isfinite(loss.value.item())


def test_learning_rate_falls_at_a_quarter_and_at_three_eighths(tmp_path, monkeypatch):
    rates, step = [], torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a: rates.append(self.param_groups[0]["lr"]) or step(self, *a)
    )
    fit(tmp_path, epochs=16, batch=100)
    np.testing.assert_allclose(rates, [0.1] * 4 + [0.01] * 2 + [0.001] * 10)
    paper = Recipe(epochs=400)
    assert [train.learning_rate(paper, e) for e in (99, 100, 149, 150)] == pytest.approx([0.1, 0.01, 0.01, 0.001])


# The history --------------------------------------------------------------------------------------


def test_history_is_tidy_and_complete(tmp_path):
    run = fit(tmp_path, training="adversarial", epochs=5)
    assert list(run.history) == ["epoch", "split", "view", "measure", "value"]
    assert not run.history.duplicated(["epoch", "split", "view", "measure"]).any()
    assert run.epochs == train.measured_epochs(5) == sorted(set(run.history.epoch))
    for epoch in run.epochs:
        for split in ("train", "test"):
            for view in ("clean", "untargeted"):
                rows = (run.history.epoch == epoch) & (run.history.split == split) & (run.history.view == view)
                needed = {"loss", "accuracy", "nc1", "equinorm", "equiangle", "nc3", "nc4", "cdnv"}
                assert needed <= set(run.history[rows].measure)
    seconds = run.history.query("measure == 'seconds'")
    assert list(seconds.epoch) == run.epochs and seconds.value.is_monotonic_increasing
    assert run.seconds == seconds.value.iloc[-1] > 0
    standard = fit(tmp_path)
    assert set(standard.history.view) == {"clean"}  # standard training knows no attack


def test_history_says_what_the_model_does(tmp_path):
    run = fit(tmp_path, epochs=5)
    data = nc.load("digits", per_class=10, test_per_class=5)
    for split in ("train", "test"):
        x, y = getattr(data, split)
        for epoch, model in [(5, run.model), *((e, run.at(e)) for e in run.epochs)]:
            rows = (run.history.epoch == epoch) & (run.history.split == split)
            row = run.history[rows].set_index("measure").value
            with torch.no_grad():
                logits = model(x)
            assert row.accuracy == pytest.approx(float((logits.argmax(1) == y).float().mean()), abs=1e-6)
            assert row.loss == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-5)
    assert same_weights(run.at(5).state_dict(), run.model.state_dict()) and not run.model.training
    assert run.device == torch.device("cpu")
    with pytest.raises(ValueError, match="epoch 9 was not kept; choose one of 0, 1, 2, 3, 4, 5"):
        run.at(9)


def test_measured_epochs():
    for epochs in (1, 2, 7, 100, 400):
        found = train.measured_epochs(epochs)
        assert found[:2] == [0, 1] and found[-1] == epochs and len(found) <= 13
        assert found == sorted(set(found))
    gaps = np.diff(np.log(train.measured_epochs(400)[4:]))
    assert gaps.max() < 1.6 * gaps.min()  # log-spaced, up to rounding


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
    monkeypatch.setattr(train, "_train", None)
    second = fit(tmp_path)
    assert same_weights(first.model.state_dict(), second.model.state_dict())
    pd.testing.assert_frame_equal(first.history, second.history, check_exact=True)
    assert told().count("training on") == 1


KILLER = """
import json, os, signal, sys
import torch
import torch._dynamo  # what the first optimiser would import, once for all children
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


def test_a_run_killed_at_any_moment_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    """kill -9 before and after every rename of every file, half-way through a write, and in mid-epoch."""
    options = TINY | dict(training="adversarial", epochs=2, steps=1)
    replaced, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: replaced.append(Path(paths[1]).name) or replace(*paths))
    whole = fit(tmp_path / "whole", **options)
    monkeypatch.undo()
    kinds = {"state.safetensors", "model.safetensors", "history.csv", "recipe.json", "epoch-0000.safetensors"}
    assert kinds <= set(replaced)
    moments = [["replace", n + 1, late] for n in range(len(replaced)) for late in (False, True)]
    moments += [["fsync", 1, False], ["fsync", len(replaced) - 1, False], ["step", 1, True], ["step", 5, False]]
    killer = run_script(KILLER, json.dumps(options), tmp_path / "killed", json.dumps(moments))
    out, err = killer.communicate()
    assert json.loads(out) == [[9, 0]] * len(moments), err  # killed by signal 9, then finished
    for place in range(len(moments)):
        assert_same_run(tmp_path / "killed" / str(place) / whole.path.name, whole.path)


def test_a_killed_run_goes_on_and_does_not_start_again(tmp_path, told, monkeypatch):
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    options = dict(epochs=40, batch=100)
    epoch = 30
    assert epoch not in train.measured_epochs(40)  # between measurements the state is saved by the clock
    real = train._epoch

    def until(*args):
        if args[5] == epoch:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train, "_epoch", until)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", **options)
    monkeypatch.setattr(train, "_epoch", real)
    run = fit(tmp_path / "a", **options)
    assert f"from epoch {epoch}" in told()
    assert_same_run(run.path, fit(tmp_path / "b", **options).path)


def test_training_without_momentum_resumes_too(tmp_path, monkeypatch):
    interrupted(tmp_path / "a", monkeypatch, momentum=0)
    assert_same_run(fit(tmp_path / "a", momentum=0).path, fit(tmp_path / "b", momentum=0).path)


def interrupted(root, monkeypatch, **options) -> Path:
    """A run that ended just before its last files were written: its folder."""
    with monkeypatch.context() as patch:
        patch.setattr(train, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(root, **options)
    return root / Recipe(**TINY | options).key


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
@pytest.mark.parametrize("name", ["model.safetensors", "history.csv", "epoch-0002.safetensors", "recipe.json"])
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


def test_two_processes_train_one_recipe_once(tmp_path, told, monkeypatch):
    """The second one is started, and has said that it waits, while the first one holds the run."""
    script = "import json, sys, nclib as nc; nc.fit(nc.Recipe(**json.loads(sys.argv[1])), sys.argv[2], 'cpu')"
    real, second = train._train, []

    def slowly(*args):
        second.append(run_script(script, json.dumps(TINY), tmp_path))
        assert "waiting for another process" in second[0].stderr.readline()
        real(*args)

    monkeypatch.setattr(train, "_train", slowly)
    fit(tmp_path)
    _, rest = second[0].communicate(timeout=60)
    assert second[0].returncode == 0, rest
    assert "training on" not in rest and told().count("training on") == 1


@pytest.mark.parametrize("options", [dict(lr=1e9, batch=20), dict(lr=1e3, weight_decay=1e38, batch=100)])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, options):
    """In the second case the only step's loss is still finite, the weights after it are not."""
    losses, real = [], train.batch_loss

    def listening(*args):
        loss, x_adv = real(*args)
        losses.append(loss.detach())
        return loss, x_adv

    monkeypatch.setattr(train, "batch_loss", listening)
    with pytest.raises(FloatingPointError) as caught:
        fit(tmp_path, **options)
    finite = torch.stack(losses).isfinite().tolist()
    step = 1 + finite.index(False) if options["batch"] == 20 else 1
    assert finite[: step - 1] == [True] * (step - 1) and (len(finite) == 5 or finite == [True])
    assert f"loss not finite at epoch 1, step {step}, learning rate {options['lr']:g};" in str(caught.value)
    path = tmp_path / Recipe(**TINY | options).key
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
    path = tmp_path / "a" / Recipe(**TINY).key
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
    assert "float32" in record["precision"] and record["environment"]["versions"]["torch"] in torch.__version__


def test_bfloat16_trains_and_measures_in_float32(tmp_path):
    run = fit(tmp_path, training="adversarial", precision="bfloat16")
    assert all(p.dtype == torch.float32 for p in run.model.parameters())
    clean = nc.views(run.model, nc.load("digits", per_class=10), names=["clean"], precision="bfloat16")[0]
    measured = run.history.query("epoch == 3 and split == 'train' and view == 'clean' and measure == 'loss'").value
    assert measured.item() == pytest.approx(first_pass(run.model, clean, ["features"], 10).loss, rel=1e-6)
