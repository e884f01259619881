"""Certified bounds of affine forms over the predicates of a ``stars.Star``: linear programs, and what spares them."""

from math import inf

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

SLACK = 1e-9  # by which a program's bound is moved outwards and every proof must hold: far above what rounding loses
TOGETHER = 3000  # predicates of the programs that are solved in one call


def maximise(star, forms: np.ndarray, enough: float = -inf) -> np.ndarray:
    """Upper bounds (n,) of affine forms (n, 1 + p) of the predicates over the star: optimal, and certified.

    For finite multipliers y >= 0 every w.a is at most y.d plus the maximum of (w - A'y).a over the box: the bound,
    whichever y a solver gives. Of the newest predicates the multipliers of upper faces are known: the positive parts of
    w. Of the rest, only predicates that a form can reach through rows matter, its cone. Where a program fails the
    bound of the box stands. A form gets no program where one line for each predicate shows that it stays below
    ``enough``: that bound is certified too, and not optimal.
    """
    found = _by_box(star, forms)
    if enough > -inf:
        found = np.minimum(found, _by_lines(star, forms))
        open_ = found >= enough
        found[open_] = maximise(star, forms[open_])
        return found
    forms, rows = _settled(star, forms)
    A, d, owner = star.A[rows], star.d[rows], star.owner[rows]
    cones, step = forms[:, 1:] != 0, _step(A, owner)
    while (wider := cones | ((cones @ step) > 0)).sum() > cones.sum():
        cones = wider
    kept, sizes = cones[:, owner], cones.sum(1)
    closed = ~kept.any(1)
    found[closed] = np.minimum(found, _by_box(star, forms))[closed]
    low, high, todo = star.lower.numpy(), star.upper.numpy(), np.flatnonzero(~closed)
    star.counts["programs"] += len(todo)
    for part in np.split(todo, np.flatnonzero(np.diff(np.cumsum(sizes[todo]) // TOGETHER)) + 1) if len(todo) else []:
        bound = _solve(forms[part], A, d, low, high, cones[part], kept[part])
        star.counts["failed"] += int(np.isinf(bound).sum())
        found[part] = np.minimum(found[part], bound + SLACK)
    return found


def _by_box(star, forms: np.ndarray) -> np.ndarray:
    """Upper bounds (n,) of forms by the predicates' box alone."""
    low, high = star.lower.numpy(), star.upper.numpy()
    return forms[:, 0] + np.maximum(forms[:, 1:] * low, forms[:, 1:] * high).sum(1)


def _by_lines(star, forms: np.ndarray) -> np.ndarray:
    """Upper bounds (n,) of forms where every predicate gives way to one of its lines, the newest first: CROWN's bounds
    (Zhang et al. 2018), with the star's own slopes."""
    forms = forms.copy()
    for rows in reversed(star.lines):
        owner = star.owner[rows]
        push = np.maximum(forms[:, 1 + owner] * star.A[rows, owner], 0)
        forms[:, 0] += push @ star.d[rows]
        forms[:, 1:] -= push @ star.A[rows]
    return _by_box(star, forms) + SLACK


def _settled(star, forms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Forms after every step that is known beforehand, and the rows that are left: a predicate that no other row names
    goes, where the form rises with it, to its upper face, or, where it has none, to the end of its box."""
    A, newest, above = star.A.tocoo(), np.ones(star.predicates, dtype=bool), np.zeros(len(star.owner), dtype=bool)
    own = A.col == star.owner[A.row]
    newest[A.col[~own]] = False
    newest[np.setdiff1d(np.arange(star.predicates), star.owner)] = False
    above[A.row[own]] = A.data[own] > 0
    face = above & newest[star.owner]
    push = np.maximum(forms[:, 1 + star.owner[face]], 0)
    forms = forms + np.concatenate([(push @ star.d[face])[:, None], -(push @ star.A[face])], axis=1)
    newest[star.owner[face]] = False
    free = 1 + np.flatnonzero(newest)
    forms[:, 0] += np.maximum(forms[:, free], 0) @ star.upper.numpy()[free - 1]
    forms[:, free] = np.minimum(forms[:, free], 0)
    return forms, np.flatnonzero(~face)


def _step(A: csr_array, owner: np.ndarray) -> csr_array:
    """From a predicate to those that its own rows name: (p, p)."""
    entries = A.tocoo()
    return csr_array((np.ones(A.nnz, dtype=np.float32), (owner[entries.row], entries.col)), shape=(A.shape[1],) * 2)


def _solve(forms, A, d, low, high, cones, kept) -> np.ndarray:
    """Certified bounds of some forms, their cones' programs solved as one, side by side; inf where that fails."""
    entries = A.tocoo()
    form, entry = np.nonzero(kept[:, entries.row])
    column, row = (np.cumsum(mask).reshape(mask.shape) - 1 for mask in (cones, kept))
    places = (row[form, entries.row[entry]], column[form, entries.col[entry]])
    size = (int(kept.sum()), int(cones.sum()))
    block = csr_array((entries.data[entry], places), shape=size)
    (of_row, at_row), (of_column, at_column) = np.nonzero(kept), np.nonzero(cones)
    w, limit = forms[:, 1:][cones], d[at_row]
    bounds = np.stack([low[at_column], high[at_column]], axis=1)
    done = linprog(-w, block, limit, bounds=bounds, method="highs-ds", options={"presolve": False})
    if done.status != 0:
        return np.full(len(forms), inf)
    y = np.maximum(-done.ineqlin.marginals, 0)
    y[~np.isfinite(y)] = 0  # no multiplier at all is one, too
    rest = w - block.T @ y
    box = np.maximum(rest * bounds[:, 0], rest * bounds[:, 1])
    count = len(forms)
    bound = forms[:, 0] + np.bincount(of_row, y * limit, count) + np.bincount(of_column, box, count)
    return np.where(np.isfinite(bound), bound, inf)
