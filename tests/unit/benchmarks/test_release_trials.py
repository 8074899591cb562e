"""The mistakes of the release trials, against the templates as they are."""

from __future__ import annotations

import pytest

from benchmarks.release_trials import TRIALS, Trial
from kintsugi.core.fleet import REPOSITORY


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_each_mistake_fits_the_template_that_it_changes(trial: Trial) -> None:
    assert (REPOSITORY / trial.path).read_text().count(trial.old) == 1
