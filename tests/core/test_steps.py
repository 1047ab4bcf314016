"""Long work ends with whoever runs it."""

from __future__ import annotations

import pytest

from napari_samseg.core.steps import map_steps, run_steps
from napari_samseg.core.types import Progress


class Work:
    """Counts how often it was started and ended."""

    n_running = 0

    def steps(self):
        self.n_running += 1
        try:
            for i in range(9):
                yield Progress("working", i)
        finally:
            self.n_running -= 1
        return "done"


def stop(step):
    raise KeyboardInterrupt


def test_the_work_ends_before_an_error_is_seen():
    work = Work()
    with pytest.raises(KeyboardInterrupt) as caught:
        run_steps(work.steps(), stop)
    assert caught.tb is not None  # the steps are still referred to
    assert work.n_running == 0


def test_a_part_of_the_work_ends_with_the_whole():
    work = Work()
    part = work.steps()
    whole = map_steps(part, lambda step: Progress("all", step.done))
    assert next(whole).stage == "all"
    whole.close()
    assert work.n_running == 0
    assert run_steps(map_steps(work.steps(), lambda step: step)) == "done"
