"""Measures through a training: what the kept weights say, measured once, kept beside the run."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import fit, lasting, same_weights, weights
from torch import nn

import nclib as nc
from nclib.measures import history as histories
from nclib.training import store

# The history --------------------------------------------------------------------------------------


def test_history_is_tidy_and_complete(tmp_path):
    run = fit(tmp_path, training="adversarial", epochs=5)
    assert list(run.history) == ["epoch", "split", "view", "measure", "value"]
    assert not run.history.duplicated(["epoch", "split", "view", "measure"]).any()
    assert run.epochs == store.kept_epochs(5) == sorted(set(run.history.epoch))
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


def test_kept_epochs():
    for epochs in (1, 2, 7, 100, 400):
        found = store.kept_epochs(epochs)
        assert found[:2] == [0, 1] and found[-1] == epochs and len(found) <= 13
        assert found == sorted(set(found))
    gaps = np.diff(np.log(store.kept_epochs(400)[4:]))
    assert gaps.max() < 1.6 * gaps.min()  # log-spaced, up to rounding


def test_fresh_and_stale_perturbations(tmp_path):
    fresh, stale = (fit(tmp_path, training="adversarial", perturbations=p) for p in ("fresh", "stale"))
    assert same_weights(weights(fresh), weights(stale))
    a, b = lasting(fresh.history), lasting(stale.history)
    differ = a.merge(b, on=["epoch", "split", "view", "measure"]).query("value_x != value_y")
    assert set(zip(differ.split, differ.view)) - {("test", "untargeted")} == {("train", "untargeted")}
    assert set(differ.epoch) == {1, 2, 3}  # before training there is nothing stale
    loss = stale.history.query("epoch == 3 and split == 'train' and view == 'untargeted' and measure == 'loss'")
    assert np.isfinite(loss.value.item())


# Measured once, and trained never -----------------------------------------------------------------


def test_measures_are_kept_and_a_new_version_measures_anew_without_training(tmp_path, monkeypatch):
    first = fit(tmp_path, training="adversarial")
    expected, measured, real = first.history, [], histories._measured
    monkeypatch.setattr(histories, "_measured", lambda run, epoch, s: measured.append(epoch) or real(run, epoch, s))
    monkeypatch.setattr(store, "_train", None)
    pd.testing.assert_frame_equal(fit(tmp_path, training="adversarial").history, expected, check_exact=True)
    assert measured == []
    monkeypatch.setattr(histories, "VERSION", histories.VERSION + 1)
    pd.testing.assert_frame_equal(fit(tmp_path, training="adversarial").history, expected)
    assert measured == [0, 1, 2, 3]


def test_an_interrupted_measuring_goes_on(tmp_path, monkeypatch):
    expected = fit(tmp_path / "a").history
    run, real, measured = fit(tmp_path / "b"), histories._measured, []

    def until(run, epoch, settings):
        if epoch == 2 and 2 not in measured:
            measured.append(epoch)
            raise KeyboardInterrupt
        measured.append(epoch)
        return real(run, epoch, settings)

    monkeypatch.setattr(histories, "_measured", until)
    with pytest.raises(KeyboardInterrupt):
        nc.history(run)
    pd.testing.assert_frame_equal(lasting(nc.history(run)), lasting(expected), check_exact=True)
    assert measured == [0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-20], lambda b: b.replace(b"0.", b"1.", 1), lambda b: b"", lambda b: b[:9]]
)
def test_damaged_measures_are_named_and_made_again(tmp_path, monkeypatch, capsys, spoil):
    monkeypatch.delenv("NCLIB_LOG", raising=False)
    run = fit(tmp_path)
    expected = run.history
    (file,) = (run.path / "measures").glob("*.csv")
    file.write_bytes(spoil(file.read_bytes()))
    pd.testing.assert_frame_equal(nc.history(run), expected, check_exact=True)
    assert f"{file} is damaged: not used" in capsys.readouterr().err


def test_other_views_splits_and_budgets_are_measures_of_their_own(tmp_path):
    run = fit(tmp_path)
    noisy = nc.history(run, views=["clean", "sign"], split="test", epsilon=0.3)
    assert set(noisy.view) == {"clean", "sign"} and set(lasting(noisy).split) == {"test"}
    weak, strong = (nc.history(run, views=["clean", "untargeted"], epsilon=e) for e in (0.01, 0.4))
    last = "epoch == 3 and split == 'train' and view == 'untargeted' and measure == 'angle'"
    assert weak.query(last).value.item() < strong.query(last).value.item()
    again = nc.history(run, views=["clean", "untargeted"], epsilon=0.4)
    pd.testing.assert_frame_equal(again, strong, check_exact=True)


def test_the_history_of_a_standard_network_under_attack_is_what_attacking_its_weights_gives(tmp_path):
    run = fit(tmp_path)
    history = nc.history(run, views=["clean", "untargeted"], split="train")
    options = dict(names=["clean", "untargeted"], epsilon=0.2, step=0.05, steps=2, seed=1)
    by_hand = nc.collapse(run.at(2), nc.views(run.at(2), run.data, **options))
    found = lasting(history).query("epoch == 2").drop(columns="epoch").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, by_hand[found.columns], check_exact=True)
